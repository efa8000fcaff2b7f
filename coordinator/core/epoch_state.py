"""
What a coordinator knows of an epoch: its parts, one a provider, their pools, and their checks.

Part of `state.py`'s one value; changed only along the tables of `lifecycle.py`.
"""

from __future__ import annotations

import msgspec

from coordinator.core.lifecycle import (
    NEXT_CHECK,
    NEXT_EPOCH,
    NEXT_PART,
    NEXT_TRIAL,
    CheckState,
    EpochState,
    PartStage,
    TrialOutcome,
    TrialState,
)
from gpumarket.protocol.attestation import Attestation, Evidence, Seal, Verdict
from gpumarket.protocol.canaries import CanaryNote
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.proof import EpochDocument
from gpumarket.protocol.receipt import ProviderRoot
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, Timestamp


class Check(msgspec.Struct, kw_only=True):
    """One re-execution of a sampled receipt; an overlapped receipt has two."""

    receipt_hash: Hash32
    turn: int = 0
    """1 for the second check of an overlapped receipt, by another verifier."""
    lease_id: Hash32
    order_hash: Hash32
    unit: int
    provider: Address
    state: CheckState = CheckState.WAITING
    verifier: Address | None = None
    price: Amount = Amount(0)
    deadline: Timestamp | None = None
    tried: list[Address] = []
    attempts: int = 0
    wait_by: Timestamp | None = None
    """Until when only verifiers of the provider's class are asked; None before one is missed."""
    seal: Signed[Seal] | None = None
    attestation: Signed[Attestation] | None = None
    evidence: Evidence | None = None
    verdict: Verdict | None = None

    @property
    def key(self) -> bytes:
        """Its name among all checks: 33 bytes."""
        return make_check_key(self.receipt_hash, self.turn)


class Trial(msgspec.Struct, kw_only=True):
    """A jury's case about a result that a verifier called false; `trials.py` runs it."""

    receipt_hash: Hash32
    lease_id: Hash32
    provider: Address
    accusers: list[Address]
    """The verifiers on whose word it was opened."""
    state: TrialState = TrialState.OPENING
    outcome: TrialOutcome = TrialOutcome.OPEN
    case: int = 0
    """The chain's number of it; zero while it is not open there."""
    level: int = 0
    jury: tuple[Address, ...] = ()
    """Of the present level, in the order of the seats; empty while none is seated."""
    voters: tuple[Address, ...] = ()
    """Whose votes decided, in the order of the seats."""
    verdict: Verdict | None = None
    """What the jury of the present level decided, and at last the final verdict."""
    deadline: Timestamp = Timestamp(0)
    """The chain's: of the vote, or of an appeal."""
    votes: list[Check] = []
    """Of all jurors that were asked, at any level: a vote is a check."""
    bar: Timestamp = Timestamp(0)
    """Until when it bars those whom a jury contradicted."""
    problem: str = ""
    """Why the chain does not move on, or why there is no jury."""


class Pool(msgspec.Struct, kw_only=True):
    """
    Results of one provider that are sampled and judged as one, whatever jobs they are of.

    Results of a job without checks are one by themselves.
    """

    policy: VerifyPolicy
    """The terms of the sample, as `VerifyPolicy.pool` gives them."""
    order_hashes: list[Hash32]
    lease_ids: list[Hash32]
    """In the order of the leaves: the draw counts from the first."""
    is_cleared: bool = False
    """Whether all its checks are done and no mismatch stands."""


class Part(msgspec.Struct, kw_only=True):
    """One provider's receipts in an epoch."""

    lease_ids: tuple[Hash32, ...]
    """Sorted by (pool, order hash, unit): the order of the leaves."""
    pools: list[Pool]
    """In the order of the leaves."""
    expected: ProviderRoot
    stage: PartStage = PartStage.SIGNING
    deadline: Timestamp
    signed: Signed[ProviderRoot] | None = None
    stake: Amount = Amount(0)
    """What a conviction takes from the provider; fixed with `audited` at commitment."""
    audited: int = 0
    """Its results that were checked and matched before."""
    open_orders: list[Hash32] = []
    """Orders whose leases here are still to be judged, with all of their pool."""
    accepted: list[Hash32] = []
    rejected: list[Hash32] = []
    reason: Reason | None = None


class Epoch(msgspec.Struct, kw_only=True):
    """Receipts that are committed, sampled and checked together."""

    number: int
    opened_at: Timestamp
    root_by: Timestamp
    parts: dict[Address, Part]
    """By provider, rising."""
    state: EpochState = EpochState.COLLECTING
    nonce: Hash32 | None = None
    canary_salt: Hash32 | None = None
    """Secret until the epoch is over, and drawn also where it has no canaries."""
    canaries: dict[Hash32, Signed[CanaryNote]] = {}
    """What is forged in it on purpose, by receipt."""
    eligible: tuple[Signed[VerifierCard], ...] = ()
    """Verifiers that could be given checks at commitment, by address."""
    document: EpochDocument | None = None
    """What is committed to; kept whole, so that jobs in it can be forgotten one by one."""
    sequence: int | None = None
    block: int = 0
    commit_tx: Hash32 | None = None
    seed: Hash32 | None = None
    seed_nonces: bytes = b""
    mix_hash: Hash32 | None = None
    seed_block: int = 0
    header_rlp: bytes = b""
    seed_tx: Hash32 | None = None
    problem: str = ""
    """Why the chain does not move on; empty when it does."""
    checks: dict[bytes, Check] = {}
    """By `Check.key`."""
    trials: dict[Hash32, Trial] = {}
    """By receipt."""


def make_check_key(receipt_hash: Hash32, turn: int) -> bytes:
    """Return the key of a receipt's first or second check."""
    return receipt_hash + bytes([turn])


def move_epoch(epoch: Epoch, to: EpochState) -> None:
    """Change an epoch's state as `NEXT_EPOCH` allows."""
    if to not in NEXT_EPOCH[epoch.state]:
        raise LocalProtocolError(f"an epoch cannot go from {epoch.state.value} to {to.value}")
    epoch.state = to


def move_part(part: Part, to: PartStage) -> None:
    """Change a part's stage as `NEXT_PART` allows."""
    if to not in NEXT_PART[part.stage]:
        raise LocalProtocolError(f"a part cannot go from {part.stage.value} to {to.value}")
    part.stage = to


def move_trial(trial: Trial, to: TrialState) -> None:
    """Change a trial's state as `NEXT_TRIAL` allows; the same state again is no change."""
    if to is trial.state:
        return
    if to not in NEXT_TRIAL[trial.state]:
        raise LocalProtocolError(f"a trial cannot go from {trial.state.value} to {to.value}")
    trial.state = to


def move_check(check: Check, to: CheckState) -> None:
    """Change a check's state as `NEXT_CHECK` allows."""
    if to not in NEXT_CHECK[check.state]:
        raise LocalProtocolError(f"a check cannot go from {check.state.value} to {to.value}")
    check.state = to
