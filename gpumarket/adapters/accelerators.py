"""
Devices of other makers, by plug-ins: packages with an entry point of `gpumarket.accelerators`.

An entry point names a function that takes the root of the file system, a `pathlib.Path`, and
returns `Device` values. Each is asked by this module in a process of its own: a maker's library
that prints, crashes or hangs costs that maker's devices and nothing else.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import msgspec

from gpumarket.adapters.asking import NoAnswer, answer, ask
from gpumarket.adapters.detection import Detection, Fault, Reading
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.offer import DEVICES_MAX

GROUP: Final = "gpumarket.accelerators"
SECONDS_MAX: Final = 20.0
MODULE: Final = "gpumarket.adapters.accelerators"
BUILT_IN: Final = frozenset({"nvidia", "amd", "cpu"})
"""What no plug-in may call its devices: these are read from the drivers, or are processors."""
PLUG_INS_MAX: Final = 16


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one plug-in found."""

    devices: tuple[Device, ...]


def read_plug_ins(root: Path = Path("/"), *, seconds_max: float = SECONDS_MAX) -> Detection:
    """Ask every installed plug-in; one that fails is a fault beside what the others found."""
    devices: list[Device] = []
    faults: list[Fault] = []
    for entry in list_plug_ins()[:PLUG_INS_MAX]:
        try:
            devices += _ask(entry, root, seconds_max)
        except NoAnswer as error:
            text = f"plug-in {entry.name} ({entry.value}): {error}"
            faults.append(Fault(text, code="GM-2143", fix=("pip list",)))
    return Detection(
        devices=tuple(devices[:DEVICES_MAX]),
        readings=tuple(Reading() for _ in devices[:DEVICES_MAX]),
        faults=tuple(faults),
    )


def list_plug_ins() -> list[EntryPoint]:
    """Return what is installed, in the order of its names."""
    return sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))


def _ask(entry: EntryPoint, root: Path, seconds_max: float) -> tuple[Device, ...]:
    devices = ask(MODULE, entry.name, str(root), as_type=Answer, seconds_max=seconds_max).devices
    for device in devices:
        if device.vendor in BUILT_IN:
            raise NoAnswer(f"it calls a device {device.vendor}, which it may not")
        if device.simulated:
            raise NoAnswer("it calls a device simulated")
    return devices


def run_plug_in(name: str, root: Path) -> Answer:
    """Run one plug-in, named by its entry point, and return what it found."""
    entry = next(each for each in list_plug_ins() if each.name == name)
    detect: Any = entry.load()
    return Answer(devices=tuple(detect(root)))


if __name__ == "__main__":
    answer(lambda: run_plug_in(sys.argv[1], Path(sys.argv[2])))
