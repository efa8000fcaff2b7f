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
from gpumarket.protocol.signing import Document, Signed, encode_uint, keccak256
from gpumarket.protocol.units import U32, U64

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


def compute_lease_id(order_hash: Hash32, unit: int, attempt: int) -> Hash32:
    """Name a lease after its order, unit and attempt."""
    return keccak256(order_hash + encode_uint(unit) + encode_uint(attempt))
