"""
AMD devices, read from the files of the kernel's driver: KFD's topology and each card's own folder.

No library is needed, so a machine with the driver and without ROCm is seen as well. A device is
what KFD calls a node with compute units; its card is found by the number of its render node.
Source: the kernel's `amdgpu` documentation, and `kfd_topology.c` for the names of the properties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpumarket.adapters.detection import MODEL_CHARS_MAX, Detection, Fault, Reading
from gpumarket.adapters.sysfs import (
    find_bus_level,
    list_folder,
    read_int,
    read_numa_node,
    read_table,
    read_text,
)
from gpumarket.protocol.gpu import Device, DeviceFacts
from gpumarket.protocol.offer import DEVICES_MAX
from gpumarket.protocol.topology import find_islands, note_place, place_devices

KFD_NODES: Final = "sys/class/kfd/kfd/topology/nodes"
DRM: Final = "sys/class/drm"
NAMES: Final = ("usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids")
"""Where names of consumer cards are; server cards say theirs."""
_XGMI: Final = 11
_GENERATIONS: Final = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""PCI Express by what a lane transfers, in GT/s."""


@dataclass(frozen=True, slots=True)
class _Node:
    """One device of KFD's topology."""

    name: str
    """The number of its folder, by which links call it."""
    properties: dict[str, int]
    links: tuple[str, ...]
    card: Path
    """The PCI device's folder."""
    problem: str = ""
    facts: DeviceFacts = field(default_factory=DeviceFacts)


def read_amd(root: Path = Path("/")) -> Detection:
    """Read every AMD device of the machine whose file system is at `root`."""
    nodes, faults = [], []
    for node in list(_list_nodes(root))[:DEVICES_MAX]:
        fault = _find_fault(node)
        if fault is None:
            nodes.append(node)
        else:
            faults.append(fault)
    islands = find_islands([node.links for node in nodes], [node.name for node in nodes])
    places = place_devices(len(nodes), lambda a, b: find_bus_level(nodes[a].card, nodes[b].card))
    return Detection(
        devices=tuple(
            note_place(_make_device(root, node), place=places[index], island=islands[index])
            for index, node in enumerate(nodes)
        ),
        readings=tuple(_read_state(node.card) for node in nodes),
        faults=tuple(faults),
    )


def _list_nodes(root: Path) -> Iterator[_Node]:
    for folder in list_folder(root / KFD_NODES):
        properties = read_table(folder / "properties")
        # A node without compute units is a processor; one that we may not use says no identity.
        if not properties.get("simd_count") or not read_int(folder / "gpu_id"):
            continue
        render = f"renderD{properties.get('drm_render_minor', 0)}"
        links = (read_table(each / "properties") for each in list_folder(folder / "io_links"))
        yield _Node(
            name=folder.name,
            properties=properties,
            links=tuple(
                str(link["node_to"])
                for link in links
                if link.get("type") == _XGMI and "node_to" in link
            ),
            card=root / DRM / render / "device",
        )


def _make_device(root: Path, node: _Node) -> Device:
    properties, card = node.properties, node.card
    architecture = _name_target(properties.get("gfx_target_version", 0))
    identity = properties.get("unique_id", 0)
    return Device(
        vendor="amd",
        model=_find_model(root, card, architecture)[:MODEL_CHARS_MAX],
        vram_bytes=read_int(card / "mem_info_vram_total") or 0,
        simulated=False,
        driver=_name_driver(root),
        device_id=f"GPU-{identity:016x}" if identity else "",
        facts=DeviceFacts(
            architecture=architecture,
            runtime=_name_runtime(root),
            partition=_name_partition(card),
            bus_address=card.resolve().name,
            numa_node=read_numa_node(card),
            power_watts_max=(_read_sensor(card, "power1_cap") or 0) // 1_000_000,
            clock_mhz_max=properties.get("max_engine_clk_fcompute", 0),
            memory_clock_mhz_max=_read_memory_clock(root, node),
            ecc="on" if (card / "ras/umc_err_count").exists() else "",
            pcie_generation=_GENERATIONS.get(
                read_text(card / "max_link_speed").partition(" ")[0], 0
            ),
            pcie_width=read_int(card / "max_link_width") or 0,
            link_kind="xgmi" if node.links else "",
            links=len(node.links),
            nodes=("/dev/kfd", f"/dev/dri/{card.parent.name}"),
        ),
    )


def _find_fault(node: _Node) -> Fault | None:
    where = f"AMD device {node.name}"
    if not read_int(node.card / "mem_info_vram_total"):
        return Fault(f"{where}: its driver does not say how much memory it has", code="GM-2141")
    errors = _count_uncorrected(node.card)
    if errors:
        text = (
            f"{where}: {errors} memory errors that ECC did not correct since the driver was loaded"
        )
        return Fault(text, code="GM-2141", fix=("sudo rocm-smi --gpureset -d 0",))
    return None


def _read_state(card: Path) -> Reading:
    temperature, power = _read_sensor(card, "temp1_input"), _read_sensor(card, "power1_average")
    return Reading(
        temperature_celsius=None if temperature is None else temperature // 1000,
        power_watts=None if power is None else power // 1_000_000,
        uncorrected_errors=_count_uncorrected(card),
    )


def _count_uncorrected(card: Path) -> int | None:
    """Read `ue: 0` and `ce: 0`, the second of which is harmless."""
    for line in read_text(card / "ras/umc_err_count").splitlines():
        kind, _, count = line.partition(":")
        if kind.strip() == "ue" and count.strip().isdigit():
            return int(count)
    return None


def _read_sensor(card: Path, name: str) -> int | None:
    found = (read_int(folder / name) for folder in list_folder(card / "hwmon"))
    return next((value for value in found if value is not None), None)


def _read_memory_clock(root: Path, node: _Node) -> int:
    banks = list_folder(root / KFD_NODES / node.name / "mem_banks")
    return max((read_table(bank / "properties").get("mem_clk_max", 0) for bank in banks), default=0)


def _name_target(version: int) -> str:
    """KFD writes gfx90a as 90010: major, minor and stepping, two decimal digits each."""
    if not version:
        return ""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


def _name_driver(root: Path) -> str:
    version = read_text(root / "sys/module/amdgpu/version")
    return f"amdgpu {version}"[:MODEL_CHARS_MAX] if version else "amdgpu"


def _name_runtime(root: Path) -> str:
    version = read_text(root / "opt/rocm/.info/version")
    return f"rocm {version.partition('-')[0]}"[:MODEL_CHARS_MAX] if version else ""


def _name_partition(card: Path) -> str:
    """A card that is one device says SPX: nothing of it is sold apart."""
    mode = read_text(card / "current_compute_partition").lower()
    return "" if mode == "spx" else mode[:16]


def _find_model(root: Path, card: Path, architecture: str) -> str:
    said = read_text(card / "product_name")
    if said:
        return said
    wanted = [read_text(card / name)[2:].upper() for name in ("device", "revision")]
    for path in NAMES:
        for line in read_text(root / path).splitlines():
            parts = [part.strip() for part in line.split(",", 2)]
            if parts[:2] == wanted and len(parts) == 3:
                return parts[2]
    return f"{architecture or 'device'} {wanted[0]}".strip()
