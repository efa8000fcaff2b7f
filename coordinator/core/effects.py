"""
Everything a coordinator can decide to do, as orders to `perform.py`.

An effect may be performed twice or after it has become pointless (`ProcessStarted` asks again
for all that is outstanding), so performing one must be harmless the second time: look whether
it was done, then do it. Each says which event answers it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.hardware import HardwareTask, OpenedRow
from gpumarket.protocol.ids import Address, Cid, Hash32, Multiaddr
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.messages import Message
from gpumarket.protocol.order import Order
from gpumarket.protocol.proof import EpochDocument
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Batch, Bill
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.training import SegmentState
from gpumarket.protocol.units import U32, U64, Timestamp


class _Effect(msgspec.Struct, frozen=True, kw_only=True, tag_field="effect", tag=True):
    """Something to be done."""


# ---- peers ---------------------------------------------------------------------------------


class SendMessage(_Effect, frozen=True, kw_only=True):
    """
    Send a message to a connected peer; drop it where there is no session.

    Nothing answers: what matters is sent again when the peer joins again.
    """

    recipient: Address
    message: Message


class ProposeLease(_Effect, frozen=True, kw_only=True):
    """Sign the lease and send it as `LeaseProposed`, like any message."""

    lease: LeaseOffer


class CloseSession(_Effect, frozen=True, kw_only=True):
    """
    End the session of a peer that broke the protocol, and count it.

    `ProviderLeft` or `VerifierLeft` follows from the session itself.
    """

    peer: Address
    session: U64
    """Zero is whatever session the peer has now."""
    code: str
    text: str


# ---- the chain -----------------------------------------------------------------------------


class DrawNonce(_Effect, frozen=True, kw_only=True):
    """Draw an epoch's two secrets, 32 random bytes each: `NonceDrawn`."""

    epoch: U64


class CommitEpoch(_Effect, frozen=True, kw_only=True):
    """
    Put the document into the content store, then its root on chain.

    Look first for a commitment of ours with this root: `EpochCommitted`, or `ChainRefused`.
    """

    epoch: U64
    root: Hash32
    nonce_hash: Hash32
    document: EpochDocument


class FixSeed(_Effect, frozen=True, kw_only=True):
    """
    Wait for block + SEED_DELAY, then fix the seed from that block's header and the nonces.

    Somebody may have done it first: `SeedFixed`, or `ChainRefused`.
    """

    epoch: U64
    sequence: U64
    block: U64
    """The block of the commitment."""
    nonces: bytes


class PostBatch(_Effect, frozen=True, kw_only=True):
    """
    Put the batch and its bills into the content store, then post it on chain.

    Look first for a batch of ours with this data hash. Where there is none and `post_by` has
    come, send nothing, and take back what waits to be mined: the answer is a final refusal with
    GM-1202. `BatchPosted`, or `ChainRefused`.
    """

    number: U64
    batch: Batch
    bills: tuple[Bill, ...]
    """Those that the batch names, in its order."""
    post_by: Timestamp


class OpenCase(_Effect, frozen=True, kw_only=True):
    """
    Accuse a receipt before a jury on chain, with a bond from our own escrow.

    Look first whether somebody did: `CaseOpened`, or `CaseRefused`.
    """

    receipt_hash: Hash32
    order: Order
    receipt: Signed[Receipt]
    jurors_min: U32
    """With fewer that could be drawn the case is not opened."""


class CaseVote(msgspec.Struct, frozen=True, kw_only=True):
    """A juror's vote and its seat."""

    seat: U32
    attestation: Signed[Attestation]


CaseStep = Literal["seat", "decide", "escalate", "close"]


class MoveCase(_Effect, frozen=True, kw_only=True):
    """
    Look at a case on chain, and take this step unless somebody did.

    `seat` waits for the block that draws the jury. `CaseSeen`, or `CaseRefused`.
    """

    receipt_hash: Hash32
    case: U64
    level: U32
    step: CaseStep
    jury: tuple[Address, ...] = ()
    """For `decide`."""
    votes: tuple[CaseVote, ...] = ()
    """For `decide`: by seat, all with one verdict."""
    voters: tuple[Address, ...] = ()
    """For `close`: whose votes decided; empty where nobody's did."""


class ReadEscrow(_Effect, frozen=True, kw_only=True):
    """Ask the chain for a requester's escrow: `EscrowSeen`, or nothing where it cannot be had."""

    requester: Address


# ---- content -------------------------------------------------------------------------------


class FetchOutput(_Effect, frozen=True, kw_only=True):
    """Fetch an opened output into our own store: `OutputFetched` or `OutputMissing`."""

    lease_id: Hash32
    order_hash: Hash32
    unit: U32
    cid: Cid
    bytes_max: U64
    provider: Address
    sources: tuple[Multiaddr, ...]


class FetchCheckpoint(_Effect, frozen=True, kw_only=True):
    """
    Fetch a checkpoint into our own store and hold its state to it.

    `CheckpointKept` or `CheckpointRefused`; nothing where it cannot be had, since the task goes on
    without it.
    """

    lease_id: Hash32
    order_hash: Hash32
    segment: SegmentState
    before: SegmentState | None
    bytes_max: U64
    sources: tuple[Multiaddr, ...]


class PublishDocument(_Effect, frozen=True, kw_only=True):
    """Put a DAG-CBOR document into the content store, so that an auditor can find it."""

    data: bytes


# ---- hardware ------------------------------------------------------------------------------


class DrawHardwareSecret(_Effect, frozen=True, kw_only=True):
    """Draw 32 secret random bytes for a round of hardware challenges: `HardwareSecretDrawn`."""

    round: U64


class JudgeHardware(_Effect, frozen=True, kw_only=True):
    """Check the answer to a hardware challenge: `HardwareJudged`."""

    task: HardwareTask
    root: Hash32
    second: Hash32
    check_seed: Hash32
    rows: tuple[OpenedRow, ...]
    walks: bytes


Effect = (
    SendMessage
    | ProposeLease
    | CloseSession
    | DrawNonce
    | CommitEpoch
    | FixSeed
    | PostBatch
    | OpenCase
    | MoveCase
    | ReadEscrow
    | FetchOutput
    | FetchCheckpoint
    | PublishDocument
    | DrawHardwareSecret
    | JudgeHardware
)
