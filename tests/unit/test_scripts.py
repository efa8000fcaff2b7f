"""The programs in scripts/: they parse, and they say plainly what a machine lacks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL_PROGRAMS = sorted(
    path
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci/run"]
    if path.is_file() and path.read_bytes().partition(b"\n")[0].endswith((b"sh", b"bash"))
)


def run_setup_beside(folder: Path, programs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup with some programs replaced by one-line scripts."""
    for name, body in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [ROOT / "scripts/setup"], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("program", SHELL_PROGRAMS, ids=lambda path: path.name)
def test_a_shell_program_parses(program: Path) -> None:
    shell = program.read_text().partition("\n")[0].rpartition("/")[2].split()[-1]
    done = subprocess.run(
        [shell, "-n", program], capture_output=True, text=True, timeout=10, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_setup_refuses_an_old_node_js_before_it_installs_anything(tmp_path: Path) -> None:
    done = run_setup_beside(tmp_path, {"node": "echo v18.1.0"})
    assert done.returncode == 12
    assert done.stderr.startswith("setup: Node.js is v18.1.0, 20 or newer is needed\n  try ")
    assert done.stdout == ""


def test_setup_refuses_a_machine_without_a_new_python(tmp_path: Path) -> None:
    names = ("python3", "python3.11", "python3.12", "python3.13")
    done = run_setup_beside(tmp_path, dict.fromkeys(names, "exit 1"))
    assert done.returncode == 12
    assert done.stderr.startswith("setup: Python 3.11 or newer is needed\n  try ")


def test_check_names_a_rule_that_it_does_not_know() -> None:
    done = subprocess.run(
        [ROOT / "scripts/check", "beauty"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "no such rule: beauty" in done.stdout
