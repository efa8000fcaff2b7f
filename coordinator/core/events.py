"""
Everything that can happen to a coordinator, in the past tense.

The runtime journals each event before it is decided and replays them after a crash, so an
event holds all that `decide` may need: the time, what the chain said, any randomness. Whoever
posts an event has looked at its form only; `decide` checks every signature inside it again.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from gpumarket.protocol import messages
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Cid, Hash32, Multiaddr, ShortText
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.offer import Offer, VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import U32, U64, Amount, Timestamp


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Something that happened; `VOLATILE` ones are not journaled and change display only."""

    VOLATILE: ClassVar[bool] = False

    at: Timestamp
    """When it happened by the coordinator's clock; a clock that goes back is held still."""


# ---- the process ---------------------------------------------------------------------------


class ProcessStarted(_Event, frozen=True, kw_only=True):
    """The process is up and its journal replayed: every session is gone, effects may be lost."""

    sources: tuple[Multiaddr, ...] = ()
    """Where this process serves content: given to providers and verifiers."""


class TimePassed(_Event, frozen=True, kw_only=True):
    """The time that `find_next_deadline` asked for has come."""


# ---- requesters ----------------------------------------------------------------------------


class JobSubmitted(_Event, frozen=True, kw_only=True):
    """
    A requester sent an order and its job.

    Post it, then look for the job under the order's hash; where there is none, calling
    `admission.check_submission` on the same event raises the reason.
    """

    order: Signed[Order]
    spec: JobSpec
    idempotency_key: ShortText
    """Repeats the first answer for a repeated request; empty is none."""
    wait_for_capacity_seconds: U32 = 0
    """How long to wait where no provider fits at all; zero refuses at once."""
    escrow_balance: Amount
    """The requester's escrow on chain, less what it asked to withdraw."""
    escrow_block: U64
    """The block at which the balance was read: the newest that counts as confirmed."""


class JobCancelled(_Event, frozen=True, kw_only=True):
    """The requester wants no more of a job; work already finished is still checked and paid."""

    order_hash: Hash32


class WorkAccepted(_Event, frozen=True, kw_only=True):
    """
    The requester of an order signed that it takes the work of some receipts.

    `relaying.check_acceptances` on the same event raises what is wrong with it.
    """

    order_hash: Hash32
    acceptances: tuple[Signed[Acceptance], ...]


class EscrowSeen(_Event, frozen=True, kw_only=True):
    """The chain was asked for a requester's escrow: too little of it stops new leases."""

    requester: Address
    balance: Amount
    """Less what it asked to withdraw."""
    withdrawing: Amount = Amount(0)
    """What it asked to withdraw and has not taken: finished work is still paid from it."""
    block: U64
    """Confirmed: `BatchPosted` tells of a batch when it is, so no batch counts twice."""


# ---- sessions ------------------------------------------------------------------------------


class ProviderJoined(_Event, frozen=True, kw_only=True):
    """A provider said hello: first in a session, and again whenever its offer changes."""

    sender: Address
    """Who signed the envelope."""
    session: U64
    """The process's number of the session, from 1 and rising; it tells old ones from new."""
    offer: Signed[Offer]
    running: tuple[Hash32, ...]
    """Leases the provider still works on or has receipts for; complete in a new session."""
    stake: Amount
    """Stake on chain, less what is being unstaked."""
    payout: Address = ZERO_ADDRESS
    """Where its claims go on chain; zero is to itself."""


class ProviderLeft(_Event, frozen=True, kw_only=True):
    """A provider's session ended; it has a grace before its leases go to others."""

    provider: Address
    session: U64


class VerifierJoined(_Event, frozen=True, kw_only=True):
    """A verifier said hello: first in a session, and again whenever its card changes."""

    sender: Address
    session: U64
    card: Signed[VerifierCard]
    stake: Amount
    payout: Address = ZERO_ADDRESS
    """Where its claims go on chain; zero is to itself."""


class VerifierLeft(_Event, frozen=True, kw_only=True):
    """A verifier's session ended; it has a grace before its checks go to others."""

    verifier: Address
    session: U64


PeerMessage = (
    messages.LeaseAccepted
    | messages.Declined
    | messages.CheckpointTaken
    | messages.UnitFinished
    | messages.UnitFailed
    | messages.RootSigned
    | messages.CheckSealed
    | messages.ResultsOpened
    | messages.CheckDone
    | messages.ApprovalsKept
    | messages.HardwareAnswered
    | messages.HardwareReady
    | messages.HardwareOpened
)
"""What providers and verifiers may say after their hello, besides progress."""


class MessageReceived(_Event, frozen=True, kw_only=True):
    """A peer said something; the envelope's signature, recipient and sequence were checked."""

    sender: Address
    message: PeerMessage


class ProgressReported(_Event, frozen=True, kw_only=True):
    """A provider said where a unit stands: shown to people, lost in a crash."""

    VOLATILE: ClassVar[bool] = True

    sender: Address
    progress: messages.LeaseProgress


