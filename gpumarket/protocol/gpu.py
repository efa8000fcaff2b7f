"""Devices: what a provider claims to have and what a job says it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gpumarket.protocol.ids import ShortText
from gpumarket.protocol.units import U32, U64

Vendor = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z")]
"""`nvidia`, `amd`, or what a plug-in calls its maker; `cpu` is the honest class of a processor."""
DeviceNode = Annotated[str, Meta(pattern=r"^/dev/[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+){0,3}\Z")]
"""A path without dots, so that it leads nowhere else."""
Version = tuple[U32, U32]
"""Major and minor, for compute capability and CUDA; (0, 0) is none."""


class DeviceFacts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a driver says of a device beside what jobs ask for; zero and empty are not known."""

    architecture: ShortText = ""
    """Like `hopper` or `gfx90a`."""
    runtime: ShortText = ""
    """What programs are built against where it is not CUDA, like `rocm 6.2.0`."""
    partition: ShortText = ""
    """The profile of a part of a device that is sold by itself, like `1g.10gb`."""
    bus_address: ShortText = ""
    numa_node: U32 | None = None
    power_watts_max: U32 = 0
    """The limit in force."""
    clock_mhz_max: U32 = 0
    memory_clock_mhz_max: U32 = 0
    ecc: Literal["", "on", "off"] = ""
    """Whether memory corrects errors."""
    pcie_generation: U32 = 0
    pcie_width: U32 = 0
    """Lanes."""
    link_kind: Literal["", "nvlink", "xgmi"] = ""
    links: U32 = 0
    """Links of that kind that are up."""
    island: U32 = 0
    """Devices of one offer with the same number reach each other over such links; zero is none."""
    place: Annotated[tuple[U32, ...], Meta(max_length=5)] = ()
    """Where it hangs, as `topology.place_devices` counts it."""
    nodes: Annotated[tuple[DeviceNode, ...], Meta(max_length=8)] = ()
    """Device files that a container needs; none where the engine knows devices by identity."""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device of a provider as it claims it; a claim is not a proof."""

    vendor: Vendor
    model: Annotated[str, Meta(min_length=1, max_length=64)]
    vram_bytes: U64
    """Memory of the device itself; zero for a processor."""
    simulated: bool
    """True for a made-up device; refused everywhere but on the devnet chain."""
    compute_capability: Version = (0, 0)
    cuda: Version = (0, 0)
    driver: ShortText = ""
    device_id: ShortText = ""
    """Which one it is, by its maker's number; empty for processors and simulated devices."""
    facts: DeviceFacts | UnsetType = UNSET
    """Left out, not empty, where nothing is known: older documents keep their bytes."""


class DeviceNeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one task needs; every bound is a minimum unless it says otherwise."""

    count: U32
    """Devices for each task; zero means any provider will do, without a device of its own."""
    vendor: Literal["nvidia", "amd", "intel", "any"] = "any"
    models: tuple[str, ...] = ()
    """Any of these models, compared without case, spaces or dashes; empty is any model."""
    vram_bytes_min: U64 = 0
    vram_bytes_max: U64 = 2**63 - 1
    compute_capability_min: Version = (0, 0)
    cuda_min: Version = (0, 0)
    same_model: bool = True


def list_engine_names(devices: Sequence[Device]) -> tuple[str, ...]:
    """Return what the container engine calls devices: their files, or else who they are."""
    names: dict[str, None] = {}
    for device in devices:
        nodes = device.facts.nodes if isinstance(device.facts, DeviceFacts) else ()
        # Only NVIDIA's toolkit hands devices over by identity.
        identity = (device.device_id,) if device.device_id and device.vendor == "nvidia" else ()
        names |= dict.fromkeys(nodes or identity)
    return tuple(names)


def normalize_model(model: str) -> str:
    """Reduce a model name to what is compared: `RTX 4090` and `rtx-4090` are one."""
    return "".join(character for character in model.lower() if character.isalnum())
