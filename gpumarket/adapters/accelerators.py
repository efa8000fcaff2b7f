"""
Devices of other makers, by plug-ins: packages with an entry point of `gpumarket.accelerators`.

An entry point names a function that takes the root of the file system, a `pathlib.Path`, and
returns `Device` values. Each runs in a process of its own (this module, started as a program):
a maker's library that prints, crashes or hangs costs that maker's devices and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import msgspec

from gpumarket.adapters.detection import Detection, Fault, Reading
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.offer import DEVICES_MAX

GROUP: Final = "gpumarket.accelerators"
SECONDS_MAX: Final = 20.0
ANSWER_BYTES_MAX: Final = 1 << 18
BUILT_IN: Final = frozenset({"nvidia", "amd", "cpu"})
"""What no plug-in may call its devices: these are read from the drivers, or are processors."""
PLUG_INS_MAX: Final = 16

Detect = Callable[[Path], Iterable[Device]]


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
        except (OSError, subprocess.SubprocessError, RemoteProtocolError, InvalidInput) as error:
            text = f"plug-in {entry.name} ({entry.value}): {_explain(error)}"
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
    done = subprocess.run(
        [sys.executable, "-m", "gpumarket.adapters.accelerators", entry.name, str(root)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds_max,
        check=True,
    )
    answer = decode_document_untrusted(done.stdout, Answer, bytes_max=ANSWER_BYTES_MAX)
    for device in answer.devices:
        if device.vendor in BUILT_IN:
            raise InvalidInput(
                f"it calls a device {device.vendor}, which it may not", code="GM-2143"
            )
        if device.simulated:
            raise InvalidInput("it calls a device simulated", code="GM-2143")
    return answer.devices


def _explain(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or b"").decode(errors="replace").strip()
        return said.rpartition("\n")[2][:200] or f"it ended with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:.0f} s"
    return str(error)[:200]


def main() -> None:
    """Run one plug-in, named by its entry point, and write what it found."""
    name, root = sys.argv[1], Path(sys.argv[2])
    entry = next(each for each in list_plug_ins() if each.name == name)
    answer = os.dup(sys.stdout.fileno())
    # What the maker's library prints is not an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.redirect_stdout(sys.stderr):
        detect: Any = entry.load()
        found = Answer(devices=tuple(detect(root)))
    with os.fdopen(answer, "wb") as file:
        file.write(encode_document(found))


if __name__ == "__main__":
    main()
