"""Machines that are advertised by a provider process, and found by a coordinator in another one."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpumarket.protocol.machine import Machine
from gpumarket.protocol.offer import Offer
from gpumarket.protocol.topology import find_nearness
from tests.native.amd_machine import lay_out_fabric, lay_out_server
from tests.native.driver import MACHINES, build_driver, make_env, run_bench


def load(name: str) -> Any:
    """Load a neighbor file: test folders are no packages."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


harness = load("provider_harness")


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from harness.run_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
async def office(tmp_path: Path, rpc_url: str) -> AsyncIterator[Any]:
    no_image = (tmp_path / "none", "")
    async with harness.open_office(tmp_path, no_image, rpc_url) as office:
        yield office


async def find_offer(node: Any, office: Any) -> Offer:
    """Start a provider as it is started anywhere, and return what the coordinator is told."""
    try:
        await node.start()
        await harness.until(lambda: office.desk.hellos)
        offer: Offer = office.desk.hellos[0].offer.body
        return offer
    finally:
        node.close()


@pytest.mark.parametrize(("machine", "count", "joined"), [("eight", 8, 28), ("mixed", 4, 1)])
async def test_nvidia_machines_are_found(
    office: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    machine: str,
    count: int,
    joined: int,
) -> None:
    for name, value in make_env(build_driver(tmp_path), MACHINES / f"{machine}.txt").items():
        monkeypatch.setenv(name, value)  # for the process that is started, which loads the library
    carbon = 'carbon_grams_per_kwh = 28\ncarbon_source = "the grid, 2025"'
    offer = await find_offer(harness.make_node(tmp_path, office, extra=carbon), office)
    assert len(offer.devices) == count
    assert {device.vendor for device in offer.devices} == {"nvidia"}
    found = [find_nearness(*pair) for pair in itertools.combinations(offer.devices, 2)]
    assert found.count("nvlink") == joined
    assert isinstance(offer.machine, Machine)
    assert offer.machine.carbon_grams_per_kwh == 28
    assert offer.machine.measured is None  # nobody ran the bench here


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount another machine's /sys")
async def test_an_amd_machine_and_its_fabric_are_found(office: Any, tmp_path: Path) -> None:
    machine = lay_out_fabric(lay_out_server(tmp_path / "machine"))
    node = harness.make_node(tmp_path, office)
    # In a mount namespace of its own: what the process sees as /sys is that machine's.
    node.launcher = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount --bind {machine / "sys"} /sys && exec "$@"',
        "sh",
    )
    offer = await find_offer(node, office)
    assert [device.model for device in offer.devices][:2] == ["AMD INSTINCT MI250X"] * 2
    assert find_nearness(*offer.devices[:2]) == "xgmi"
    assert isinstance(offer.machine, Machine)
    assert [port.kind for port in offer.machine.fabric] == ["infiniband", "roce"]


async def test_what_the_bench_measured_is_offered(office: Any, tmp_path: Path) -> None:
    node = harness.make_node(tmp_path, office)
    told = run_bench(dict(os.environ), "--seconds", "0.1", "--config", str(node.config))
    assert told["is_kept"]
    offer = await find_offer(node, office)
    assert [device.vendor for device in offer.devices] == ["cpu"]
    assert isinstance(offer.machine, Machine)
    assert msgspec.to_builtins(offer.machine.measured) == told["machine"]["measured"]
