"""
Everything that can happen to a provider, in the past tense.

The runtime journals each event before it is decided and replays them after a crash, so an event
holds all that `decide` may need: the time, measurements, randomness. `decide` checks every
signature inside a message again; only the envelope was checked before.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from gpumarket.protocol import messages
from gpumarket.protocol.ids import Address, Cid, Hash32, ShortText
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.receipt import Energy, Receipt
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.training import CheckpointFacts
from gpumarket.protocol.units import U32, U64, Amount, Timestamp
from provider_node.core.terms import Terms


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """
    Something that happened.

    `VOLATILE` ones are not journaled and change display only. `REPEATABLE` ones are journaled but
    not synced to disk: nobody else has heard of them, and what they tell can be done again.
    """

    VOLATILE: ClassVar[bool] = False
    REPEATABLE: ClassVar[bool] = False

    at: Timestamp


# ---- the process ---------------------------------------------------------------------------


class ProcessStarted(_Event, frozen=True, kw_only=True):
    """The process is up and its journal replayed: no session stands, effects may be lost."""

    terms: Terms


class TimePassed(_Event, frozen=True, kw_only=True):
    """The time that `find_next_deadline` asked for has come."""


class MinutePassed(_Event, frozen=True, kw_only=True):
    """The node lives: what the hour ledger needs to tell idleness from absence."""

    REPEATABLE: ClassVar[bool] = True


# ---- the coordinator -----------------------------------------------------------------------


class CoordinatorJoined(_Event, frozen=True, kw_only=True):
    """A session to a coordinator stands."""

    VOLATILE: ClassVar[bool] = True

    coordinator: Address


class CoordinatorLost(_Event, frozen=True, kw_only=True):
    """A session to a coordinator ended; it is being dialed again."""

    VOLATILE: ClassVar[bool] = True

    coordinator: Address


CoordinatorMessage = (
    messages.LeaseProposed
    | messages.LeaseCancelled
    | messages.RootRequested
    | messages.OpeningsRequested
    | messages.EpochClosed
)
"""What a coordinator may say that changes anything here."""


class MessageReceived(_Event, frozen=True, kw_only=True):
    """A coordinator said something; the envelope's signature and sequence were checked."""

    coordinator: Address
    message: CoordinatorMessage
    disk_free_bytes: U64 = 0
    """What the data folder's disk had left, for admission."""


# ---- the chain -----------------------------------------------------------------------------


class FundsSeen(_Event, frozen=True, kw_only=True):
    """The chain said what a requester and a coordinator have; base units."""

    requester: Address
    coordinator: Address
    escrow: Amount
    """Less what the requester has asked back."""
    bond: Amount
    """Less what the coordinator is unbonding."""


class FundsUnknown(_Event, frozen=True, kw_only=True):
    """The chain did not answer."""

    requester: Address
    coordinator: Address
    code: ShortText


class CoordinatorCaught(_Event, frozen=True, kw_only=True):
    """The chain showed that a coordinator posted what it must not."""

    coordinator: Address


# ---- our own work --------------------------------------------------------------------------


class HardwareChecked(_Event, frozen=True, kw_only=True):
    """A device began to answer a hardware challenge, or is done with it."""

    REPEATABLE: ClassVar[bool] = True

    device: U32
    is_over: bool


class UnitPrepared(_Event, frozen=True, kw_only=True):
    """The inputs are staged and the engine has the image."""

    REPEATABLE: ClassVar[bool] = True

    lease_id: Hash32
    bytes_in: U64 = 0
    """Fetched for this unit."""


class UnitRan(_Event, frozen=True, kw_only=True):
    """
    The program ended well within its limits; its output lies on our disk.

    No more synced than that output is: power loss takes both, and the program runs again.
    """

    REPEATABLE: ClassVar[bool] = True

    lease_id: Hash32
    duration_ms: U64
    energy: Energy | None = None


class OutputStored(_Event, frozen=True, kw_only=True):
    """The output is in our content store and pinned; the salt hides it until it is opened."""

    lease_id: Hash32
    output: Cid
    output_bytes: U64
    salt: Hash32


class CheckpointStored(_Event, frozen=True, kw_only=True):
    """A training task's next checkpoint is in our content store and pinned."""

    lease_id: Hash32
    facts: CheckpointFacts
    stored_bytes: U64 = 0


class ReceiptSigned(_Event, frozen=True, kw_only=True):
    """
    The operator key signed the receipt that was asked for.

    The same receipt gives the same signature again.
    """

    REPEATABLE: ClassVar[bool] = True

    lease_id: Hash32
    receipt: Signed[Receipt]


class AttemptFailed(_Event, frozen=True, kw_only=True):
    """The unit came to nothing here, for one reason."""

    lease_id: Hash32
    reason: Reason
    exit_code: U32 = 0
    log_tail: str = ""


class UnitProgressed(_Event, frozen=True, kw_only=True):
    """Something moved inside a running unit: shown to people, lost in a crash."""

    VOLATILE: ClassVar[bool] = True

    lease_id: Hash32
    phase: ShortText
    done: U32
    total: U32
    line: ShortText = ""


Event = (
    ProcessStarted
    | TimePassed
    | MinutePassed
    | CoordinatorJoined
    | CoordinatorLost
    | MessageReceived
    | FundsSeen
    | FundsUnknown
    | CoordinatorCaught
    | HardwareChecked
    | UnitPrepared
    | UnitRan
    | OutputStored
    | CheckpointStored
    | ReceiptSigned
    | AttemptFailed
    | UnitProgressed
)

EVENT: Any = Event
"""The union as msgspec and the runtime take it; mypy has no type for one."""
