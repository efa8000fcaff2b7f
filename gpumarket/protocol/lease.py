"""
The lease: one unit of one order on one provider, with price and deadline fixed.

Every state a lease can be in and every way it can change stands in `NEXT`; why it ended is a
`Reason`, never a state of its own.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, Literal

import msgspec

from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32, Multiaddr, ShortText
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.order import Order
from gpumarket.protocol.signing import (
    Document,
    Signed,
    encode_address,
    encode_uint,
    keccak256,
)
from gpumarket.protocol.training import SegmentState
from gpumarket.protocol.units import U32, U64

_ASSIGNMENT_TYPE = keccak256(
    b"Assignment(bytes32 orderHash,uint32 unit,address provider,uint64 maxPrice,"
    b"uint64 reservedUntil)"
)

Fault = Literal["requester", "provider", "verifier", "coordinator", "chain", "network", "none"]
"""Who caused an end; the fault decides the payment."""


class LeaseState(Enum):
    """Where a lease stands."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    FINISHED = "finished"
    """The provider signed a receipt; nothing is paid yet."""
    ACCEPTED = "accepted"
    """Its epoch passed verification; it will be paid."""
    ENDED = "ended"
    """Never paid; the reason says why."""


NEXT: Final[dict[LeaseState, frozenset[LeaseState]]] = {
    LeaseState.PROPOSED: frozenset({LeaseState.ACTIVE, LeaseState.ENDED}),
    LeaseState.ACTIVE: frozenset({LeaseState.FINISHED, LeaseState.ENDED}),
    LeaseState.FINISHED: frozenset({LeaseState.ACCEPTED, LeaseState.ENDED}),
    LeaseState.ACCEPTED: frozenset(),
    LeaseState.ENDED: frozenset(),
}


def check_transition(before: LeaseState, after: LeaseState) -> None:
    """Raise `LocalProtocolError` unless a lease may move from `before` to `after`."""
    if after not in NEXT[before]:
        raise LocalProtocolError(f"a lease cannot go from {before.value} to {after.value}")


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why something ended: a code of the catalog, a sentence, and whose fault it was."""

    code: ShortText
    text: str
    fault: Fault


class LeaseOffer(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A coordinator's signed offer of one unit to one provider."""

    KIND: ClassVar[str] = "gpumarket.lease.v1"

    lease_id: Hash32
    provider: Address
    order: Signed[Order]
    job: JobSpec
    unit: U32
    attempt: U32
    price_per_device_hour: U64
    price_max: U64
    deadline: U64
    """Unix seconds by which the receipt must be there."""
    sources: tuple[Multiaddr, ...]
    """Peers that have the inputs."""
    resume: SegmentState | None = None
    """Where a training task goes on from; its checkpoint and all before were another's."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A coordinator's word, in a form the chain can read, that a unit was given to a provider.

    With it a provider that is left out of every batch can settle its receipt without the
    coordinator; an order that names its provider needs none.
    """

    order_hash: Hash32
    unit: U32
    provider: Address
    max_price: U64
    reserved_until: U64
    """Unix seconds; a receipt finished later is not covered."""

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash."""
        return keccak256(
            _ASSIGNMENT_TYPE
            + self.order_hash
            + encode_uint(self.unit)
            + encode_address(self.provider)
            + encode_uint(self.max_price)
            + encode_uint(self.reserved_until)
        )


def make_assignment(lease: LeaseOffer) -> Assignment:
    """Return the assignment that goes with a lease: one for each, and no other fits."""
    return Assignment(
        order_hash=lease.order.body.compute_struct_hash(),
        unit=lease.unit,
        provider=lease.provider,
        max_price=lease.price_max,
        reserved_until=lease.deadline,
    )


def compute_lease_id(order_hash: Hash32, unit: int, attempt: int) -> Hash32:
    """Name a lease after its order, unit and attempt."""
    return keccak256(order_hash + encode_uint(unit) + encode_uint(attempt))
