"""Compile the NVML of the tests, and read devices through it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("nvml.c")
MACHINES = Path(__file__).with_name("machines")


def build_driver(folder: Path, *, is_old: bool = False) -> Path:
    """Compile the library into a folder and return the folder."""
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"),
            *(["-DOLD_DRIVER"] if is_old else []),
            *("-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)),
        ],
        check=True,
        timeout=60,
    )
    return folder


def make_env(driver: Path, machine: Path) -> dict[str, str]:
    """Return what a process needs to see a machine's devices."""
    return os.environ | {"LD_LIBRARY_PATH": str(driver), "NVML_MACHINE": str(machine)}


def run_bench(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run `gpumarket provider bench --json` and return its data."""
    envelope = run_command(env, "provider", "bench", *arguments)
    assert envelope["ok"], envelope["errors"]
    data: dict[str, Any] = envelope["data"]
    return data


def run_command(env: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run a `gpumarket` command and return the document it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "gpumarket.cli.main", *arguments, "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    envelope: dict[str, Any] = json.loads(done.stdout)
    return envelope
