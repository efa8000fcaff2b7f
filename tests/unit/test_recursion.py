"""No import lifts Python's limit on recursion: hostile nests end in errors, not in a crash."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpumarket.adapters.recursion import RECURSION_MAX

ROOT = Path(__file__).parents[2]
_LIFTS = re.compile(r"^(from|import) (web3|eth_account|eth_keyfile)\b", re.MULTILINE)


def list_modules() -> list[str]:
    """Name the modules of the product that import what lifts the limit, and the roles."""
    found = ["coordinator.service", "provider_node.service", "verifier.service"]
    for package in ("gpumarket", "coordinator", "provider_node", "verifier"):
        found += [
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in sorted((ROOT / package).rglob("*.py"))
            if _LIFTS.search(path.read_text())
        ]
    return found


MODULES = list_modules()


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


@pytest.mark.parametrize("module", MODULES)
def test_the_limit_stands_after_each_import(module: str) -> None:
    assert run(f"import sys, {module}; print(sys.getrecursionlimit())") == str(RECURSION_MAX)


def test_what_is_guarded_against_is_there() -> None:
    assert len(MODULES) > 3
    assert int(run("import sys, eth_keyfile; print(sys.getrecursionlimit())")) > RECURSION_MAX


def test_a_nest_in_an_image_ends_in_a_refusal_in_a_provider() -> None:
    code = """
import provider_node.service
from gpumarket.adapters.images import decode_json
from gpumarket.protocol.errors import RemoteProtocolError
try:
    decode_json(b"[" * 900_000)
except RemoteProtocolError as error:
    print(error.code)
"""
    assert run(code) == "GM-5204"
