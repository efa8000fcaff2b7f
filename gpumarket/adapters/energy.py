"""
Energy: counters of the machine read before, during and after a run, in joules or not at all.

NVIDIA devices count what they used since the driver was loaded (NVML, Volta and later); a unit has
its devices alone, so the difference is its own. Processors count by package (RAPL, through the
kernel's powercap): everything that ran meanwhile is in it, so for a unit that is an upper bound.
What nothing counts is unknown; no figure is made up from a data sheet.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from gpumarket.protocol.receipt import Energy, EnergySource

POWERCAP: Final = Path("/sys/class/powercap")
SAMPLE_SECONDS: Final = 20.0
"""RAPL counters go round in minutes on a busy machine: once between two samples at most."""
PACKAGES_MAX: Final = 64
MICROJOULES_PER_MILLIJOULE: Final = 1_000


class Unreadable(Exception):
    """A counter that gave no number; the unit's energy is unknown then."""


class Counter(Protocol):
    """Something that counts energy since some beginning."""

    @property
    def span_mj(self) -> int | None:
        """Where it goes round; None for a counter that only begins again with its driver."""
        ...

    def read(self) -> float:
        """Return millijoules; raise `Unreadable`."""
        ...


@dataclass(frozen=True, slots=True)
class PackageCounter:
    """The energy of one processor package, as the kernel's powercap folder of it tells."""

    folder: Path
    span_mj: int | None

    def read(self) -> float:
        """Return millijoules; raise `Unreadable`."""
        return _read_number(self.folder / "energy_uj") / MICROJOULES_PER_MILLIJOULE


@dataclass(frozen=True, slots=True)
class DeviceCounter:
    """The energy of one NVIDIA device."""

    nvml: Any
    handle: Any
    span_mj: int | None = None

    def read(self) -> float:
        """Return millijoules; raise `Unreadable`."""
        try:
            return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        except self.nvml.NVMLError as error:
            raise Unreadable from error


class Measurement:
    """Counters between a beginning and an end."""

    def __init__(self, source: EnergySource, counters: Sequence[Counter]) -> None:
        """Begin; without counters, or with one that cannot be read, it stays unknown."""
        self._source = source
        self._counters = tuple(counters)
        self._used = 0.0
        self._last: list[float] | None = None
        self._is_known = bool(self._counters)
        self.sample()

    def sample(self) -> None:
        """Add what was used since the last sample."""
        if not self._is_known:
            return
        try:
            values = [counter.read() for counter in self._counters]
            for counter, before, after in zip(
                self._counters, self._last or values, values, strict=True
            ):
                self._used += _subtract(after, before, counter.span_mj)
        except Unreadable:
            self._is_known = False
        else:
            self._last = values

    async def keep_sampling(self) -> None:
        """Sample until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            await trio.to_thread.run_sync(self.sample)

    async def finish(self) -> Energy | None:
        """Return what was used from the beginning to now, or None where that is unknown."""
        await trio.to_thread.run_sync(self.sample)
        if not self._is_known:
            return None
        return Energy(source=self._source, millijoules=round(self._used))


class EnergyMeter:
    """Opens the counters that belong to a run."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap

    async def begin(self, device_ids: Sequence[str]) -> Measurement:
        """Begin to measure devices by their UUIDs, or the processor where there are none."""
        return await trio.to_thread.run_sync(self._begin, tuple(device_ids))

    def _begin(self, device_ids: Sequence[str]) -> Measurement:
        if device_ids:
            return Measurement("nvml", open_devices(device_ids))
        return Measurement("rapl", open_packages(self._powercap))


def open_packages(powercap: Path) -> list[Counter]:
    """
    Find the processor packages that count, each once.

    A zone `intel-rapl:0` holds its parts as `intel-rapl:0:1`; `psys` holds packages and more.
    AMD's processors stand there under the same names.
    """
    found: list[Counter] = []
    for folder in sorted(powercap.glob("intel-rapl:*"))[:PACKAGES_MAX]:
        try:
            if folder.name.count(":") == 1 and _read_text(folder / "name").startswith("package"):
                span = _read_number(folder / "max_energy_range_uj") // MICROJOULES_PER_MILLIJOULE
                found.append(PackageCounter(folder, span))
        except Unreadable:
            return []
    return found


def open_devices(device_ids: Sequence[str]) -> list[Counter]:
    """Find NVIDIA devices by UUID: all of them, or none where one is missing."""
    # Imported here: the binding is an extra, and most machines have no driver to bind to.
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        # Never shut down: the library counts who began with it, and others may be reading.
        nvml.nvmlInit()
        return [
            DeviceCounter(nvml, nvml.nvmlDeviceGetHandleByUUID(device_id))
            for device_id in device_ids
        ]
    except nvml.NVMLError:
        return []


def _subtract(after: float, before: float, span: int | None) -> float:
    if after >= before:
        return after - before
    if span is None:
        raise Unreadable
    return after + max(0.0, span - before)


def _read_number(path: Path) -> int:
    text = _read_text(path)
    if not text.isdecimal():
        raise Unreadable
    return int(text)


def _read_text(path: Path) -> str:
    try:
        # Only root may read the counters since they were used to listen to other processes.
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable from error
