"""
What this machine has to sell: devices of every maker that is found, or its own processor.

A device list is a claim: hardware challenges (`hardware.py`) find out what it is worth, and the
class probe (`class_probe.py`) which other machines compute the same bits.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from gpumarket.adapters.accelerators import read_plug_ins
from gpumarket.adapters.amd import read_amd
from gpumarket.adapters.detection import MODEL_CHARS_MAX, Detection, Reading
from gpumarket.adapters.nvml import read_nvidia
from gpumarket.config import SimulatedDevice
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.offer import DEVICES_MAX
from gpumarket.protocol.units import parse_size

CPU_INFO: Final = Path("/proc/cpuinfo")
_ISA_FLAGS: Final = frozenset(
    "sse4_2 avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 "
    "amx_tile amx_bf16 amx_int8 asimd sve sve2 bf16 i8mm".split()
)
"""Instructions by which numeric libraries choose how they sum; others change no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The machine's processor as the kernel tells it."""

    architecture: str
    model: str
    cores: int
    isa: tuple[str, ...]
    """Vector instructions that matter for results, sorted."""


def read_processor(cpu_info: Path = CPU_INFO) -> Processor:
    """Read the processor; unknown parts are left empty."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpu_info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Processor(
        architecture=platform.machine(),
        model=fields.get("model name", ""),
        cores=psutil.cpu_count() or 1,
        isa=tuple(sorted(flags & _ISA_FLAGS)),
    )


def detect(processor: Processor | None = None, *, root: Path = Path("/")) -> Detection:
    """
    Read the machine's devices, or offer its processor as a device of the honest class `cpu`.

    `root` is where the kernel's files are; libraries are asked as the loader finds them. Blocks: a
    driver that wakes a card may take seconds.
    """
    found = (read_nvidia(), read_amd(root), read_plug_ins(root))
    devices = [device for each in found for device in each.devices][:DEVICES_MAX]
    readings = [reading for each in found for reading in each.readings][:DEVICES_MAX]
    if not devices:
        devices = [make_processor_device(processor or read_processor())]
        readings = [Reading()]
    return Detection(
        devices=tuple(devices),
        readings=tuple(readings),
        faults=tuple(fault for each in found for fault in each.faults),
    )


def make_processor_device(processor: Processor) -> Device:
    """Describe the processor as something to sell."""
    model = processor.model or f"{processor.architecture} processor"
    return Device(
        vendor="cpu", model=model[:MODEL_CHARS_MAX].strip(), vram_bytes=0, simulated=False
    )


def make_simulated_devices(
    settings: Sequence[SimulatedDevice], *, poses: bool = False
) -> tuple[Device, ...]:
    """Return made-up devices for the devnet; each says that it is, unless a cheat `poses`."""
    return tuple(
        Device(
            vendor=device.vendor,
            model=device.model[:MODEL_CHARS_MAX],
            vram_bytes=parse_size(device.vram),
            simulated=not poses,
            compute_capability=device.compute_capability,
            cuda=device.cuda,
        )
        for device in settings
    )


def measure_memory_bytes() -> int:
    """Return the machine's memory in bytes."""
    return int(psutil.virtual_memory().total)
