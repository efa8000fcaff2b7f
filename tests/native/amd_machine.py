"""
Lay out the files of a machine with AMD devices, as the kernel does.

One MI250X (two halves that are joined by XGMI, a device each), and a consumer card, whose name is
in a list and not in the card.
"""

from __future__ import annotations

from pathlib import Path

GCD = """cpu_cores_count 0
simd_count 440
mem_banks_count 1
io_links_count 3
max_waves_per_simd 8
lds_size_in_kb 64
wave_front_size 64
gfx_target_version 90010
vendor_id 4098
device_id 29708
location_id {location}
domain 0
drm_render_minor {render}
hive_id 5592405
max_engine_clk_fcompute 1700
unique_id {unique}
"""
CARD = """cpu_cores_count 0
simd_count 192
gfx_target_version 110000
device_id 29772
drm_render_minor {render}
max_engine_clk_fcompute 2526
unique_id {unique}
"""
PROCESSOR = "cpu_cores_count 64\nsimd_count 0\nmem_banks_count 1\ngfx_target_version 0\n"
XGMI, PCIE = 11, 2


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else text + "\n")


def add_card(root: Path, *, render: int, bus: str, numa: int, files: dict[str, str]) -> Path:
    """Add a PCI device with its render node; return its folder."""
    device = root / "sys/devices" / bus
    node = device / f"drm/renderD{render}"
    node.mkdir(parents=True)
    (node / "device").symlink_to("../..")
    drm = root / "sys/class/drm"
    drm.mkdir(parents=True, exist_ok=True)
    (drm / f"renderD{render}").symlink_to(f"../../devices/{bus}/drm/renderD{render}")
    for name, text in ({"numa_node": str(numa)} | files).items():
        write(device / name, text)
    return device


def add_node(root: Path, number: int, properties: str, *, gpu_id: int, links: str = "") -> None:
    """Add a node of KFD's topology; `links` is `type:node_to` for each."""
    folder = root / "sys/class/kfd/kfd/topology/nodes" / str(number)
    write(folder / "gpu_id", str(gpu_id))
    write(folder / "properties", properties)
    write(folder / "mem_banks/0/properties", "heap_type 1\nsize_in_bytes 1\nmem_clk_max 1600\n")
    for index, link in enumerate(links.split()):
        kind, _, target = link.partition(":")
        text = f"type {kind}\nversion_major 0\nnode_from {number}\nnode_to {target}\nweight 15\n"
        write(folder / f"io_links/{index}/properties", text)


def lay_out_server(root: Path) -> Path:
    """Lay out the whole machine and return its root."""
    half = {
        "mem_info_vram_total": "68702699520",
        "product_name": "AMD INSTINCT MI250X",
        "device": "0x740c",
        "revision": "0x01",
        "max_link_speed": "16.0 GT/s PCIe",
        "max_link_width": "16",
        "current_compute_partition": "SPX",
        "ras/umc_err_count": "ue: 0\nce: 2",
        "hwmon/hwmon4/power1_cap": "560000000",
        "hwmon/hwmon4/power1_average": "91000000",
        "hwmon/hwmon4/temp1_input": "38000",
    }
    add_node(root, 0, PROCESSOR, gpu_id=0)
    switch = "pci0000:c0/0000:c0:01.1/0000:c1:00.0"
    for number, (render, bus, links) in enumerate(
        [
            (128, f"{switch}/0000:c2:00.0/0000:c3:00.0", f"{PCIE}:0 {XGMI}:2"),
            (129, f"{switch}/0000:c2:01.0/0000:c6:00.0", f"{PCIE}:0 {XGMI}:1"),
        ],
        start=1,
    ):
        properties = GCD.format(render=render, unique=0xA1B2C3D4E5F60700 + number, location=number)
        add_node(root, number, properties, gpu_id=1000 + number, links=links)
        add_card(root, render=render, bus=bus, numa=3, files=half)
    add_node(root, 3, CARD.format(render=130, unique=0), gpu_id=1003, links=f"{PCIE}:0")
    consumer = {
        "mem_info_vram_total": "25753026560",
        "device": "0x744c",
        "revision": "0xc8",
        "max_link_speed": "16.0 GT/s PCIe",
        "max_link_width": "16",
        "hwmon/hwmon5/power1_cap": "339000000",
    }
    add_card(root, render=130, bus="pci0000:40/0000:40:01.1/0000:41:00.0", numa=-1, files=consumer)
    write(
        root / "usr/share/libdrm/amdgpu.ids",
        "1.0.0\n744C,\tC0,\tAMD Radeon PRO W7900\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n",
    )
    write(root / "sys/module/amdgpu/version", "6.7.8")
    write(root / "opt/rocm/.info/version", "6.1.2-90")
    return root


def lay_out_fabric(root: Path) -> Path:
    """Add a port of InfiniBand, one of RoCE, one that is down, and an adapter of iWARP."""
    for name, kind, layer, state, rate in (
        ("mlx5_0", "1: CA", "InfiniBand", "4: ACTIVE", "400 Gb/sec (4X NDR)"),
        ("mlx5_1", "1: CA", "Ethernet", "4: ACTIVE", "2.5 Gb/sec (1X SDR)"),
        ("mlx5_2", "1: CA", "InfiniBand", "1: DOWN", "10 Gb/sec (4X SDR)"),
        ("irdma0", "4: RNIC", "Ethernet", "4: ACTIVE", "100 Gb/sec (4X EDR)"),
    ):
        adapter = root / "sys/class/infiniband" / name
        write(adapter / "node_type", kind)
        write(adapter / "device/numa_node", "1" if name == "mlx5_0" else "-1")
        write(adapter / "ports/1/link_layer", layer)
        write(adapter / "ports/1/state", state)
        write(adapter / "ports/1/rate", rate)
    return root
