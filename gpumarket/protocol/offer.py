"""The offer: a provider's signed, expiring advertisement of devices, price and address."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from gpumarket.protocol.gpu import Device
from gpumarket.protocol.ids import Address, Hash32, Multiaddr, PeerId, ShortText
from gpumarket.protocol.machine import Machine
from gpumarket.protocol.signing import Document
from gpumarket.protocol.units import U32, U64, Amount

DEVICES_MAX = 64
OFFER_LIFETIME_SECONDS = 120
DEVNET_CHAIN_ID = 31337
"""The only chain on which simulated devices are accepted."""


class Offer(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one provider node sells until the offer expires; a newer sequence replaces it."""

    KIND: ClassVar[str] = "gpumarket.offer.v1"

    provider: Address
    """The operator key, which signs receipts; the payout address is on chain."""
    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    sealing_key: Hash32
    """X25519 public key for sealed inputs and secrets."""
    devices: Annotated[tuple[Device, ...], Meta(min_length=1, max_length=DEVICES_MAX)]
    slots: U32
    """How many tasks may run at once."""
    cpus: U32
    memory_bytes: U64
    disk_bytes: U64
    region: ShortText
    """Country code; a claim until evidence is asked for."""
    isolation: Literal["runc", "gvisor"]
    repro_class: Hash32
    """Names the machines whose outputs are bit-identical to this one's."""
    price_per_device_hour: Amount
    sequence: U64
    issued_at: U64
    expires_at: U64
    machine: Machine | UnsetType = UNSET
    """Left out where nothing more is known."""


class VerifierCard(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one verifier says of itself when it joins a coordinator."""

    KIND: ClassVar[str] = "gpumarket.verifier.v1"

    verifier: Address
    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    repro_class: Hash32
    slots: U32
    price_per_check: Amount
    sequence: U64
    issued_at: U64
    expires_at: U64


def is_simulated(offer: Offer) -> bool:
    """Tell whether any device of the offer is made up."""
    return any(device.simulated for device in offer.devices)
