"""
NVIDIA devices through NVML: what they are, how they hang together, how they are at the moment.

The binding finds `libnvidia-ml.so.1` as the loader finds any library. A driver that is older than
the binding lacks functions, and a card lacks what it has not: both leave a fact unknown. Only what
a device cannot be sold without (name, memory, identity) makes it unsellable, as broken memory does.

A broken card may hold whoever asks for it, or end it. So the driver is asked by this module in a
process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from gpumarket.adapters.asking import NoAnswer, answer, ask
from gpumarket.adapters.detection import MODEL_CHARS_MAX, Detection, Fault, Reading
from gpumarket.protocol.gpu import Device, DeviceFacts, Version
from gpumarket.protocol.offer import DEVICES_MAX
from gpumarket.protocol.topology import SYSTEM, find_islands, note_place, place_devices

T = TypeVar("T")
LIBRARY: Final = "libnvidia-ml.so.1"
SECONDS_MAX: Final = 60.0
"""Eight cards that sleep take half a minute to wake where nothing holds them awake."""
_ARCHITECTURES: Final = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}
"""`nvmlDeviceArchitecture_t`."""
_SLOWED: Final = {0x8: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}
"""`nvmlClocksEventReasons` that mean a device gives less than it promises."""
_SWITCH: Final = 2
_ROW_REMAP_FAILED: Final = 3


@dataclass(frozen=True, slots=True)
class _Card:
    """One physical device and what is sold of it: itself, or its partitions."""

    handle: Any
    devices: tuple[Device, ...]
    reading: Reading
    ends: tuple[str, ...]
    """What its links lead to."""


def read_nvidia(*, seconds_max: float = SECONDS_MAX) -> Detection:
    """Read every NVIDIA device; nothing at all where there is no library of a driver."""
    try:
        ctypes.CDLL(LIBRARY)  # touches no card yet
    except OSError:
        return Detection()
    try:
        return ask("gpumarket.adapters.nvml", as_type=Detection, seconds_max=seconds_max)
    except NoAnswer as error:
        fault = Fault(f"the NVIDIA driver does not answer: {error}", "GM-2140", ("nvidia-smi",))
        return Detection(faults=(fault,))


def read_driver() -> Detection:
    """Read every NVIDIA device in this process, which a broken card may hold or end."""
    # Imported here: the binding is an extra.
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        text = "there is an NVIDIA driver, but not its Python binding"
        return Detection(faults=(Fault(text, "GM-2140", ("pip install nvidia-ml-py",)),))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        fault = Fault(
            f"the NVIDIA driver does not answer: {error}", "GM-2140", ("sudo modprobe nvidia",)
        )
        return Detection(faults=(fault,))
    try:
        return _Driver(nvml).read()
    except nvml.NVMLError as error:
        fault = Fault(f"the NVIDIA driver does not list its devices: {error}", code="GM-2140")
        return Detection(faults=(fault,))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


class _Driver:
    """The loaded library; every question may be answered by an error."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._driver = _text(nvml.nvmlSystemGetDriverVersion())
        self._cuda = _split_cuda(self.ask(nvml.nvmlSystemGetCudaDriverVersion, default=0))

    def ask(self, function: Callable[..., T], *arguments: Any, default: T) -> T:
        """Return an answer, or the default for whatever the driver says instead."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return default

    def read(self) -> Detection:
        """Read every card; one that cannot be read is a fault beside the others."""
        cards, faults = [], []
        for index in range(min(int(self._nvml.nvmlDeviceGetCount()), DEVICES_MAX)):
            try:
                card = self._read_card(index)
                fault = self._find_fault(index, card)
            except self._nvml.NVMLError as error:
                fault, card = Fault(f"NVIDIA device {index}: {error}", code="GM-2141"), None
            if fault is None and card is not None:
                cards.append(card)
            elif fault is not None:
                faults.append(fault)
        sold = [(card, device) for card in self._place(cards) for device in card.devices]
        return Detection(
            devices=tuple(device for _, device in sold)[:DEVICES_MAX],
            readings=tuple(card.reading for card, _ in sold)[:DEVICES_MAX],
            faults=tuple(faults),
        )

    # ---- one card --------------------------------------------------------------------------

    def _read_card(self, index: int) -> _Card:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        ends = tuple(self._read_links(handle))
        facts = self._read_facts(handle, links=len(ends))
        has_parts = bool(self.ask(nvml.nvmlDeviceGetMigMode, handle, default=[0, 0])[0])
        sold = tuple(self._read_parts(handle)) if has_parts else (handle,)
        version = self.ask(nvml.nvmlDeviceGetCudaComputeCapability, handle, default=(0, 0))
        return _Card(
            handle=handle,
            devices=tuple(
                self._make_device(each, version, facts, is_part=has_parts) for each in sold
            ),
            reading=self._read_state(handle),
            ends=ends,
        )

    def _read_parts(self, handle: Any) -> Iterator[Any]:
        nvml = self._nvml
        for index in range(self.ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle, default=0)):
            part = self.ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index, default=None)
            if part is not None:
                yield part

    def _make_device(
        self, handle: Any, version: Version, facts: DeviceFacts, *, is_part: bool
    ) -> Device:
        nvml = self._nvml
        name = _text(nvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ")
        if is_part:
            facts = msgspec.structs.replace(facts, partition=name.rpartition("MIG ")[2][:64])
        return Device(
            vendor="nvidia",
            model=name[:MODEL_CHARS_MAX],
            vram_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            simulated=False,
            compute_capability=(int(version[0]), int(version[1])),
            cuda=self._cuda,
            driver=self._driver[:MODEL_CHARS_MAX],
            device_id=_text(nvml.nvmlDeviceGetUUID(handle)),
            facts=facts,
        )

    def _read_facts(self, handle: Any, *, links: int) -> DeviceFacts:
        nvml, ask = self._nvml, self.ask
        numa = ask(nvml.nvmlDeviceGetNumaNodeId, handle, default=None)
        ecc = ask(nvml.nvmlDeviceGetEccMode, handle, default=None)
        return DeviceFacts(
            architecture=_ARCHITECTURES.get(
                ask(nvml.nvmlDeviceGetArchitecture, handle, default=0), ""
            ),
            bus_address=self._read_address(handle),
            numa_node=numa,
            power_watts_max=ask(nvml.nvmlDeviceGetPowerManagementLimit, handle, default=0) // 1000,
            clock_mhz_max=ask(
                nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM, default=0
            ),
            memory_clock_mhz_max=ask(
                nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM, default=0
            ),
            ecc="" if ecc is None else "on" if ecc[0] else "off",
            pcie_generation=ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle, default=0),
            pcie_width=ask(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle, default=0),
            link_kind="nvlink" if links else "",
            links=links,
        )

    def _read_address(self, handle: Any) -> str:
        return _read_bus_id(self.ask(self._nvml.nvmlDeviceGetPciInfo, handle, default=None))

    def _read_links(self, handle: Any) -> Iterator[str]:
        nvml, ask = self._nvml, self.ask
        for link in range(nvml.NVML_NVLINK_MAX_LINKS):
            if not ask(nvml.nvmlDeviceGetNvLinkState, handle, link, default=0):
                continue
            kind = ask(nvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link, default=0)
            remote = ask(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link, default=None)
            # All switches of one machine are joined; some drivers do not say which one it is.
            yield "switch" if kind == _SWITCH else _read_bus_id(remote) or f"unknown {link}"

    # ---- how it is now ----------------------------------------------------------------------

    def _read_state(self, handle: Any) -> Reading:
        nvml, ask = self._nvml, self.ask
        slowed = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle, default=0)
        return Reading(
            temperature_celsius=ask(
                nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU, default=None
            ),
            power_watts=_divide(ask(nvml.nvmlDeviceGetPowerUsage, handle, default=None), 1000),
            clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM, default=None),
            uncorrected_errors=ask(
                nvml.nvmlDeviceGetTotalEccErrors,
                handle,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
                default=None,
            ),
            slowed_by=tuple(sorted({name for bit, name in _SLOWED.items() if slowed & bit})),
        )

    def _find_fault(self, index: int, card: _Card) -> Fault | None:
        """Tell why a card that answers is not to be sold all the same."""
        where = f"NVIDIA device {index}"
        if not card.devices:
            return Fault(
                f"{where}: MIG is on, and it has no instances",
                code="GM-2142",
                fix=("sudo nvidia-smi mig -cgi 9 -C", f"sudo nvidia-smi -i {index} -mig 0"),
            )
        where += f", {card.devices[0].model}"
        if card.reading.uncorrected_errors:
            return Fault(
                f"{where}: {card.reading.uncorrected_errors} memory errors that ECC did not correct"
                " since the driver was loaded",
                code="GM-2141",
                fix=(f"sudo nvidia-smi -i {index} --gpu-reset",),
            )
        rows = self.ask(self._nvml.nvmlDeviceGetRemappedRows, card.handle, default=(0, 0, 0, 0))
        if rows[_ROW_REMAP_FAILED]:
            return Fault(f"{where}: its memory has no spare rows left; replace it", code="GM-2141")
        return None

    # ---- how they hang together ------------------------------------------------------------

    def _place(self, cards: list[_Card]) -> list[_Card]:
        names = [self._read_address(card.handle) for card in cards]
        islands = find_islands([card.ends for card in cards], names)
        places = place_devices(
            len(cards), lambda a, b: self._find_level(cards[a].handle, cards[b].handle)
        )
        return [
            _Card(
                handle=card.handle,
                devices=tuple(
                    note_place(device, place=places[index], island=islands[index])
                    for device in card.devices
                ),
                reading=card.reading,
                ends=card.ends,
            )
            for index, card in enumerate(cards)
        ]

    def _find_level(self, one: Any, other: Any) -> int:
        return self.ask(
            self._nvml.nvmlDeviceGetTopologyCommonAncestor, one, other, default=int(SYSTEM)
        )


def _read_bus_id(info: Any) -> str:
    # NVML writes eight digits of domain where the kernel writes four.
    return "" if info is None else _text(info.busId).lower()[-12:]


def _divide(value: int | None, by: int) -> int | None:
    return None if value is None else value // by


def _split_cuda(version: int) -> Version:
    """NVML writes CUDA 12.4 as 12040."""
    return version // 1000, version % 1000 // 10


def _text(value: str | bytes) -> str:
    # Some answers are strings of the binding, others bytes of the library.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    answer(read_driver)
