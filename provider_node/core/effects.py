"""
Everything a provider can decide to do, as orders to `perform.py`.

An effect may be performed twice (`ProcessStarted` asks again for all that is outstanding), so
performing one again must be harmless. Each says which event answers it.
"""

from __future__ import annotations

import msgspec

from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.messages import Message
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.protocol.units import U64


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


class RunUnit(_Effect, frozen=True, kw_only=True):
    """Run the program from its beginning: `UnitRan` or `AttemptFailed`."""

    lease: LeaseOffer
    device_ids: tuple[str, ...]
    """The devices it gets, as the engine calls them."""


class StoreOutput(_Effect, frozen=True, kw_only=True):
    """Add the output to the content store and pin it: `OutputStored` or `AttemptFailed`."""

    lease_id: Hash32


class SignReceipt(_Effect, frozen=True, kw_only=True):
    """Sign with the operator key: `ReceiptSigned`."""

    lease_id: Hash32
    receipt: Receipt


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


Effect = (
    SendMessage
    | ReadFunds
    | PrepareUnit
    | RunUnit
    | StoreOutput
    | SignReceipt
    | SignRoot
    | SignOpenings
    | StopUnit
    | CleanUp
)
