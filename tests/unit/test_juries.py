"""Who may judge, how many decide, and who was there early enough."""

from __future__ import annotations

from typing import Any

import pytest

from gpumarket.protocol.juries import (
    JuryRules,
    VerifierRecord,
    compute_quorum,
    count_eligible,
    draw_jury,
    may_judge,
)
from gpumarket.protocol.openings import Place
from gpumarket.testing.factories import change, make_address, make_hash

EPOCH, POSTED_AT, MIN_STAKE = 100, 10_000, 7
PLACE = Place(
    coordinator=make_address("coordinator"),
    sequence=0,
    posted_at=POSTED_AT,
    lane=0,
    index=0,
    requester=make_address("alice"),
    payee=make_address("provider"),
    lane_amount=5,
)
RULES = JuryRules(
    epoch=EPOCH, min_stake=MIN_STAKE, payouts={make_address("provider"): make_address("purse")}
)


def make_record(name: str = "verifier", **changes: Any) -> VerifierRecord:
    values: dict[str, Any] = {
        "operator": make_address(name),
        "listed_at": 0,
        "staked_at": POSTED_AT - EPOCH,
        "stake": MIN_STAKE,
        "payout": make_address(f"purse of {name}"),
    }
    return VerifierRecord(**(values | changes))


@pytest.mark.parametrize(
    ("level", "quorums"),
    [
        (0, {0: 0, 1: 1, 4: 4, 5: 5}),
        (1, {0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 13: 9, 14: 10, 15: 10}),
        (2, {0: 0, 1: 1, 2: 2, 3: 2, 30: 16, 31: 16}),
    ],
)
def test_a_quorum_is_all_then_two_thirds_then_more_than_half(
    level: int, quorums: dict[int, int]
) -> None:
    assert {size: compute_quorum(level, size) for size in quorums} == quorums


def test_only_those_listed_an_epoch_before_the_batch_are_eligible() -> None:
    last = POSTED_AT - EPOCH
    for listed, expected in (([], 0), ([last], 1), ([last + 1], 0), ([0, last, last, last + 1], 3)):
        assert count_eligible(listed, posted_at=POSTED_AT, epoch=EPOCH) == expected


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"stake": MIN_STAKE - 1}, False),
        ({"staked_at": POSTED_AT - EPOCH + 1}, False),
        ({"operator": make_address("alice")}, False),
        ({"payout": make_address("alice")}, False),
        ({"operator": make_address("purse")}, False),
        ({"payout": make_address("purse")}, False),
        ({"payout": make_address("provider")}, True),
    ],
    ids=str,
)
def test_who_has_a_part_in_the_payment_does_not_judge_it(
    changes: dict[str, Any], may: bool
) -> None:
    assert may_judge(make_record(**changes), PLACE, RULES) is may


def test_a_payee_without_a_purse_is_its_own() -> None:
    other = change(PLACE, payee=make_address("other"))
    assert not may_judge(make_record(payout=make_address("other")), other, RULES)


def test_a_jury_has_each_juror_once_and_nobody_beyond_the_eligible() -> None:
    records = [make_record(f"verifier {number}") for number in range(20)]
    for level, size in ((0, 5), (1, 12), (2, 12)):
        jury = draw_jury(
            records, eligible=12, seed=make_hash("seed"), level=level, place=PLACE, rules=RULES
        )
        assert len(set(jury)) == len(jury) == size
        assert set(jury) <= {each.operator for each in records[:12]}
    nobody = [make_record(f"verifier {number}", stake=0) for number in range(12)]
    seed = make_hash("seed")
    for pool, eligible in ((nobody, 12), (records, 0)):
        jury = draw_jury(pool, eligible=eligible, seed=seed, level=2, place=PLACE, rules=RULES)
        assert jury == ()