# ---- the chain -----------------------------------------------------------------------------


class NonceDrawn(_Event, frozen=True, kw_only=True):
    """The runtime drew the secrets of an epoch: for its seed, and for its canaries."""

    epoch: U64
    nonce: Hash32
    canary_salt: Hash32
    """Hides what the epoch's commitment to canaries is of; another secret, because the nonce is
    shown when the seed is fixed."""


class EpochCommitted(_Event, frozen=True, kw_only=True):
    """The epoch's root is on chain and its document in the content store."""

    epoch: U64
    sequence: U64
    """The chain's number of this commitment, counted for this coordinator."""
    block: U64
    block_hash: Hash32
    tx: Hash32


class SeedFixed(_Event, frozen=True, kw_only=True):
    """The chain has the seed of a commitment; nobody knew it before."""

    epoch: U64
    seed: Hash32
    mix_hash: Hash32
    block: U64
    """B*, the block whose mixHash went into the seed."""
    header_rlp: bytes
    tx: Hash32


class BatchPosted(_Event, frozen=True, kw_only=True):
    """A batch moved its money; its document and its bills are in the content store."""

    number: U64
    """Our own number of it."""
    sequence: U64
    """The chain's number of this batch, counted for this coordinator."""
    block: U64
    tx: Hash32


class CaseOpened(_Event, frozen=True, kw_only=True):
    """A jury's case about a receipt is open on chain, ours or somebody's."""

    receipt_hash: Hash32
    case: U64


class CaseSeen(_Event, frozen=True, kw_only=True):
    """Where a case stands on chain."""

    receipt_hash: Hash32
    level: U32
    jury: tuple[Address, ...]
    """In the order of the seats; empty while none is seated."""
    verdict: U32
    """As in attestations; zero while there is none. Of a closed case the final one."""
    voters: tuple[Address, ...]
    deadline: U64
    is_over: bool


class CaseRefused(_Event, frozen=True, kw_only=True):
    """A step of a case did not come through: it is tried again unless it can never succeed."""

    receipt_hash: Hash32
    is_final: bool
    text: str


ChainCall = Literal["commit", "seed", "batch"]


class ChainRefused(_Event, frozen=True, kw_only=True):
    """A call did not come through: it will be tried again unless it can never succeed."""

    call: ChainCall
    epoch: U64 = 0
    """For `commit` and `seed`."""
    number: U64 = 0
    """For `batch`: our own number of it."""
    is_final: bool
    """True where nothing is on chain and the contract would refuse the same call again."""
    code: ShortText
    """For `batch`, GM-3011 says that a requester's escrow is too small, GM-1202 that it is late,
    by this clock or by the chain's; `batching.OWN_FAULTS` are no bill's fault."""
    text: str
    account: bytes = b""
    """With GM-3011: the requester that the contract named, 20 bytes, or empty."""


# ---- content -------------------------------------------------------------------------------


class OutputFetched(_Event, frozen=True, kw_only=True):
    """An opened output is in our own store, every block checked."""

    lease_id: Hash32
    cid: Cid
    size_bytes: U64


class OutputMissing(_Event, frozen=True, kw_only=True):
    """An opened output could not be had, or is larger than it may be."""

    lease_id: Hash32
    cid: Cid
    code: ShortText
    text: str


class CheckpointKept(_Event, frozen=True, kw_only=True):
    """A training task's checkpoint is in our own store and is what its state says."""

    lease_id: Hash32
    index: U32


class CheckpointRefused(_Event, frozen=True, kw_only=True):
    """A training task's checkpoint is not what its state says."""

    lease_id: Hash32
    index: U32
    text: str


# ---- hardware ------------------------------------------------------------------------------


class HardwareSecretDrawn(_Event, frozen=True, kw_only=True):
    """The runtime drew what all seeds of a round of hardware challenges follow from."""

    round: U64
    secret: Hash32


class HardwareJudged(_Event, frozen=True, kw_only=True):
    """An answer to a hardware challenge was checked."""

    challenge: Hash32
    problem: str = ""
    """What is wrong with it; empty where nothing is."""


Event = (
    ProcessStarted
    | TimePassed
    | JobSubmitted
    | JobCancelled
    | WorkAccepted
    | EscrowSeen
    | ProviderJoined
    | ProviderLeft
    | VerifierJoined
    | VerifierLeft
    | MessageReceived
    | ProgressReported
    | NonceDrawn
    | EpochCommitted
    | SeedFixed
    | BatchPosted
    | CaseOpened
    | CaseSeen
    | CaseRefused
    | ChainRefused
    | OutputFetched
    | OutputMissing
    | CheckpointKept
    | CheckpointRefused
    | HardwareSecretDrawn
    | HardwareJudged
)

EVENT: Any = Event
"""The union as msgspec and the runtime take it; mypy has no type for one."""
