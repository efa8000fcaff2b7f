"""What every role opens before it starts: keys, chain, journal, peers and content, in order."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.journal import SqlJournal
from gpumarket.adapters.jury_chain import JuryChain
from gpumarket.adapters.keys import Identity, load_identity, read_password
from gpumarket.adapters.logs import Log, open_log
from gpumarket.adapters.network import PeerNetwork
from gpumarket.adapters.p2p import open_network
from gpumarket.adapters.transaction_rules import Patience
from gpumarket.config import RoleSettings
from gpumarket.protocol.catalog import find_exit
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.ids import format_hex, parse_address
from gpumarket.protocol.signing import Domain

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Equipment:
    """A role's open connections to the world."""

    settings: RoleSettings
    identity: Identity
    domain: Domain
    chain: JuryChain
    journal: SqlJournal
    network: PeerNetwork
    content: EmbeddedNode
    log: Log

    @property
    def data_dir(self) -> Path:
        """The role's own folder."""
        return Path(self.settings.data_dir)


@contextlib.asynccontextmanager
async def open_equipment(
    settings: RoleSettings, log: Log, *, topics: frozenset[str] = frozenset()
) -> AsyncIterator[Equipment]:
    """Open everything; the journal's lock first, so that a second process stops at once."""
    data_dir = Path(settings.data_dir)
    journal = SqlJournal(data_dir)
    try:
        password = read_password(Path(settings.password_file))
        identity = await trio.to_thread.run_sync(lambda: load_identity(data_dir, password=password))
        contract = parse_address(settings.contract)
        chain = JuryChain(
            rpc_url=settings.rpc_url,
            contract=contract,
            secret=identity.secret,
            patience=Patience(confirmations=settings.blocks_to_confirm),
        )
        await chain.check_network(settings.chain_id)
        async with (
            open_network(
                key_seed=identity.peer_seed, listen_port=settings.listen_port, topics=topics
            ) as network,
            open_node(
                network, data_dir / "content", quota_bytes=settings.store_bytes_max
            ) as content,
        ):
            yield Equipment(
                settings=settings,
                identity=identity,
                domain=settings.domain,
                chain=chain,
                journal=journal,
                network=network,
                content=content,
                log=log,
            )
    finally:
        journal.close()


def announce_ready(equipment: Equipment, *, http_port: int, summary: str) -> None:
    """Tell whoever started us that we serve: one line on stdout."""
    ready = {
        "account": format_hex(equipment.identity.address),
        "peer_id": equipment.network.peer_id,
        "address": equipment.network.addresses[0],
        "url": f"http://{LOOPBACK}:{http_port}",
        "summary": summary,
    }
    sys.stdout.write(f"ready {json.dumps(ready)}\n")
    sys.stdout.flush()


def run_role(role: str, serve: Callable[[Log], Awaitable[None]], *, log_level: str = "INFO") -> int:
    """Run a role until it is told to stop; return the process's exit status."""
    log = open_log(role, level=log_level)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, nursery.cancel_scope)
            await serve(log)
            nursery.cancel_scope.cancel()

    failures: list[GpuMarketError] = []
    try:
        trio.run(main)
    except* GpuMarketError as group:
        failures.append(_find_first(group))
    for error in failures:
        log.error(error.message, code=error.code, why=error.why, hints=", ".join(error.hints))
        return int(find_exit(error))
    log.info("stopped")
    return 0


async def _watch_signals(
    scope: trio.CancelScope, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


def _find_first(error: BaseException) -> GpuMarketError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, GpuMarketError):
        return error
    raise error
