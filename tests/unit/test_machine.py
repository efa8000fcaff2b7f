"""Hardware from files of the kernel, from measuring and from plug-ins; and the offer of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from coordinator.api.views import show_provider
from gpumarket.adapters.amd import read_amd
from gpumarket.adapters.bandwidth import find_measured, keep_measured, measure
from gpumarket.adapters.detection import Detection
from gpumarket.adapters.fabric import read_fabric
from gpumarket.adapters.gpus import detect
from gpumarket.adapters.machine import read_machine
from gpumarket.adapters.sysfs import find_bus_level
from gpumarket.config import ProviderConfig, load_config
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.compatibility import name_architecture
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import Device, DeviceFacts, list_engine_names
from gpumarket.protocol.hardware import GPU_CLASS, find_class
from gpumarket.protocol.machine import FabricPort, Machine, Measured
from gpumarket.protocol.offer import DEVICES_MAX, Offer
from gpumarket.protocol.topology import (
    BOARD,
    BRIDGE,
    NODE,
    SWITCH,
    SWITCHES,
    SYSTEM,
    find_islands,
    find_nearness,
    place_devices,
)
from gpumarket.testing.factories import NOW, make_device, make_offer
from tests.coordinator_market import Market
from tests.native.amd_machine import add_card, lay_out_fabric, lay_out_server, write

EXAMPLE = Path(__file__).parents[2] / "examples/accelerator"

# ---- AMD -----------------------------------------------------------------------------------


def get_facts(device: Device) -> DeviceFacts:
    assert isinstance(device.facts, DeviceFacts)
    return device.facts


def test_amd_devices_are_read_from_the_kernel(tmp_path: Path) -> None:
    found = read_amd(lay_out_server(tmp_path))
    assert found.faults == ()
    half, other, card = found.devices
    assert half == Device(
        vendor="amd",
        model="AMD INSTINCT MI250X",
        vram_bytes=68702699520,
        simulated=False,
        driver="amdgpu 6.7.8",
        device_id="GPU-a1b2c3d4e5f60701",
        facts=DeviceFacts(
            architecture="gfx90a",
            runtime="rocm 6.1.2",
            bus_address="0000:c3:00.0",
            numa_node=3,
            power_watts_max=560,
            clock_mhz_max=1700,
            memory_clock_mhz_max=1600,
            ecc="on",
            pcie_generation=4,
            pcie_width=16,
            link_kind="xgmi",
            links=1,
            island=1,
            place=(0, 0, 0, 0, 0),
            nodes=("/dev/kfd", "/dev/dri/renderD128"),
        ),
    )
    assert list_engine_names(found.devices) == (
        *("/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/dri/renderD130"),
    )
    assert (card.model, get_facts(card).architecture) == ("AMD Radeon RX 7900 XTX", "gfx1100")
    assert (get_facts(card).island, get_facts(card).ecc, card.device_id) == (0, "", "")
    assert find_nearness(half, other) == "xgmi"
    assert find_nearness(half, card) == "system"
    assert found.readings[0].temperature_celsius == 38
    assert found.readings[0].power_watts == 91
    assert detect(root=tmp_path).devices == found.devices


def test_a_failing_amd_device_is_named_and_not_sold(tmp_path: Path) -> None:
    root = lay_out_server(tmp_path)
    (root / "sys/class/drm/renderD128/device/ras/umc_err_count").write_text("ue: 5\nce: 0\n")
    (root / "sys/class/drm/renderD130/device/mem_info_vram_total").unlink()
    found = read_amd(root)
    assert [device.device_id for device in found.devices] == ["GPU-a1b2c3d4e5f60702"]
    # The other half of the island is not for sale, so there is no island.
    assert get_facts(found.devices[0]).island == 0
    assert [fault.text.partition(":")[0] for fault in found.faults] == [
        "AMD device 1",
        "AMD device 3",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("simd_count", "simd_count many"),
        ("simd_count", "simd_count 99999999999999999999999999"),
        ("nonsense", "\x00\x01\x02"),
    ],
)
def test_strange_files_are_no_devices(tmp_path: Path, name: str, text: str) -> None:
    node = tmp_path / "sys/class/kfd/kfd/topology/nodes/0"
    node.mkdir(parents=True)
    (node / "gpu_id").write_text("77")
    (node / "properties").write_text(text)
    assert read_amd(tmp_path) == Detection()


def test_the_way_over_the_bus_is_found_from_folders(tmp_path: Path) -> None:
    switch = "pci0000:c0/0000:c0:01.1/0000:c1:00.0"
    buses = {
        "first": f"{switch}/0000:c2:00.0/0000:c3:00.0",
        "same board": f"{switch}/0000:c2:00.0/0000:c3:00.1",
        "same switch": f"{switch}/0000:c2:01.0/0000:c4:00.0",
        "switch below": f"{switch}/0000:c2:02.0/0000:c5:00.0/0000:c6:00.0/0000:c7:00.0",
        "same bridge": "pci0000:c0/0000:c0:03.1/0000:c9:00.0",
        "same node": "pci0000:e0/0000:e0:01.1/0000:e1:00.0",
        "elsewhere": "pci0000:00/0000:00:01.1/0000:01:00.0",
    }
    cards = {
        name: add_card(
            tmp_path, render=index, bus=bus, numa=0 if name == "elsewhere" else 1, files={}
        )
        for index, (name, bus) in enumerate(buses.items())
    }
    levels = [find_bus_level(cards["first"], card) for card in list(cards.values())[1:]]
    assert levels == [BOARD, SWITCH, SWITCHES, BRIDGE, NODE, SYSTEM]


# ---- topology ------------------------------------------------------------------------------


def test_two_islands_are_two_and_what_is_alone_is_none() -> None:
    ends = [["b"], ["a"], [], ["switch"], ["switch"], ["elsewhere"]]
    assert find_islands(ends, list("abcdef")) == [1, 1, 0, 2, 2, 0]


def test_places_agree_as_far_as_devices_are_near() -> None:
    levels = {(0, 1): BOARD, (0, 2): SWITCHES, (1, 2): SWITCHES}
    places = place_devices(4, lambda a, b: levels.get((a, b), SYSTEM))
    assert places[0] == places[1]
    devices = [
        make_device(facts=DeviceFacts(place=place, architecture=str(index)))
        for index, place in enumerate(places)
    ]
    assert [find_nearness(devices[0], other) for other in devices[1:]] == [
        "board",
        "switches",
        "system",
    ]
    assert find_nearness(devices[0], make_device()) == "unknown"


def test_a_part_of_a_card_is_not_held_to_what_the_whole_card_does() -> None:
    part = make_device(model="H100 MIG 1g.10gb", facts=DeviceFacts(partition="1g.10gb"))
    assert find_class(part) is GPU_CLASS
    assert find_class(make_device(model="H100")).name == "h100"
    # Who offers it as a whole one is challenged as that.
    poser = make_device(model="H100", facts=DeviceFacts(partition="1g.10gb"))
    assert find_class(poser).name == "h100"


# ---- fabric --------------------------------------------------------------------------------


def test_ports_of_a_fabric_are_those_that_are_up(tmp_path: Path) -> None:
    assert read_fabric(tmp_path) == ()
    assert read_fabric(lay_out_fabric(tmp_path)) == (
        FabricPort(name="mlx5_0/1", kind="infiniband", megabits_per_second=400_000, numa_node=1),
        FabricPort(name="mlx5_1/1", kind="roce", megabits_per_second=2_500),
    )


# ---- plug-ins ------------------------------------------------------------------------------

PLUG_INS = {
    "good": "return [Device(vendor='acme', model='X1', vram_bytes=1, simulated=False)]",
    "loud": "print('hello'); os.write(1, b'noise'); return []",
    "crash": "os.abort()",
    "raise": "raise KeyError('libacme.so')",
    "hang": "time.sleep(60)",
    "poser": "return [Device(vendor='nvidia', model='H100', vram_bytes=1, simulated=False)]",
    "play": "return [Device(vendor='acme', model='X1', vram_bytes=1, simulated=True)]",
    "junk": "return ['a device']",
}


def install_plug_ins(folder: Path) -> None:
    """Write packages as an installer leaves them."""
    body = "\n".join(f"def detect_{name}(root):\n    {code}" for name, code in PLUG_INS.items())
    (folder / "acme.py").write_text(
        f"import os, time\nfrom gpumarket.protocol.gpu import Device\n{body}\n"
    )
    info = folder / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = acme:detect_{name}" for name in PLUG_INS)
    (info / "entry_points.txt").write_text(f"[gpumarket.accelerators]\n{lines}\n")


def test_a_plug_in_costs_nobody_else_s_devices(tmp_path: Path) -> None:
    install_plug_ins(tmp_path)
    program = (
        "import json\n"
        "from dataclasses import asdict\n"
        "from gpumarket.adapters.accelerators import read_plug_ins\n"
        "found = read_plug_ins(seconds_max=5.0)\n"
        "print(json.dumps([[d.model for d in found.devices], [f.text for f in found.faults]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    models, faults = msgspec.json.decode(done.stdout)
    assert models == ["X1"]
    said = {text.split()[1]: text.partition("): ")[2] for text in faults}
    assert set(said) == {"crash", "hang", "junk", "play", "poser", "raise"}
    assert "may not" in said["poser"]
    assert "simulated" in said["play"]
    assert "libacme.so" in said["raise"]
    assert "5 s" in said["hang"]


def lay_out_gaudi(root: Path, *, status: str) -> Path:
    for index in range(2):
        card = root / f"sys/class/accel/accel{index}/device"
        write(card / "device_type", "GAUDI2")
        write(card / "status", status if index else "Operational")
        write(card / "pci_addr", f"0000:{index}3:00.0")
    write(root / "sys/module/habanalabs/version", "1.16.0")
    return root


def test_the_example_is_installed_as_a_package_and_finds_its_devices(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    # Out of a copy: a build writes beside its sources.
    package = shutil.copytree(EXAMPLE, tmp_path / "package")
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run(
        [*pip, "--no-index", "--target", str(site), str(package)],
        env=quiet,
        timeout=110,
        check=True,
    )
    program = (
        "import sys, msgspec, pathlib\n"
        "from gpumarket.adapters.gpus import detect\n"
        "found = detect(root=pathlib.Path(sys.argv[1]))\n"
        "print(msgspec.json.encode([found.devices, found.faults]).decode())\n"
    )
    machine = lay_out_gaudi(tmp_path / "machine", status="in device creation")
    done = subprocess.run(
        [sys.executable, "-c", program, str(machine)],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    [[device], faults] = msgspec.json.decode(done.stdout)
    assert faults == []
    assert (device["vendor"], device["model"], device["vram_bytes"]) == (
        "habana",
        "Gaudi 2",
        96 * 2**30,
    )
    assert device["facts"]["nodes"] == ["/dev/accel/accel0"]
    assert (device["driver"], device["facts"]["architecture"]) == ("1.16.0", "gaudi2")


# ---- measuring -----------------------------------------------------------------------------


def test_a_measure_is_of_bytes_that_moved_and_leaves_no_file(tmp_path: Path) -> None:
    measured = measure(tmp_path, now=NOW, seconds=0.1)
    assert measured.measured_at == NOW
    assert min(measured.memory_copy, measured.disk_write, measured.disk_read) > 10**6
    assert list(tmp_path.iterdir()) == []
    keep_measured(tmp_path / "data", measured)
    assert find_measured(tmp_path / "data") == measured


def test_what_was_kept_and_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    assert find_measured(tmp_path) is None
    (tmp_path / "bench.json").write_text('{"measured_at": -1}')
    assert find_measured(tmp_path) is None


@pytest.mark.parametrize("seconds", [0, -1, 61, float("nan"), float("inf")])
def test_a_measure_has_an_end(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="no time to measure"):
        measure(tmp_path, now=NOW, seconds=seconds)


def test_a_disk_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="disk cannot be measured") as caught:
        measure(tmp_path / "nowhere", now=NOW, seconds=0.01)
    assert caught.value.code == "GM-2201"


# ---- the offer -----------------------------------------------------------------------------


def test_an_offer_without_facts_has_the_bytes_it_always_had() -> None:
    plain = encode_document(make_offer())
    assert b"facts" not in plain
    assert b"machine" not in plain
    assert decode_document_untrusted(plain, Offer) == make_offer()


def test_a_full_offer_travels_and_fits_into_a_message() -> None:
    facts = DeviceFacts(
        architecture="hopper",
        numa_node=0,
        power_watts_max=700,
        ecc="on",
        link_kind="nvlink",
        links=18,
        island=1,
        place=(0, 1, 2, 3, 4),
    )
    machine = Machine(
        fabric=(FabricPort(name="mlx5_0/1", kind="infiniband", megabits_per_second=400_000),),
        measured=Measured(measured_at=NOW, memory_copy=1, disk_write=2, disk_read=3),
        region_source="the lease of the hall",
        carbon_grams_per_kwh=0,
        carbon_source="own water power",
    )
    devices = (make_device(facts=facts),) * DEVICES_MAX
    data = encode_document(make_offer(devices=devices, machine=machine))
    assert len(data) < 100_000
    offer = decode_document_untrusted(data, Offer)
    assert offer.machine == machine
    assert offer.devices == devices
    assert isinstance(offer.machine, Machine)
    assert offer.machine.carbon_grams_per_kwh == 0


def test_a_market_shows_what_offers_say_of_machines() -> None:
    market = Market()
    facts = DeviceFacts(link_kind="nvlink", links=4, island=1)
    fabric = (FabricPort(name="mlx5_0/1", kind="roce", megabits_per_second=25_000),)
    told = {"devices": (make_device(facts=facts),), "machine": Machine(fabric=fabric)}
    market.join("provider-1", offer=told)
    market.join("provider-2")
    full, plain = (show_provider(market.state, each) for each in market.state.providers.values())
    assert full["devices"][0]["facts"] == {"link_kind": "nvlink", "links": 4, "island": 1}
    assert full["machine"]["fabric"][0]["megabits_per_second"] == 25_000
    assert (plain["devices"][0]["facts"], plain["machine"]) == ({}, {})


SETTINGS = """
[role]
data_dir = "data"
password_file = "password"
rpc_url = "http://127.0.0.1:1"
chain_id = 31337
contract = "0x0000000000000000000000000000000000000001"

[provider]
price_per_device_hour = "0.20 USDC"
region = "NO"
region_source = "the lease of the hall"
carbon_grams_per_kwh = 28
"""


def test_settings_of_place_and_carbon_name_their_source(tmp_path: Path) -> None:
    path = tmp_path / "provider.toml"
    path.write_text(SETTINGS)
    with pytest.raises(InvalidInput, match="says nothing without its source"):
        load_config(path, ProviderConfig, env={})
    path.write_text(SETTINGS + 'carbon_source = "the grid, 2025"\n')
    settings = load_config(path, ProviderConfig, env={}).provider
    measured = Measured(measured_at=NOW, disk_read=5)
    keep_measured(tmp_path, measured)
    assert read_machine(settings, tmp_path, root=lay_out_fabric(tmp_path)) == Machine(
        architecture=name_architecture(platform.machine()),
        fabric=read_fabric(tmp_path),
        measured=measured,
        region_source="the lease of the hall",
        carbon_grams_per_kwh=28,
        carbon_source="the grid, 2025",
    )
