"""
Cases against a node's own work: what is remembered of them, and what to do so that they end.

Each case holds stake of ours, and anyone may take it a step further; nobody must. Its accuser, or
the coordinator whose verdict it is about, usually does; a provider does what they leave undone.
What is remembered is only which cases there are: where one stands is asked of the contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from gpumarket.protocol.duties import FOREVER, PushCase, Step
from gpumarket.protocol.ids import Address
from gpumarket.protocol.juries import LAST_LEVEL, CaseRecord
from gpumarket.protocol.ledger import Event

PATIENCE_BLOCKS: Final = 8
"""Blocks in which others may have a jury drawn before the accused does it itself."""
PATIENCE_SHARE: Final = 10
"""Of the time of a jury: so long others may take a case on before the accused does."""
HISTORY_BLOCKS: Final = 8_191
"""Blocks whose hash a contract can look up (EIP-2935)."""
CLOSED_BLOCKS: Final = 1_000
"""How long a closed case is remembered, for reorgs."""
MATCH: Final = 1


class KnownCase(msgspec.Struct, kw_only=True):
    """A case against this node, by the blocks in which it was opened and closed."""

    opened: int
    closed: int = 0
    """0 while it is open."""


Cases = dict[int, KnownCase]
"""By the number of the case."""


def note_case(cases: Cases, event: Event, *, me: Address) -> None:
    """Remember that a case against `me` was opened, or that one is over."""
    number = event.args["id"]
    if event.name == "CaseOpened" and event.args["provider"] == me:
        cases[number] = KnownCase(opened=event.block)
    elif event.name == "CaseClosed" and number in cases:
        cases[number].closed = event.block


def rewind_cases(cases: Cases, block: int) -> Cases:
    """Return what is known of cases when `block` and what came later is forgotten."""
    return {
        number: KnownCase(opened=known.opened, closed=known.closed if known.closed < block else 0)
        for number, known in cases.items()
        if known.opened < block
    }


def forget_closed(cases: Cases, block: int) -> Cases:
    """Return the cases that still matter at `block`."""
    return {
        number: known
        for number, known in cases.items()
        if not known.closed or known.closed + CLOSED_BLOCKS > block
    }


def list_open(cases: Cases) -> list[int]:
    """Return the numbers of the cases that are not over."""
    return [number for number, known in cases.items() if not known.closed]


def list_pushes(
    records: Iterable[CaseRecord],
    *,
    cases: Cases,
    block: int,
    now: int,
    response: int,
    seed_delay_blocks: int,
) -> list[PushCase]:
    """
    Return the steps that are due in cases against us, one for each case.

    `records` is what the contract says of them, `block` the newest block that counts, `now` its
    time. A conviction is not carried out by whom it costs: others have the bonds to gain.
    """
    found = []
    for record in records:
        seed_block = record.draw_block + seed_delay_blocks
        late = now - response // PATIENCE_SHARE
        step = _find_step(record, late=late, passed=block - seed_block)
        if step is not None:
            found.append(
                PushCase(
                    case=record.case,
                    step=step,
                    seed_block=seed_block,
                    opened=cases[record.case].opened,
                    is_decided=record.verdict != 0,
                    deadline=FOREVER,
                    why=f"case {record.case} holds our stake, at level {record.level}",
                )
            )
    return found


def _find_step(record: CaseRecord, *, late: int, passed: int) -> Step | None:
    """Return what is due; `late` is now less our patience, `passed` counts from the seed block."""
    if not record.is_seated:
        if passed > HISTORY_BLOCKS:
            return "redraw"
        return "seat" if passed > PATIENCE_BLOCKS else None
    is_last = record.level == LAST_LEVEL
    if late <= record.deadline:
        return None
    if record.verdict:
        return "close" if record.verdict == MATCH else None
    return "close" if is_last else "escalate"
