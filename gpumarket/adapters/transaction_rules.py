"""
What to do about a transaction that is out, and what to pay for it: decisions without a chain.

`transactions.py` says where the rules come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

READINGS = 3
"""In a row, until it is believed that a stranger used our nonce."""
HURRY_SHARE = 4
"""A version gets at most one such part of what is left until the deadline."""
CANCEL_FEE_FACTOR = 10
"""What taking back may cost more for each gas; it uses a hundredth of a batch's gas."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, and how much to pay for speed."""

    confirmations: int = 0
    """Blocks on top of the one with the transaction before it counts."""
    poll_seconds: float = 0.2
    bump_seconds: float = 15.0
    """A version that waits longer, while `bump_blocks` passed it over, is replaced."""
    bump_blocks: int = 2
    foreign_seconds: float = 30.0
    """For transactions of this key that we do not know, before they are replaced."""
    give_up_seconds: float = 600.0
    max_fee_factor: int = 10
    """Times the first version's fee cap; what waits on is not made dearer than that."""


@dataclass(frozen=True, slots=True)
class Fees:
    """What a unit of gas may cost, in wei."""

    cap: int
    """Base fee and tip together."""
    tip: int


class Refusal(Enum):
    """What a node says about bytes it was handed."""

    KNOWN = auto()
    """It has them already."""
    UNDERPRICED = auto()
    """Another transaction has this nonce, or the base fee is higher."""
    NONCE_USED = auto()
    POOR = auto()
    UNCLEAR = auto()
    """No answer: it may have them."""
    OTHER = auto()


class Step(Enum):
    """What to do next about a transaction that is out."""

    WAIT = auto()
    DONE = auto()
    REPEAT = auto()
    """Hand the node the same bytes again."""
    BUMP = auto()
    CANCEL = auto()
    """Its deadline has passed: something empty takes its place."""
    LOST = auto()
    """The nonce is a stranger's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the chain for one transaction."""

    head: int
    mined_in: int | None = None
    """The block of the version that was mined."""
    is_dropped: bool = False
    """It was mined, and a reorg took it out."""
    is_nonce_used: bool = False
    """By the newest block, and none of our versions has a receipt."""
    taken_readings: int = 0
    """How often in a row that was so below all confirmations."""
    priced_seconds: float = 0.0
    """Since the newest version was made."""
    priced_blocks: int = 0
    """That passed it over."""
    handed_seconds: float = 0.0
    """Since the node was last handed the bytes."""
    left_seconds: float | None = None
    """Until its deadline, from when on it must not be mined any more; None has no deadline."""
    is_cancelled: bool = False
    """Something empty is on its way to take its place."""


# ---- decisions -----------------------------------------------------------------------------


def compute_fees(base_fee: int, tip: int) -> Fees:
    """Return a first offer: it holds while the base fee doubles, which takes six full blocks."""
    return Fees(cap=2 * base_fee + tip, tip=tip)


def bump_fees(fees: Fees, *, market: Fees, cap_max: int) -> Fees | None:
    """Return fees that replace these, at least an eighth up; None where the cap forbids it."""
    least = Fees(cap=_bump(fees.cap), tip=_bump(fees.tip))
    if least.cap > cap_max:
        return None
    cap = min(max(least.cap, market.cap), cap_max)
    return Fees(cap=cap, tip=min(max(least.tip, market.tip), cap))


def _bump(value: int) -> int:
    return max(-(-value * 9 // 8), value + 1)


def find_free_nonce(mined: int, own: frozenset[int]) -> int:
    """Return the lowest nonce that is neither mined nor held by a transaction we still watch."""
    nonce = mined
    while nonce in own:
        nonce += 1
    return nonce


def classify_refusal(text: str) -> Refusal:
    """Read what a node says; the words are geth's, anvil's, Nethermind's and Erigon's."""
    said = text.lower()
    for refusal, marks in _REFUSALS.items():
        if any(mark in said for mark in marks):
            return refusal
    return Refusal.OTHER


_REFUSALS = {
    Refusal.KNOWN: ("already known", "already imported", "known transaction", "alreadyknown"),
    Refusal.NONCE_USED: ("nonce too low", "nonce is too low", "oldnonce"),
    Refusal.POOR: ("insufficient funds", "insufficientfunds", "exceeds allowance"),
    Refusal.UNDERPRICED: (
        "underpriced", "fee too low", "feetoolow", "less than block base fee", "gas price too low",
        "not competitive",
    ),
}  # fmt: skip


def decide_step(seen: Seen, patience: Patience) -> Step:
    """Return what to do about a transaction that is out."""
    if seen.mined_in is not None:
        is_deep = seen.head >= seen.mined_in + patience.confirmations
        return Step.DONE if is_deep else Step.WAIT
    is_late = seen.left_seconds is not None and seen.left_seconds <= 0
    if seen.is_dropped:
        # A node puts back into its pool what a reorg has taken out of a block.
        return Step.CANCEL if is_late and not seen.is_cancelled else Step.REPEAT
    if seen.taken_readings >= READINGS:
        return Step.LOST
    if seen.is_nonce_used:
        return Step.WAIT
    if is_late and not seen.is_cancelled:
        return Step.CANCEL
    seconds, blocks = _find_bump(seen, patience)
    # Without new blocks a higher fee buys nothing; but the node may have lost the bytes.
    if seen.priced_seconds >= seconds and seen.priced_blocks >= blocks:
        return Step.BUMP
    return Step.REPEAT if seen.handed_seconds >= patience.bump_seconds else Step.WAIT


def _find_bump(seen: Seen, patience: Patience) -> tuple[float, int]:
    """Return the seconds and blocks after which a version is replaced; less near its deadline."""
    if seen.left_seconds is None:
        return patience.bump_seconds, patience.bump_blocks
    share = max(seen.left_seconds, 0.0) / HURRY_SHARE
    if share >= patience.bump_seconds:
        return patience.bump_seconds, patience.bump_blocks
    return share, min(patience.bump_blocks, 1)
