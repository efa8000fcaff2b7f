"""
Ports of networks on which machines reach each other's memory: InfiniBand, and RoCE on Ethernet.

Source: the kernel's `Documentation/ABI/stable/sysfs-class-infiniband`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from gpumarket.adapters.sysfs import list_folder, read_numa_node, read_text
from gpumarket.protocol.machine import PORTS_MAX, FabricPort

ADAPTERS: Final = "sys/class/infiniband"
_ACTIVE: Final = "4:"
_CHANNEL_ADAPTER: Final = "1:"
"""Of InfiniBand's kinds; RoCE is one as well, iWARP is not."""
_RATE: Final = re.compile(r"(\d{1,6})(?:\.(\d))? Gb/sec")
_KINDS: Final[dict[str, Literal["infiniband", "roce"]]] = {
    "InfiniBand": "infiniband",
    "Ethernet": "roce",
}


def read_fabric(root: Path = Path("/")) -> tuple[FabricPort, ...]:
    """Return the ports that are up, of the machine whose file system is at `root`."""
    return tuple(_list_ports(root))[:PORTS_MAX]


def _list_ports(root: Path) -> Iterator[FabricPort]:
    for adapter in list_folder(root / ADAPTERS):
        if not read_text(adapter / "node_type").startswith(_CHANNEL_ADAPTER):
            continue
        for port in list_folder(adapter / "ports"):
            kind = _KINDS.get(read_text(port / "link_layer"))
            rate = _RATE.match(read_text(port / "rate"))
            if kind and rate and read_text(port / "state").startswith(_ACTIVE):
                yield FabricPort(
                    name=f"{adapter.name}/{port.name}"[:64],
                    kind=kind,
                    megabits_per_second=int(rate[1]) * 1000 + int(rate[2] or 0) * 100,
                    numa_node=read_numa_node(adapter / "device"),
                )
