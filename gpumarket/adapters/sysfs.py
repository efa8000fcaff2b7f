"""Small files that the kernel answers with: absent, unreadable and strange ones are no answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gpumarket.protocol.topology import BOARD, BRIDGE, NODE, SWITCH, SWITCHES, SYSTEM

BYTES_MAX: Final = 1 << 16
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-fA-F]{1,16}|\d{1,19})")


def read_text(path: Path) -> str:
    """Return a file's text without white space around it; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """Return the number that a file begins with: `16`, `0x744c`, `16.0 GT/s PCIe`."""
    found = _NUMBER.match(read_text(path))
    return None if found is None else int(found[0], 0) if "0x" in found[0] else int(found[0])


def read_table(path: Path) -> dict[str, int]:
    """Return the lines `name number` of a file."""
    table = {}
    for line in read_text(path).splitlines():
        name, _, value = line.strip().partition(" ")
        if value.strip().isdigit() and len(value) < 24:
            table[name] = int(value)
    return table


def read_numa_node(device: Path) -> int | None:
    """Return the memory node a device is on; None where the kernel says -1 or nothing."""
    node = read_int(device / "numa_node")
    return None if node is None or node < 0 else node


def list_folder(path: Path) -> list[Path]:
    """Return what is in a folder, numbers in their order; nothing where there is none."""
    try:
        found = list(path.iterdir())
    except OSError:
        return []
    return sorted(found, key=lambda each: (not each.name.isdigit(), each.name.zfill(20)))


def find_bus_level(one: Path, other: Path) -> int:
    """
    Tell what the way between two devices on the PCI bus crosses, from their folders.

    Folders nest as bridges do: `devices/pci0000:00/0000:00:01.0/0000:01:00.0/...`.
    """
    mine, yours = (_list_bridges(each.resolve()) for each in (one, other))
    shared = 0
    for here, there in zip(mine, yours, strict=False):
        if here != there:
            break
        shared += 1
    if mine[-1].rpartition(".")[0] == yours[-1].rpartition(".")[0]:
        return BOARD
    if shared >= max(len(mine), len(yours)) - 2 and shared > 1:
        return SWITCH
    if shared > 1:
        return SWITCHES
    if shared == 1:
        return BRIDGE
    nodes = read_numa_node(one), read_numa_node(other)
    return NODE if nodes[0] is not None and nodes[0] == nodes[1] else SYSTEM


def _list_bridges(device: Path) -> list[str]:
    parts = device.parts
    first = next((i for i, part in enumerate(parts) if part.startswith("pci")), len(parts) - 1)
    return list(parts[first:])
