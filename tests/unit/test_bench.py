"""scripts/bench: the dispatcher, the figures, and that both sides ask for one container."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gpumarket.adapters.execution import InputMount, Limits, RunRequest
from gpumarket.adapters.output_volume import OutputVolume, VolumeKind
from scripts.benchmarks import BENCHMARKS, load_benchmark
from scripts.benchmarks.figures import compute_quantile, summarize, write_figures
from scripts.benchmarks.plain_docker import build_run_command

ROOT = Path(__file__).resolve().parents[2]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/bench", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_request(folder: Path) -> RunRequest:
    return RunRequest(
        name="gpumarket-a",
        lease_id="a",
        image_digest="ab" * 32,
        argv=("python3", "-c", "print(1)"),
        env={"GPUMARKET_TASK_INDEX": "0"},
        inputs=(InputMount(host_path=folder / "in", container_path="/in/x"),),
        output_path="/out",
        output_folder=folder,
        limits=Limits(memory_bytes=10**9, cpu_millis=1500, run_ms=1000, output_bytes=10**6),
    )


def test_without_a_name_it_lists_the_benchmarks() -> None:
    done = run_bench()
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(BENCHMARKS)


@pytest.mark.parametrize("arguments", [("beauty",), ("job-path", "-n", "0")])
def test_what_it_does_not_know_is_refused_before_anything_runs(arguments: tuple[str, ...]) -> None:
    done = run_bench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")


def test_every_benchmark_that_is_listed_exists() -> None:
    assert all(callable(load_benchmark(name)) for name in BENCHMARKS)


def test_ratios_are_taken_round_by_round() -> None:
    figures = summarize([1.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    assert (figures["median_ratio"], figures["n"]) == (1.0, 3)
    assert figures["p95_ratio"] == pytest.approx(1.9)
    assert (figures["ours_median_ms"], figures["theirs_median_ms"]) == (3000.0, 2000.0)


def test_sides_with_different_numbers_of_rounds_are_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        summarize([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.5), (0.95, 3.85), (1.0, 4.0)])
def test_a_quantile_lies_between_its_neighbors(share: float, expected: float) -> None:
    assert compute_quantile([4.0, 2.0, 3.0, 1.0], share) == pytest.approx(expected)


def test_figures_are_written_as_json(tmp_path: Path) -> None:
    write_figures(tmp_path / "f.json", {"median_ratio": 1.1, "n": 3})
    assert json.loads((tmp_path / "f.json").read_text()) == {"median_ratio": 1.1, "n": 3}


def test_plain_docker_gets_every_option_of_the_sandbox(tmp_path: Path) -> None:
    volume = OutputVolume(tmp_path / "v", bytes_max=10**6, kind=VolumeKind.FOLDER)
    command = build_run_command(
        make_request(tmp_path),
        volume,
        image_env=("NVIDIA_VISIBLE_DEVICES=all",),
        seccomp_path=tmp_path / "seccomp.json",
    )
    assert command[:3] == ["docker", "run", "--rm"]
    assert command[-3:] == [f"sha256:{'ab' * 32}", "-c", "print(1)"]
    for flag in (
        "--entrypoint=python3",
        "--env=NVIDIA_VISIBLE_DEVICES",
        "--env=GPUMARKET_TASK_INDEX=0",
        "--user=65534:65534",
        "--network=none",
        "--read-only=true",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        f"--security-opt=seccomp={tmp_path / 'seccomp.json'}",
        "--memory=1000000000",
        "--memory-swap=1000000000",
        "--cpus=1.500",
        "--init=true",
        "--ulimit=core=0:0",
        f"--mount=type=bind,source={tmp_path / 'in'},target=/in/x,readonly",
        f"--mount=type=bind,source={tmp_path / 'v' / 'out'},target=/out",
    ):
        assert flag in command
    assert json.loads((tmp_path / "seccomp.json").read_text())["defaultAction"] == "SCMP_ACT_ERRNO"


def test_an_option_that_docker_run_would_not_get_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "scripts.benchmarks.plain_docker.build_host_config",
        lambda _request, _volume: {"security_opt": [], "privileged": True},
    )
    volume = OutputVolume(tmp_path / "v", bytes_max=1, kind=VolumeKind.FOLDER)
    with pytest.raises(KeyError, match="privileged"):
        build_run_command(make_request(tmp_path), volume, image_env=(), seccomp_path=tmp_path / "s")
