"""A real chain for tests and the devnet: anvil from npm, on loopback, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gpumarket.adapters.deployment import ContractConfig
from gpumarket.protocol.errors import InvalidInput, Unrecoverable

START_SECONDS_MAX = 60.0
QUICK_CONFIG = ContractConfig(
    epoch=3,
    open=1,
    response=1,
    exit_delay=6,
    seed_delay_blocks=2,
    nonce_timeout_blocks=20,
    min_bond=1_000_000,
    min_stake=1_000_000,
    challenge_bond=1_000,
    jury_bond=2_000,
    bond_slash=250_000,
    stake_slash=1_000_000,
)
"""A contract in which a test need not wait long for anything."""
_PACKAGED = Path("contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")


def find_anvil() -> Path:
    """Find the anvil binary: GPUMARKET_ANVIL, the repository's npm packages, then the PATH."""
    named = os.environ.get("GPUMARKET_ANVIL")
    packaged = Path(__file__).resolve().parents[2] / _PACKAGED
    on_path = shutil.which("anvil")
    for candidate in (named, packaged, on_path):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise InvalidInput(
        "anvil, the local chain, is not installed",
        code="GM-2120",
        hints=("scripts/setup",),
        money="nothing was started",
    )


def find_free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_anvil(port: int, log_path: Path, *, block_seconds: int | None) -> subprocess.Popen[bytes]:
    """
    Start anvil and return when it answers.

    `block_seconds` of None mines a block for each transaction, and only then.
    """
    command = [str(find_anvil()), "--hardfork", "prague", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--chain-id", "31337"]
    if block_seconds is not None:
        command += ["--block-time", str(block_seconds)]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return process
        time.sleep(0.05)
    process.kill()
    raise Unrecoverable(f"anvil did not start; its log is {log_path}")


@contextlib.contextmanager
def run_anvil(folder: Path, *, block_seconds: int | None = None) -> Iterator[str]:
    """Run anvil for the life of the context and give its RPC URL."""
    port = find_free_port()
    process = start_anvil(port, folder / "anvil.log", block_seconds=block_seconds)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS_MAX)
