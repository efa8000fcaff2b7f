"""A peer in its own process, for tests that freeze, kill and attack one: `python -m` this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from gpumarket.adapters.p2p import NetworkLimits, open_network
from gpumarket.adapters.session import RawStream, Session, SessionLimits
from tests.patience import PATIENCE

ECHO = "/gpumarket/echo/1"
RAISE = "/gpumarket/raise/1"
DEAF = "/gpumarket/deaf/1"
RAW_ECHO = "/gpumarket/raw-echo/1"
TOPIC = "gpumarket.test"
ROOT = Path(__file__).parents[2]


def make_limits(**changes: Any) -> NetworkLimits:
    """Limits for a test; names of SessionLimits go to the session's."""
    session = {k: v for k, v in changes.items() if k in SessionLimits.__dataclass_fields__}
    network = {k: v for k, v in changes.items() if k not in session}
    return replace(NetworkLimits(), session=replace(SessionLimits(), **session), **network)


class PeerProcess:
    """A running child process and what it says."""

    def __init__(self, process: trio.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.address: str = ready["address"]
        self.peer_id: str = ready["peer_id"]
        self.port: int = ready["port"]
        self._pending = b""

    async def read_line(self) -> dict[str, Any]:
        """The next thing it says."""
        with trio.fail_after(PATIENCE):
            return await _read_line(self.process, self)

    def freeze(self) -> None:
        """Stop it as a machine that hangs would."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        await self.process.wait()

    def measure_memory(self) -> int:
        """Its resident bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def start_peer(seed: str = "p", port: int = 0, **limits: Any) -> AsyncIterator[PeerProcess]:
    """Start a peer and wait until it listens; it is killed at the end."""
    options = json.dumps({"seed": seed, "port": port, "limits": limits})
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.integration.p2p_peer", options],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        with trio.fail_after(PATIENCE):
            ready = await _read_line(process, SimpleNamespace(_pending=b""))
        yield PeerProcess(process, ready)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def _read_line(process: trio.Process, rest: Any) -> dict[str, Any]:
    assert process.stdout is not None
    while b"\n" not in rest._pending:
        piece = await process.stdout.receive_some(65_536)
        if not piece:
            raise AssertionError("the peer process ended")
        rest._pending += piece
    line, _, rest._pending = rest._pending.partition(b"\n")
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def say(**fields: Any) -> None:
    """Tell the parent process."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def serve_echo(session: Session) -> None:
    """Send everything back, and tell when the session is over."""
    try:
        while True:
            await session.send(await session.receive())
    finally:
        say(ended=str(session.ended_by))


async def serve_raise(session: Session) -> None:
    """Fail at the first message."""
    await session.receive()
    raise ValueError("a bug in a handler")


async def serve_deaf(session: Session) -> None:
    """Never read anything."""
    await trio.sleep_forever()


async def serve_raw_echo(stream: RawStream) -> None:
    """Send every byte back until the other side has finished."""
    while piece := await stream.read(65_536):
        await stream.write(piece)
    await stream.close()


async def run_peer(options: dict[str, Any]) -> None:
    """Serve every test protocol until killed."""
    async with open_network(
        key_seed=options["seed"].ljust(32).encode(),
        listen_port=options["port"],
        topics=frozenset({TOPIC}),
        limits=make_limits(**options["limits"]),
    ) as network:
        network.serve(ECHO, serve_echo)
        network.serve(RAISE, serve_raise)
        network.serve(DEAF, serve_deaf)
        network.serve_raw(RAW_ECHO, serve_raw_echo)
        messages = await network.subscribe(TOPIC, lambda _, data: data != b"invalid")
        address = network.addresses[0]
        port = int(address.split("/tcp/")[1].split("/")[0])
        say(address=address, peer_id=network.peer_id, port=port)
        async for origin, data in messages:
            say(origin=origin, data=data.decode())


if __name__ == "__main__":
    trio.run(run_peer, json.loads(sys.argv[1]))
