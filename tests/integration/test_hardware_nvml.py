"""NVIDIA's own C boundary: the real binding loads a library that answers as real machines do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.native.driver import MACHINES, build_driver, make_env, run_bench, run_command


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


def read(driver: Path, machine: Path | str, root: Path) -> dict[str, Any]:
    path = MACHINES / f"{machine}.txt" if isinstance(machine, str) else machine
    return run_bench(make_env(driver, path), "--seconds", "0.05", "--root", str(root))


def test_one_card_is_read_whole(driver: Path, tmp_path: Path) -> None:
    data = read(driver, "one", tmp_path)
    [device] = data["devices"]
    assert device == {
        "vendor": "nvidia",
        "model": "GeForce RTX 4090",
        "vram_bytes": 25757220864,
        "simulated": False,
        "compute_capability": [8, 9],
        "cuda": [12, 4],
        "driver": "550.90.07",
        "device_id": "GPU-3c9a1ad0-6b7f-2a19-33f0-0d1f4a6b2c11",
        "facts": {
            "architecture": "ada",
            "bus_address": "0000:01:00.0",
            "power_watts_max": 450,
            "clock_mhz_max": 3105,
            "memory_clock_mhz_max": 10501,
            "pcie_generation": 4,
            "pcie_width": 16,
            "place": [0, 0, 0, 0, 0],
        },
        "now": {
            "temperature_celsius": 41,
            "power_watts": 22,
            "clock_mhz": 210,
            "uncorrected_errors": None,
            "slowed_by": [],
        },
    }
    assert data["faults"] == []


def test_eight_cards_on_switches_are_one_island_on_two_sockets(
    driver: Path, tmp_path: Path
) -> None:
    data = read(driver, "eight", tmp_path)
    facts = [device["facts"] for device in data["devices"]]
    assert len(facts) == 8
    assert {(each["link_kind"], each["links"], each["island"]) for each in facts} == {
        ("nvlink", 18, 1)
    }
    assert [each["numa_node"] for each in facts] == [0, 0, 0, 0, 1, 1, 1, 1]
    # Whoever asks for less than an island looks at places: pairs on a switch, fours on a socket.
    assert [tuple(each["place"][:3]) for each in facts] == [
        *[(0, 0, 0), (0, 0, 0), (0, 1, 1), (0, 1, 1)],
        *[(1, 2, 2), (1, 2, 2), (1, 3, 3), (1, 3, 3)],
    ]
    assert data["nearness"][0][1:] == ["nvlink"] * 7


def test_mixed_models_have_an_island_of_those_that_are_joined(driver: Path, tmp_path: Path) -> None:
    data = read(driver, "mixed", tmp_path)
    islands = [(each["model"], each["facts"].get("island", 0)) for each in data["devices"]]
    assert islands == [
        ("RTX A6000", 1),
        ("RTX A6000", 1),
        ("Tesla T4", 0),
        ("RTX A6000", 0),
    ]
    assert [each["facts"].get("links", 0) for each in data["devices"]] == [4, 4, 0, 0]
    assert data["nearness"][0] == ["", "nvlink", "node", "node"]
    assert [each["facts"]["ecc"] for each in data["devices"]] == ["off", "off", "on", "off"]
    assert data["devices"][2]["now"]["slowed_by"] == ["heat"]


def test_instances_are_sold_and_an_empty_card_is_not(driver: Path, tmp_path: Path) -> None:
    data = read(driver, "mig", tmp_path)
    sold = [
        (each["model"], each["facts"].get("partition", ""), each["device_id"][:4])
        for each in data["devices"]
    ]
    assert sold == [
        ("A100-SXM4-40GB MIG 3g.20gb", "3g.20gb", "MIG-"),
        ("A100-SXM4-40GB MIG 1g.5gb", "1g.5gb", "MIG-"),
        ("A100-SXM4-40GB MIG 1g.5gb", "1g.5gb", "MIG-"),
        ("A100-SXM4-40GB", "", "GPU-"),
    ]
    assert [each["vram_bytes"] for each in data["devices"]][1:3] == [5100273664, 5100273664]
    assert data["nearness"][0][1:] == ["board", "board", "bridge"]
    [fault] = data["faults"]
    assert (fault["code"], "no instances" in fault["text"]) == ("GM-2142", True)


def test_failing_cards_are_named_and_not_sold(driver: Path, tmp_path: Path) -> None:
    data = read(driver, "failing", tmp_path)
    assert [each["device_id"] for each in data["devices"]] == ["GPU-good"]
    texts = [fault["text"] for fault in data["faults"]]
    assert [
        needle in text
        for needle, text in zip(
            ("GPU is lost", "3 memory errors", "spare rows", "Unknown Error"), texts, strict=True
        )
    ] == [True] * 4
    assert {fault["code"] for fault in data["faults"]} == {"GM-2141"}


def test_a_machine_of_broken_cards_says_so_and_sells_its_processor(
    driver: Path, tmp_path: Path
) -> None:
    machine = tmp_path / "lost.txt"
    machine.write_text("driver = 1\ncuda = 12040\ncount = 1\ngpu.0.handle = !15\n")
    data = read(driver, machine, tmp_path)
    assert [each["vendor"] for each in data["devices"]] == ["cpu"]
    assert len(data["faults"]) == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("init = !18", "version mismatch"),
        ("driver = !999", "Unknown Error"),
        ("driver = 550\ncount = !15", "GPU is lost"),
        ("driver = 550\ncount = 1\ngpu.0.name = !crash", "ended with -6"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_fault_and_no_crash(
    driver: Path, tmp_path: Path, lines: str, said: str
) -> None:
    machine = tmp_path / "machine.txt"
    machine.write_text(lines + "\n")
    data = read(driver, machine, tmp_path)
    assert [each["vendor"] for each in data["devices"]] == ["cpu"]
    [fault] = data["faults"]
    assert fault["code"] == "GM-2140"
    assert said in fault["text"]


def test_an_old_driver_leaves_facts_unknown(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    old = build_driver(tmp_path_factory.mktemp("old"), is_old=True)
    data = read(old, "eight", tmp_path)
    assert len(data["devices"]) == 8
    assert {"architecture", "numa_node"}.isdisjoint(data["devices"][0]["facts"])
    # It says where links lead, and not that these are switches, which are joined.
    assert [each["facts"]["island"] for each in data["devices"]] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert data["devices"][0]["facts"]["links"] == 18


def test_a_card_that_holds_whoever_asks_holds_no_node(driver: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.txt"
    machine.write_text(
        "driver = 550\ncount = 1\ngpu.0.uuid = !hang\ngpu.0.name = A\ngpu.0.memory = 1\n"
    )
    program = (
        "from gpumarket.adapters.nvml import read_nvidia\n"
        "found = read_nvidia(seconds_max=3.0)\n"
        "print(found.devices, found.faults[0].text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=make_env(driver, machine),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert done.stdout == "() the NVIDIA driver does not answer: no answer within 3 s\n"
    assert done.stderr == ""


def test_doctor_warns_of_what_cannot_be_sold_and_of_what_is_slow(
    driver: Path, tmp_path: Path
) -> None:
    machine = tmp_path / "machine.txt"
    text = (MACHINES / "mixed.txt").read_text() + "gpu.3.handle = !15\n"
    machine.write_text(text)
    told = run_command(make_env(driver, machine), "doctor", "--role", "provider")
    devices = [
        (each["mark"], each["code"])
        for each in told["data"]["findings"]
        if "device" in each["text"].lower()
    ]
    assert devices == [("ok", ""), ("ok", ""), ("warn", "GM-2144"), ("warn", "GM-2141")]


def test_the_bench_says_what_it_does_not_keep(driver: Path, tmp_path: Path) -> None:
    data = read(driver, "one", tmp_path)
    assert not data["is_kept"]
    assert data["machine"]["architecture"]
    assert set(data["machine"]["measured"]) == {
        *("measured_at", "memory_copy", "disk_write", "disk_read"),
    }
