"""Compatibility before money: each rule by a table, and what an image is read to need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.constraints import Candidate, Demand
from coordinator.core.matching import explain
from gpumarket.cli.output import describe_error
from gpumarket.client.ordering import Market, Plan, Prices, check_feasible
from gpumarket.protocol.compatibility import (
    CUDA_DRIVERS,
    DEVICE_RULES,
    Misfit,
    find_architecture_misfit,
    find_cuda,
    find_cuda_for_driver,
    find_device_misfit,
    find_driver,
    name_architecture,
    parse_driver,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.gpu import Device, DeviceNeed
from gpumarket.protocol.image_needs import (
    ImageNeeds,
    decode_image_needs_untrusted,
    meet_image,
    reduce_requirement,
)
from gpumarket.protocol.machine import Machine
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import (
    DOMAIN,
    make_address,
    make_device,
    make_offer,
    make_order,
    make_resources,
    make_spec,
)

H100 = make_device(model="H100", compute_capability=(9, 0), cuda=(12, 4), driver="550.90.07")
OLD = make_device(model="V100", compute_capability=(7, 0), cuda=(11, 4), driver="470.82.01")
MI300 = make_device(vendor="amd", model="MI300X", compute_capability=(0, 0), cuda=(0, 0))
CPU = make_device(vendor="cpu", model="EPYC", vram_bytes=0, cuda=(0, 0), compute_capability=(0, 0))


# ---- rules ---------------------------------------------------------------------------------

RULES: list[tuple[str, Device, DeviceNeed, Misfit | None]] = [
    ("any GPU", H100, DeviceNeed(count=1), None),
    ("its vendor", H100, DeviceNeed(count=1, vendor="nvidia"), None),
    ("ROCm on AMD", MI300, DeviceNeed(count=1, vendor="amd"), None),
    (
        "CUDA on AMD",
        MI300,
        DeviceNeed(count=1, vendor="nvidia", cuda_min=(12, 0)),
        Misfit("vendor", "nvidia", "amd", "an image built for amd"),
    ),
    (
        "ROCm on NVIDIA",
        H100,
        DeviceNeed(count=1, vendor="amd"),
        Misfit("vendor", "amd", "nvidia", "an image built for nvidia"),
    ),
    (
        "a processor is no GPU",
        CPU,
        DeviceNeed(count=1),
        Misfit("vendor", "any", "cpu", "an image built for cpu"),
    ),
    ("its capability", H100, DeviceNeed(count=1, compute_capability_min=(9, 0)), None),
    (
        "a newer capability",
        OLD,
        DeviceNeed(count=1, compute_capability_min=(8, 0)),
        Misfit("compute_capability", "8.0", "7.0", "a program built for compute capability 7.0"),
    ),
    ("its CUDA", H100, DeviceNeed(count=1, cuda_min=(12, 4)), None),
    ("an older CUDA", H100, DeviceNeed(count=1, cuda_min=(11, 0)), None),
    (
        "a newer CUDA",
        OLD,
        DeviceNeed(count=1, cuda_min=(12, 4)),
        Misfit(
            "cuda",
            "CUDA 12.4 (driver 550.54.14 or newer)",
            "CUDA 11.4 (driver 470.82.01)",
            "an image built for CUDA 11.4 or driver 550.54.14",
        ),
    ),
    (
        "a CUDA that no driver here has yet",
        H100,
        DeviceNeed(count=1, cuda_min=(99, 0)),
        Misfit("cuda", "CUDA 99.0", "CUDA 12.4 (driver 550.90.07)", "an image built for CUDA 12.4"),
    ),
    (
        "CUDA of a device that has none",
        MI300,
        DeviceNeed(count=1, cuda_min=(12, 0)),
        Misfit("cuda", "CUDA 12.0 (driver 525.60.13 or newer)", "no CUDA", "a device of nvidia"),
    ),
]


@pytest.mark.parametrize(("device", "need", "expected"), [row[1:] for row in RULES])
def test_each_rule_names_need_have_and_change(
    device: Device, need: DeviceNeed, expected: Misfit | None
) -> None:
    assert find_device_misfit([device], need) == expected


def test_every_rule_stands_in_the_table_on_both_sides() -> None:
    felled = {expected.rule for *_, expected in RULES if expected}
    assert felled == {rule.name for rule in DEVICE_RULES}


def test_the_device_that_gets_furthest_speaks() -> None:
    need = DeviceNeed(count=1, vendor="nvidia", cuda_min=(12, 8))
    misfit = find_device_misfit([MI300, H100, CPU], need)
    assert misfit is not None and misfit.rule == "cuda"
    assert find_device_misfit([], need) is None
    assert find_device_misfit([MI300, H100], DeviceNeed(count=1, vendor="nvidia")) is None


@pytest.mark.parametrize(
    ("need", "have", "fits"),
    [
        ("", "amd64", True),
        ("", "", True),
        ("amd64", "amd64", True),
        ("arm64", "arm64", True),
        ("arm64", "amd64", False),
        ("amd64", "arm64", False),
        ("amd64", "", False),
    ],
)
def test_an_image_runs_on_its_own_architecture(need: str, have: str, fits: bool) -> None:
    misfit = find_architecture_misfit(need, have)
    assert (misfit is None) == fits
    if misfit is not None:
        assert (misfit.rule, misfit.need) == ("architecture", need)
        assert misfit.change


@pytest.mark.parametrize(
    ("text", "name"),
    [("x86_64", "amd64"), ("AArch64", "arm64"), ("amd64", "amd64"), ("riscv64", "riscv64")],
)
def test_architectures_are_named_as_images_name_them(text: str, name: str) -> None:
    assert name_architecture(text) == name


# ---- drivers -------------------------------------------------------------------------------


def test_the_table_of_drivers_rises() -> None:
    assert [release for release, _ in CUDA_DRIVERS] == sorted(
        release for release, _ in CUDA_DRIVERS
    )
    assert [driver for _, driver in CUDA_DRIVERS] == sorted(driver for _, driver in CUDA_DRIVERS)


@pytest.mark.parametrize(
    ("claimed", "driver", "expected"),
    [
        ((12, 4), "550.90.07", (12, 4)),
        ((12, 4), "", (12, 4)),  # an old node says no driver
        ((0, 0), "550.90.07", (12, 4)),  # the driver says it
        ((12, 4), "470.82.01", (11, 4)),  # no such driver has it
        ((12, 7), "565.57.01", (12, 7)),  # a release that the table lacks
        ((14, 1), "600.10.01", (14, 1)),  # newer than the table
        ((12, 4), "none", (12, 4)),
        ((0, 0), "1.0", (0, 0)),
    ],
)
def test_a_device_has_no_newer_cuda_than_its_driver(
    claimed: tuple[int, int], driver: str, expected: tuple[int, int]
) -> None:
    assert find_cuda(make_device(cuda=claimed, driver=driver)) == expected


def test_drivers_and_releases_are_found_from_each_other() -> None:
    assert find_driver((12, 7)) == (570, 26)  # the next that has one
    assert find_driver((99, 0)) == ()
    assert find_cuda_for_driver((550,)) == (12, 4)
    assert find_cuda_for_driver((551,)) == (12, 5)
    assert find_cuda_for_driver((9999,)) == (0, 0)
    for text in ("", "a.b", "1.2.3.4", "-1", "1..2", "٣.1", "1" * 7):
        assert parse_driver(text) == ()


# ---- images --------------------------------------------------------------------------------


def make_config(**changes: Any) -> bytes:
    env = changes.pop("env", {})
    config = {"Env": [f"{key}={value}" for key, value in env.items()]} | changes.pop("config", {})
    return json.dumps({"architecture": "amd64", "os": "linux", "config": config} | changes).encode()


CUDA_12_4 = (
    "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471 "
    "brand=nvidia,driver>=470,driver<471 brand=geforce,driver>=535,driver<536"
)
NEEDS: list[tuple[str, bytes, ImageNeeds]] = [
    ("plain", make_config(), ImageNeeds(architecture="amd64")),
    ("arm", make_config(architecture="arm64"), ImageNeeds(architecture="arm64")),
    ("no architecture", make_config(architecture=None), ImageNeeds()),
    (
        "NVIDIA's own",
        make_config(env={"NVIDIA_REQUIRE_CUDA": CUDA_12_4, "CUDA_VERSION": "12.4.1"}),
        ImageNeeds(architecture="amd64", vendor="nvidia", cuda_min=(12, 4)),
    ),
    (
        "an older CUDA image with minor compatibility",
        make_config(env={"CUDA_VERSION": "12.4.1"}),
        ImageNeeds(architecture="amd64", vendor="nvidia", cuda_min=(12, 0)),
    ),
    (
        "before minor compatibility",
        make_config(env={"CUDA_VERSION": "10.2.89"}),
        ImageNeeds(architecture="amd64", vendor="nvidia", cuda_min=(10, 2)),
    ),
    (
        "by label",
        make_config(config={"Labels": {"com.nvidia.cuda.version": "9.0.176"}}),
        ImageNeeds(architecture="amd64", vendor="nvidia", cuda_min=(9, 0)),
    ),
    (
        "requirements that are switched off",
        make_config(env={"NVIDIA_REQUIRE_CUDA": CUDA_12_4, "NVIDIA_DISABLE_REQUIRE": "1"}),
        ImageNeeds(architecture="amd64"),
    ),
    (
        "two requirements",
        make_config(env={"NVIDIA_REQUIRE_CUDA": "cuda>=11.8", "NVIDIA_REQUIRE_ARCH": "arch>=8.0"}),
        ImageNeeds(
            architecture="amd64",
            vendor="nvidia",
            cuda_min=(11, 8),
            compute_capability_min=(8, 0),
        ),
    ),
    (
        "ROCm",
        make_config(env={"ROCM_VERSION": "6.2.0"}),
        ImageNeeds(architecture="amd64", vendor="amd"),
    ),
    (
        "both",
        make_config(env={"ROCM_PATH": "/opt/rocm", "CUDA_VERSION": "12.4"}),
        ImageNeeds(architecture="amd64"),
    ),
]


@pytest.mark.parametrize(("config", "expected"), [row[1:] for row in NEEDS])
def test_an_image_says_what_it_needs(config: bytes, expected: ImageNeeds) -> None:
    assert decode_image_needs_untrusted(config) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda>=11.8", ((11, 8), (0, 0))),
        ("cuda>11.8", ((11, 9), (0, 0))),
        ("cuda>=12.4 cuda>=11.8", ((11, 8), (0, 0))),  # either will do
        ("cuda>=11.8,arch>=8.0", ((11, 8), (8, 0))),  # both are needed
        ("driver>=550", ((12, 4), (0, 0))),
        ("driver>=550.54.14", ((12, 4), (0, 0))),
        ("driver>550.54.14", ((12, 5), (0, 0))),
        ("brand=tesla,driver>=450,driver<451", ((11, 0), (0, 0))),  # there is no other
        ("cuda!=11.0", ((0, 0), (0, 0))),
        ("", ((0, 0), (0, 0))),
    ],
)
def test_requirements_are_reduced_to_what_all_need(text: str, expected: object) -> None:
    assert reduce_requirement(text) == expected


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{",
        b'{"config": 3}',
        b"[" * 100_000,
        b" " * (2**20 + 1),
        make_config(config={"Env": "A=1"}),
        make_config(config={"Env": ["A=1"] * 5_000}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": "cuda>=banana"}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": "rm -rf /"}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": "cuda>=1 " * 5_000}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": "cuda>=1 " * 300}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": ",".join(["cuda>=1"] * 40)}),
        make_config(env={"NVIDIA_REQUIRE_CUDA": "driver>=x.y"}),
    ],
)
def test_what_cannot_be_read_is_refused(config: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_image_needs_untrusted(config)
    assert caught.value.code == "GM-5204"


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_hostile_configs_end_in_needs_or_in_a_refusal(data: bytes) -> None:
    for config in (data, make_config(env={"NVIDIA_REQUIRE_X": data.decode(errors="replace")})):
        try:
            assert isinstance(decode_image_needs_untrusted(config), ImageNeeds)
        except RemoteProtocolError:
            continue


# ---- before anything is signed ---------------------------------------------------------------

NVIDIA = ImageNeeds(architecture="amd64", vendor="nvidia", cuda_min=(12, 4))


def test_what_the_image_needs_becomes_part_of_what_is_signed() -> None:
    asked = make_resources(devices=DeviceNeed(count=1, cuda_min=(11, 0)))
    met = meet_image(asked, NVIDIA)
    assert (met.architecture, met.devices.vendor, met.devices.cuda_min) == (
        "amd64",
        "nvidia",
        (12, 4),
    )
    newer = make_resources(devices=DeviceNeed(count=1, cuda_min=(12, 8)))
    assert meet_image(newer, NVIDIA).devices.cuda_min == (12, 8)
    without = make_resources(devices=DeviceNeed(count=0))
    assert meet_image(without, NVIDIA).devices == without.devices
    assert meet_image(asked, ImageNeeds()) == asked


def test_a_job_that_asks_for_another_vendor_than_its_image_is_refused() -> None:
    asked = make_resources(devices=DeviceNeed(count=1, vendor="amd"))
    with pytest.raises(InvalidInput, match="the image is built for nvidia") as caught:
        meet_image(asked, NVIDIA)
    assert (caught.value.code, caught.value.money) == ("GM-1132", "nothing was signed")
    assert caught.value.hints


def explain_job(machine: Machine | None, **resources: Any) -> Any:
    spec = make_spec(resources=make_resources(**resources))
    offer = make_offer("provider-1", devices=(H100,), **({"machine": machine} if machine else {}))
    candidate = Candidate(
        offer=offer, reputation_ppm=500_000, stake=Amount(0), slots_free=1, running=0
    )
    demand = Demand(spec=spec, order=make_order(spec), allows_simulated=True)
    return explain(demand, [candidate])


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            {"devices": DeviceNeed(count=1, cuda_min=(12, 8))},
            (
                "cuda CUDA 12.8 (driver 570.26 or newer) -> CUDA 12.4 (driver 550.90.07) gives 1 "
                "offers (with an image built for CUDA 12.4 or driver 570.26)"
            ),
        ),
        (
            {"devices": DeviceNeed(count=1, vendor="amd")},
            "vendor amd -> nvidia gives 1 offers (with an image built for nvidia)",
        ),
        (
            {"devices": DeviceNeed(count=0), "architecture": "arm64"},
            "architecture arm64 -> amd64 gives 1 offers (with an image built for amd64)",
        ),
    ],
)
def test_the_market_names_the_smallest_change(resources: dict[str, Any], expected: str) -> None:
    funnel = explain_job(Machine(architecture="amd64"), **resources)
    assert funnel.feasible == 0
    assert [str(each) for each in funnel.relaxations] == [expected]


def test_a_machine_that_does_not_say_what_it_is_gets_no_image_that_does() -> None:
    need = {"devices": DeviceNeed(count=0), "architecture": "amd64"}
    assert explain_job(None, **need).feasible == 0
    assert explain_job(Machine(architecture="amd64"), **need).feasible == 1


def make_plan(quote: dict[str, Any]) -> Plan:
    market = Market(
        domain=DOMAIN,
        coordinator=make_address("coordinator"),
        fee=Amount(0),
        version="",
        is_devnet=True,
    )
    prices = Prices(
        checks=0, max_unit_price=Amount(1), max_check_price=Amount(0), max_fee=Amount(0)
    )
    return Plan(
        spec=make_spec(), market=market, budget=Amount(1), prices=prices, quote=quote, packed=()
    )


def test_nothing_is_signed_for_a_job_that_nobody_can_run() -> None:
    check_feasible(make_plan({"feasible": True}))
    check_feasible(make_plan({}))
    quote = {
        "feasible": False,
        "funnel": [
            {"stage": "online", "left": 2},
            {"stage": "cuda", "need": "CUDA 12.8", "fell": 2, "left": 0},
        ],
        "relaxations": [{"text": "cuda CUDA 12.8 -> CUDA 12.4 gives 2 offers"}],
    }
    with pytest.raises(InvalidInput) as caught:
        check_feasible(make_plan(quote))
    error = caught.value
    assert (error.code, error.why) == ("GM-4021", "2 at cuda CUDA 12.8")
    assert error.money == "nothing was signed, charged or locked"
    assert describe_error(error)["funnel"] == quote["funnel"]
    assert error.hints == ("cuda CUDA 12.8 -> CUDA 12.4 gives 2 offers",)
