"""
The terms: what this node sells, at what price, under which name.

They come from the configuration and the machine, once at each start, and stand in every offer.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gpumarket.protocol.gpu import Device
from gpumarket.protocol.ids import Address, Hash32, Multiaddr, PeerId, ShortText
from gpumarket.protocol.machine import Machine
from gpumarket.protocol.offer import OFFER_LIFETIME_SECONDS, Offer
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import U32, U64, Amount, Timestamp


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is for sale here; sizes in bytes, the price in base units."""

    provider: Address
    domain: Domain
    devices: tuple[Device, ...]
    slots: U32
    cpus: U32
    memory_bytes: U64
    disk_bytes: U64
    region: ShortText
    isolation: Literal["runc", "gvisor"]
    repro_class: Hash32
    price_per_device_hour: Amount
    order_lifetime_seconds: U64
    """From now to an order's expiry: what escrow is sure to outlast on this chain."""
    bond_min: Amount
    """What a coordinator must have at stake on this chain."""
    machine: Machine | UnsetType = UNSET
    """Journals from before it was known lack it."""


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where this node is reached, and the key others seal secrets to."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    sealing_key: Hash32


def make_offer(terms: Terms, node: NodeAddress, *, sequence: int, now: Timestamp) -> Offer:
    """Write the offer that stands from now on; the newest sequence counts."""
    return Offer(
        provider=terms.provider,
        peer_id=node.peer_id,
        addresses=node.addresses,
        sealing_key=node.sealing_key,
        devices=terms.devices,
        slots=terms.slots,
        cpus=terms.cpus,
        memory_bytes=terms.memory_bytes,
        disk_bytes=terms.disk_bytes,
        region=terms.region,
        isolation=terms.isolation,
        repro_class=terms.repro_class,
        price_per_device_hour=terms.price_per_device_hour,
        sequence=sequence,
        issued_at=now,
        expires_at=now + OFFER_LIFETIME_SECONDS,
        machine=terms.machine,
    )
