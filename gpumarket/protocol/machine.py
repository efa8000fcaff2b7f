"""What a machine is beside its devices: fabric, measured speeds, where it is and what it burns."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gpumarket.protocol.ids import ShortText
from gpumarket.protocol.units import U32, U64

PORTS_MAX = 64


class FabricPort(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One port of a network on which machines reach each other's memory, and which is up."""

    name: ShortText
    kind: Literal["infiniband", "roce"]
    megabits_per_second: U64
    numa_node: U32 | None = None


class Measured(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What `gpumarket provider bench` measured; bytes a second, zero is not measured."""

    measured_at: U64
    """Unix seconds."""
    memory_copy: U64 = 0
    """Bytes read and bytes written by copies on all cores, as STREAM counts them."""
    disk_write: U64 = 0
    """Until they are on the disk."""
    disk_read: U64 = 0
    """Of what the kernel was told to forget."""


class Machine(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What an offer says of its machine; a claim like all of it."""

    architecture: ShortText = ""
    """Of the processor, as images name it: `amd64` or `arm64`."""
    fabric: Annotated[tuple[FabricPort, ...], Meta(max_length=PORTS_MAX)] = ()
    measured: Measured | None = None
    region_source: ShortText = ""
    """How the operator knows the country of the offer, like `the data center's contract`."""
    carbon_grams_per_kwh: U32 | None = None
    """Grams of carbon dioxide for a kilowatt-hour here."""
    carbon_source: ShortText = ""
    """Where that figure is from; never empty beside one."""
