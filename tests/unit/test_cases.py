"""What is due in cases against a node's own work, and what is remembered of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from gpumarket.protocol.cases import (
    CLOSED_BLOCKS,
    HISTORY_BLOCKS,
    PATIENCE_BLOCKS,
    Cases,
    KnownCase,
    forget_closed,
    list_open,
    list_pushes,
    note_case,
    rewind_cases,
)
from gpumarket.protocol.ids import ZERO_HASH, Hash32
from gpumarket.protocol.juries import CaseRecord
from gpumarket.protocol.openings import Place
from gpumarket.testing.factories import make_address, make_hash

ME = make_address("provider")
RESPONSE, PATIENCE, DEADLINE, DRAW_BLOCK, DELAY = 300, 30, 10_000, 50, 4
SEED_BLOCK = DRAW_BLOCK + DELAY
RECORD = CaseRecord(
    case=7,
    place=Place(
        coordinator=make_address("coordinator"),
        sequence=0,
        posted_at=9_000,
        lane=0,
        index=0,
        requester=make_address("alice"),
        payee=ME,
        lane_amount=0,
    ),
    receipt_hash=make_hash("receipt"),
    price=0,
    stake_held=5,
    eligible=6,
    level=0,
    verdict=0,
    is_posted=False,
    draw_block=DRAW_BLOCK,
    deadline=0,
    jury_hash=ZERO_HASH,
    voters_hash=ZERO_HASH,
    parties=(),
)


@dataclass
class Fact:
    name: str
    args: dict[str, Any]
    block: int
    log_index: int = 0
    tx_hash: Hash32 = ZERO_HASH


def find_step(
    *, passed: int = 0, since: int = 0, seated: bool = True, **changes: Any
) -> str | None:
    """Return the step that is due so many blocks after the seed, so long after the deadline."""
    record = replace(RECORD, **changes)
    if seated:
        record = replace(record, jury_hash=make_hash("jury"), deadline=DEADLINE)
    pushes = list_pushes(
        [record],
        cases={7: KnownCase(opened=DRAW_BLOCK)},
        block=SEED_BLOCK + passed,
        now=DEADLINE + since,
        response=RESPONSE,
        seed_delay_blocks=DELAY,
    )
    assert all((each.case, each.seed_block, each.opened) == (7, 54, 50) for each in pushes)
    assert all(each.is_decided == (record.verdict != 0) for each in pushes)
    return pushes[0].step if pushes else None


def test_a_jury_is_drawn_once_others_had_time_to() -> None:
    steps = {
        passed: find_step(passed=passed, seated=False)
        for passed in (-5, 0, PATIENCE_BLOCKS, PATIENCE_BLOCKS + 1, HISTORY_BLOCKS)
    }
    assert list(steps.values()) == [None, None, None, "seat", "seat"]
    assert find_step(passed=HISTORY_BLOCKS + 1, seated=False) == "redraw"


@pytest.mark.parametrize(("level", "step"), [(0, "escalate"), (1, "escalate"), (2, "close")])
def test_a_jury_that_was_silent_gives_way_to_the_next(level: int, step: str) -> None:
    assert find_step(level=level) is None
    assert find_step(level=level, since=PATIENCE) is None
    assert find_step(level=level, since=PATIENCE + 1) == step


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_acquittal_is_carried_out_and_a_conviction_left_to_others(level: int) -> None:
    late = RESPONSE * 100
    assert find_step(level=level, verdict=1, since=PATIENCE) is None
    assert find_step(level=level, verdict=1, since=PATIENCE + 1) == "close"
    assert find_step(level=level, verdict=2, since=late) is None


def see(cases: Cases, name: str, *, block: int, case: int = 7, provider: str = "provider") -> None:
    args = {"id": case, "provider": make_address(provider)}
    note_case(cases, Fact(name, args, block), me=ME)


def test_only_cases_against_us_are_remembered_until_they_are_over() -> None:
    cases: Cases = {}
    see(cases, "CaseOpened", block=10)
    see(cases, "CaseOpened", block=11, case=8, provider="another")
    see(cases, "CaseOpened", block=12, case=9)
    assert list_open(cases) == [7, 9]
    see(cases, "CaseClosed", block=20, case=8, provider="another")
    assert list_open(cases) == [7, 9]
    see(cases, "CaseClosed", block=21)
    assert list_open(cases) == [9]


def test_a_reorg_opens_again_what_it_had_closed_and_forgets_what_it_had_opened() -> None:
    cases: Cases = {}
    see(cases, "CaseOpened", block=10)
    see(cases, "CaseClosed", block=20)
    see(cases, "CaseOpened", block=30, case=9)
    assert list_open(rewind_cases(cases, 31)) == [9]
    assert list_open(rewind_cases(cases, 30)) == []
    assert list_open(rewind_cases(cases, 20)) == [7]
    assert rewind_cases(cases, 10) == {}


def test_what_is_over_is_forgotten_when_no_reorg_can_bring_it_back() -> None:
    cases: Cases = {}
    see(cases, "CaseOpened", block=10)
    see(cases, "CaseOpened", block=10, case=9)
    see(cases, "CaseClosed", block=20)
    assert set(forget_closed(cases, 20 + CLOSED_BLOCKS - 1)) == {7, 9}
    assert set(forget_closed(cases, 20 + CLOSED_BLOCKS)) == {9}
