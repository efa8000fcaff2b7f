"""
What this machine has to sell: NVIDIA devices through NVML, and always its own processor.

A device list is a claim: hardware challenges (`hardware.py`) find out what it is worth, and the
class probe (`class_probe.py`) which other machines compute the same bits.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from gpumarket.config import SimulatedDevice
from gpumarket.protocol.gpu import Device, Version
from gpumarket.protocol.units import parse_size

CPU_INFO: Final = Path("/proc/cpuinfo")
DEVICES_MAX: Final = 64
MODEL_CHARS_MAX: Final = 64
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


def detect_devices(processor: Processor | None = None) -> tuple[Device, ...]:
    """Return the machine's GPUs, or its processor as a device of the honest class `cpu`."""
    found = tuple(_read_nvidia())
    return found or (make_processor_device(processor or read_processor()),)


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


def _read_nvidia() -> Iterator[Device]:
    # Imported here: the binding is an extra, and most machines have no driver to bind to.
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        cuda = _split_cuda(int(nvml.nvmlSystemGetCudaDriverVersion()))
        for index in range(min(int(nvml.nvmlDeviceGetCount()), DEVICES_MAX)):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            yield Device(
                vendor="nvidia",
                model=_text(nvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ")[
                    :MODEL_CHARS_MAX
                ],
                vram_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                simulated=False,
                compute_capability=(int(major), int(minor)),
                cuda=cuda,
                driver=driver[:MODEL_CHARS_MAX],
                device_id=_text(nvml.nvmlDeviceGetUUID(handle)),
            )
    finally:
        nvml.nvmlShutdown()


def _split_cuda(version: int) -> Version:
    """NVML writes CUDA 12.4 as 12040."""
    return version // 1000, version % 1000 // 10


def _text(value: str | bytes) -> str:
    # Older bindings give bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
