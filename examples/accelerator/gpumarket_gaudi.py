"""
A plug-in of the group `gpumarket.accelerators`: Intel Gaudi, from the files of the kernel's driver.

It is an example of the form. The files are those that Linux names for `habanalabs` in
`Documentation/ABI/testing/sysfs-driver-habanalabs`; it was never run on such a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpumarket.protocol.gpu import Device, DeviceFacts

MEMORY_BYTES = {"gaudi": 32 * 2**30, "gaudi2": 96 * 2**30, "gaudi3": 128 * 2**30}
"""The driver names the model; data sheets say how much memory it has."""


def detect(root: Path) -> Iterator[Device]:
    """Return the accelerators of the machine whose file system is at `root`."""
    for folder in sorted((root / "sys/class/accel").glob("accel[0-9]*")):
        card = folder / "device"
        kind = read(card / "device_type").lower().partition(" ")[0]
        if kind not in MEMORY_BYTES or read(card / "status").lower() != "operational":
            continue
        yield Device(
            vendor="habana",
            model=f"Gaudi {kind.removeprefix('gaudi')}".strip(),
            vram_bytes=MEMORY_BYTES[kind],
            simulated=False,
            driver=read(root / "sys/module/habanalabs/version"),
            device_id=read(card / "pci_addr"),
            facts=DeviceFacts(
                architecture=kind,
                bus_address=read(card / "pci_addr"),
                nodes=(f"/dev/accel/{folder.name}",),
            ),
        )


def read(path: Path) -> str:
    """Return a small file's text; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip()[:64]
    except OSError:
        return ""
