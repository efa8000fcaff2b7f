"""
Everything a provider can decide to do, as orders to `perform.py`.

An effect may be performed twice (`ProcessStarted` asks again for all that is outstanding), so
performing one again must be harmless. Each says which event answers it.
"""

from __future__ import annotations

import msgspec

from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.messages import Message
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.protocol.training import SegmentState
from gpumarket.protocol.units import U32, U64


class _Effect(msgspec.Struct, frozen=True, kw_only=True, tag_field="effect", tag=True):
    """Something to be done."""


class SendMessage(_Effect, frozen=True, kw_only=True):
    """
    Send a message to a coordinator; drop it where there is no session.

    Nothing answers: what matters is said again when the session stands again.
    """

    coordinator: Address
    message: Message


class ReadFunds(_Effect, frozen=True, kw_only=True):
    """Ask the chain for a requester's escrow and a bond: `FundsSeen` or `FundsUnknown`."""

    requester: Address
    coordinator: Address


class PrepareUnit(_Effect, frozen=True, kw_only=True):
    """Fetch image and inputs and hand them to the engine: `UnitPrepared` or `AttemptFailed`."""

    lease: LeaseOffer
    resume: Cid | None = None
    """The checkpoint that a training task will go on from."""


class RunUnit(_Effect, frozen=True, kw_only=True):
    """
    Run the program from its beginning: `UnitRan` or `AttemptFailed`.

    Of a training task, go on from `resume`, with `CheckpointStored` for each new checkpoint.
    """

    lease: LeaseOffer
    device_ids: tuple[str, ...]
    """The devices it gets, as the engine calls them."""
    resume: Cid | None = None
    checkpoints: U32 = 0
    """How many its chain has already."""


class StoreOutput(_Effect, frozen=True, kw_only=True):
    """Add the output to the content store and pin it: `OutputStored` or `AttemptFailed`."""

    lease_id: Hash32


class SignReceipt(_Effect, frozen=True, kw_only=True):
    """Sign with the operator key: `ReceiptSigned`."""

    lease_id: Hash32
    receipt: Receipt


class SignCheckpoint(_Effect, frozen=True, kw_only=True):
    """Sign a segment's state and send it as `CheckpointTaken`, like any message."""

    coordinator: Address
    lease_id: Hash32
    state: SegmentState


class SignRoot(_Effect, frozen=True, kw_only=True):
    """Sign the root and send it as `RootSigned`, like any message."""

    coordinator: Address
    root: ProviderRoot


class SignOpenings(_Effect, frozen=True, kw_only=True):
    """Sign the openings and send them as `ResultsOpened`, like any message."""

    coordinator: Address
    epoch: U64
    openings: tuple[Opening, ...]


class StopUnit(_Effect, frozen=True, kw_only=True):
    """Stop whatever goes on for a lease, its container too; nothing answers."""

    lease_id: Hash32


class CleanUp(_Effect, frozen=True, kw_only=True):
    """Remove what a lease left on disk, and if told so let go of its output; nothing answers."""

    lease_id: Hash32
    is_output_kept: bool
    checkpoints: U32 = 0
    """How many checkpoints were stored, to be let go of with the output."""


Effect = (
    SendMessage
    | ReadFunds
    | PrepareUnit
    | RunUnit
    | StoreOutput
    | SignReceipt
    | SignCheckpoint
    | SignRoot
    | SignOpenings
    | StopUnit
    | CleanUp
)
