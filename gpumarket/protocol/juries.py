"""
Juries: who decides whether signed work is false, drawn from verifiers that nobody could choose.

Equal to `contracts/src/Jury.sol`: whoever has the list of verifiers and the seed block's mixHash
recomputes every jury. Amounts are base units, times unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.openings import Place
from gpumarket.protocol.signing import encode_address, encode_uint, keccak256

LAST_LEVEL: Final = 2
JURY_SIZES: Final = (5, 15, 31)
"""Jurors at each level, where there are as many."""
DRAWS_MAX: Final = 256
"""Draws until a jury stays smaller: duplicates and those who left are drawn again."""
_JURY_TAG = keccak256(b"gpumarket.jury.v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierRecord:
    """A verifier in the contract's list, in the order of first stakes, as it stands now."""

    operator: Address
    listed_at: int
    """When it first staked."""
    staked_at: int
    """When its stake that counts last became enough."""
    stake: int
    """Less what is being unstaked."""
    payout: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One who put up a bond in a case, and for which side."""

    account: Address
    bond: int
    accuses: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """Where an open case stands: `IJury.Case`."""

    case: int
    place: Place
    """Of the leaf; of work that no batch has paid, whom its order names, and zeros."""
    receipt_hash: Hash32
    price: int
    """Held of the payment; zero where no batch has paid."""
    stake_held: int
    eligible: int
    """Verifiers that may be drawn: the first so many of the list."""
    level: int
    verdict: int
    """What the jury of this level decided: 1 MATCH, 2 MISMATCH; 0 while it has not."""
    is_posted: bool
    """Whether the work was accused where a batch paid it."""
    draw_block: int
    """The jury's seed is the mixHash of the block SEED_DELAY after this one."""
    deadline: int
    """While a jury sits, until when it may decide; then, until when anyone may appeal."""
    jury_hash: Hash32
    voters_hash: Hash32
    parties: tuple[Party, ...]
    """The accuser first, then who appealed."""

    @property
    def is_seated(self) -> bool:
        """Say whether the jury of this level was drawn."""
        return self.jury_hash != ZERO_HASH


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """What became of a receipt that was accused on its own: `IJury.Trial`."""

    case: int
    verdict: int
    """What the present level decided: 1 MATCH, 2 MISMATCH, 0 nothing yet."""
    is_over: bool
    """The verdict was carried out: nobody is tried twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JuryRules:
    """The contract's parameters that decide who may sit."""

    epoch: int
    min_stake: int
    payouts: Mapping[Address, Address]
    """Where claims of a payee go, `payoutOf`; absent is the payee itself."""


def compute_jury_seed(
    *, chain_id: int, jury: Address, case: int, level: int, mix_hash: Hash32
) -> Hash32:
    """Return the seed of a jury: `Hashing.jurySeed`; `jury` is the contract."""
    return keccak256(
        _JURY_TAG
        + encode_uint(chain_id)
        + encode_address(jury)
        + encode_uint(case)
        + encode_uint(level)
        + mix_hash
    )


def count_eligible(listed_at: Sequence[int], *, posted_at: int, epoch: int) -> int:
    """
    Return how many of the first verifiers may judge a batch: those listed an epoch before it.

    `listed_at` in the order of the list, which is that of time; `accuse` wants exactly this number.
    For work that no batch has paid, `posted_at` is when it is accused.
    """
    latest = posted_at - epoch
    return sum(1 for time in listed_at if time <= latest)


def compute_quorum(level: int, size: int) -> int:
    """Return how many votes decide: all, two thirds, more than half. 0: an empty jury never."""
    if level == 0:
        return size
    if level == 1:
        return (2 * size + 2) // 3
    return size // 2 + 1 if size else 0


def draw_jury(
    verifiers: Sequence[VerifierRecord],
    *,
    eligible: int,
    seed: Hash32,
    level: int,
    place: Place,
    rules: JuryRules,
) -> tuple[Address, ...]:
    """Return the jury of a level in the order drawn: `Jury._drawJury`."""
    size = min(JURY_SIZES[level], eligible)
    jury: list[Address] = []
    for draw in range(DRAWS_MAX):
        if len(jury) == size:
            break
        drawn = int.from_bytes(keccak256(seed + encode_uint(draw)), "big") % eligible
        juror = verifiers[drawn]
        if juror.operator not in jury and may_judge(juror, place, rules):
            jury.append(juror.operator)
    return tuple(jury)


def may_judge(juror: VerifierRecord, place: Place, rules: JuryRules) -> bool:
    """Tell whether a verifier has stood long enough and has no part in a payment: `_mayJudge`."""
    if juror.stake < rules.min_stake or juror.staked_at > place.posted_at - rules.epoch:
        return False
    provider = rules.payouts.get(place.payee, place.payee)
    return not {juror.operator, juror.payout} & {provider, place.requester}
