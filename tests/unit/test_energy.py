"""Energy of a run: packages in a folder as the kernel has it, devices behind NVML's boundary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpumarket.adapters import energy
from gpumarket.adapters.energy import EnergyMeter, open_packages
from gpumarket.protocol.receipt import Energy
from tests.native.driver import MACHINES, build_driver, make_env

SPAN_UJ = 262_143_328_850
"""Where the counter of a server's package goes round, as its kernel says."""


def lay_out(root: Path, **zones: tuple[str, int]) -> Path:
    """Write powercap zones as `intel_rapl_common` does: `z0_1` is the zone `intel-rapl:0:1`."""
    for zone, (name, microjoules) in zones.items():
        folder = root / ("intel-rapl:" + zone.removeprefix("z").replace("_", ":"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text(f"{SPAN_UJ}\n")
    return root


async def measure(root: Path, *moves: dict[str, tuple[str, int]]) -> Energy | None:
    measurement = await EnergyMeter(root).begin(())
    for move in moves[:-1]:
        lay_out(root, **move)
        measurement.sample()
    for move in moves[-1:]:
        lay_out(root, **move)
    return await measurement.finish()


async def test_packages_are_summed_and_their_parts_are_not_counted_again(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        z0=("package-0", 1_000_000),
        z0_0=("core", 900_000),
        z1=("package-1", 5_000_000),
        z2=("psys", 9_000_000),
    )
    assert len(open_packages(tmp_path)) == 2
    moved = {
        "z0": ("package-0", 3_500_000),
        "z0_0": ("core", 3_000_000),
        "z1": ("package-1", 5_250_000),
        "z2": ("psys", 20_000_000),
    }
    assert await measure(tmp_path, moved) == Energy(source="rapl", millijoules=2_750)


async def test_a_counter_goes_round_as_often_as_it_was_looked_at(tmp_path: Path) -> None:
    lay_out(tmp_path, z0=("package-0", SPAN_UJ - 1_000_000))
    found = await measure(
        tmp_path,
        {"z0": ("package-0", 500_000)},
        {"z0": ("package-0", 9_500_000)},
        {"z0": ("package-0", 0)},
    )
    assert found is not None
    spans = SPAN_UJ // 1_000
    # Up to the first turn, then to the second one and over it.
    assert found.millijoules == pytest.approx(1_000 + 9_500 + (spans - 9_500), abs=3)


@pytest.mark.parametrize("broken", ["nothing", "no folder", "unreadable", "odd", "gone meanwhile"])
async def test_what_nothing_counts_is_unknown(tmp_path: Path, broken: str) -> None:
    root = tmp_path / "powercap"
    if broken != "no folder":
        root.mkdir()
    if broken in ("unreadable", "odd", "gone meanwhile"):
        lay_out(root, z0=("package-0", 1_000))
    counter = root / "intel-rapl:0" / "energy_uj"
    if broken == "unreadable":
        counter.unlink()
        counter.mkdir()  # root may read any file, but no folder
    elif broken == "odd":
        counter.write_text("-12\n")
    measurement = await EnergyMeter(root).begin(())
    if broken == "gone meanwhile":
        counter.unlink()
        measurement.sample()
        lay_out(root, z0=("package-0", 2_000))
    assert await measurement.finish() is None


async def test_a_long_run_is_looked_at_before_the_counter_goes_round_twice(
    tmp_path: Path, autojump_clock: object
) -> None:
    import trio

    lay_out(tmp_path, z0=("package-0", SPAN_UJ - 1_000_000))
    measurement = await EnergyMeter(tmp_path).begin(())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measurement.keep_sampling)
        for microjoules in (1_000_000, SPAN_UJ - 1_000_000, 1_000_000):
            lay_out(tmp_path, z0=("package-0", microjoules))
            await trio.sleep(energy.SAMPLE_SECONDS + 1)
        nursery.cancel_scope.cancel()
    found = await measurement.finish()
    assert found is not None
    assert found.millijoules == pytest.approx(SPAN_UJ // 1_000 + 2_000, abs=3)


READ = """
import json, sys, trio
from pathlib import Path
from gpumarket.adapters.energy import EnergyMeter

machine, given, *counts = sys.argv[1:]
path = Path(machine)

async def main():
    measurement = await EnergyMeter(Path("/nonexistent")).begin(json.loads(given))
    for count in counts:
        lines = [line for line in path.read_text().splitlines() if ".energy" not in line]
        path.write_text("\\n".join([*lines, *json.loads(count)]) + "\\n")
        measurement.sample()
    found = await measurement.finish()
    print(json.dumps(found and [found.source, found.millijoules]))

trio.run(main)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("nvml"))


def read_devices(
    driver: Path, folder: Path, before: list[str], *after: list[str], uuids: list[str]
) -> object:
    machine = folder / "machine.txt"
    text = (MACHINES / "mixed.txt").read_text()
    machine.write_text("\n".join([text, *before]) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(machine), json.dumps(uuids), *map(json.dumps, after)],
        env=make_env(driver, machine),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def list_uuids() -> list[str]:
    lines = (MACHINES / "mixed.txt").read_text().splitlines()
    return [line.partition("=")[2].strip() for line in lines if line.split(" ")[0].endswith("uuid")]


def test_devices_are_measured_by_their_own_counters(driver: Path, tmp_path: Path) -> None:
    before = ["gpu.0.energy = 1000", "gpu.1.energy = 70000", "gpu.2.energy = 5"]
    after = ["gpu.0.energy = 4000", "gpu.1.energy = 70500", "gpu.2.energy = 900"]
    both = list_uuids()[:2]
    assert read_devices(driver, tmp_path, before, after, uuids=both) == ["nvml", 3_500]


@pytest.mark.parametrize(
    ("before", "after", "uuid"),
    [
        ([], [], 0),  # older than Volta: not supported
        (["gpu.0.energy = 5000"], ["gpu.0.energy = 10"], 0),  # the driver was loaded again
        (["gpu.0.energy = 5"], ["gpu.0.energy = !15"], 0),  # the device is lost
        (["gpu.0.energy = 5"], ["gpu.0.energy = 9"], None),  # no such device
    ],
)
def test_devices_that_do_not_count_are_unknown(
    driver: Path, tmp_path: Path, before: list[str], after: list[str], uuid: int | None
) -> None:
    uuids = ["GPU-none"] if uuid is None else [list_uuids()[uuid]]
    assert read_devices(driver, tmp_path, before, after, uuids=uuids) is None
