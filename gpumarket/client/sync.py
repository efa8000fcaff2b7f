"""
The synchronous client: the same methods, for scripts, notebooks and other event loops.

One thread runs an asyncio loop; each call waits there. The methods are written out, so editors
show their signatures.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from gpumarket.client.accepting import Delivery
from gpumarket.client.aio import AsyncClient, Download, OnProgress
from gpumarket.client.connection import Connection
from gpumarket.client.ordering import Market, Plan
from gpumarket.client.packing import Packed
from gpumarket.client.preparing import ContentStat
from gpumarket.client.results import TaskOutput
from gpumarket.client.transport import Json
from gpumarket.client.views import Event
from gpumarket.client.wallet import Signer
from gpumarket.jobfile import JobFile
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.job import JobSpec

T = TypeVar("T")
STOP_SECONDS = 5


class Client:
    """One coordinator seen by one requester; use as `with Client() as client`."""

    def __init__(self, url: str | None = None, *, connection: Connection | None = None) -> None:
        self._client = AsyncClient(url, connection=connection)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def connection(self) -> Connection:
        """The settings in use, with their origins."""
        return self._client.connection

    def __enter__(self) -> Client:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="gpumarket-client", daemon=True
        )
        self._thread.start()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is None or self._thread is None:
            return
        try:
            self._wait(self._client.__aexit__(kind, error, trace))
            self._wait(self._loop.shutdown_asyncgens())
            self._wait(self._loop.shutdown_default_executor())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()
            self._loop = self._thread = None

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise GpuMarketError("the client is used outside its `with` block")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C interrupts the waiting thread only; the work must stop too.
            future.cancel()
            raise

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        while True:
            try:
                yield self._wait(_take_next(source))
            except StopAsyncIteration:
                return

    # ---- the market ------------------------------------------------------------------------

    def info(self) -> Json:
        """Return what the coordinator says of itself: version, chain, contract, limits."""
        return self._wait(self._client.info())

    def offers(self) -> list[Json]:
        """Return all offers that have not expired."""
        return self._wait(self._client.offers())

    def providers(self) -> list[Json]:
        """Return all providers the coordinator knows, with their reputation."""
        return self._wait(self._client.providers())

    def verifiers(self) -> list[Json]:
        """Return all verifiers the coordinator knows, with what their word has been worth."""
        return self._wait(self._client.verifiers())

    def canaries(self) -> Json:
        """Return the share of results forged on purpose among the checks, and those revealed."""
        return self._wait(self._client.canaries())

    def quote(self, spec: JobSpec) -> Json:
        """Return what the market says to a job now: funnel, offers, price, feasible."""
        return self._wait(self._client.quote(spec))

    def market(self) -> Market:
        """Return the coordinator's network; raises GM-3020 where it is not the configured one."""
        return self._wait(self._client.market())

    # ---- content ---------------------------------------------------------------------------

    def add_content(self, path: Path, *, on_progress: OnProgress | None = None) -> Packed:
        """Send a file or folder to the coordinator's content store; return its name and size."""
        return self._wait(self._client.add_content(path, on_progress=on_progress))

    def stat_content(self, cid: str) -> ContentStat:
        """Say what a CID is; raises `CoordinatorRefused` GM-6012 where nobody has it."""
        return self._wait(self._client.stat_content(cid))

    # ---- jobs ------------------------------------------------------------------------------

    def plan(self, job: JobFile | Path, *, overrides: Mapping[str, Any] | None = None) -> Plan:
        """Resolve a job file and ask the market; nothing is signed. See `AsyncClient.plan`."""
        return self._wait(self._client.plan(job, overrides=overrides))

    def submit(
        self,
        plan: Plan,
        signer: Signer,
        *,
        wait_for_capacity_s: int = 0,
        idempotency_key: str = "",
        on_progress: OnProgress | None = None,
    ) -> Json:
        """Upload what is missing, sign the order and send it. See `AsyncClient.submit`."""
        return self._wait(
            self._client.submit(
                plan,
                signer,
                wait_for_capacity_s=wait_for_capacity_s,
                idempotency_key=idempotency_key,
                on_progress=on_progress,
            )
        )

    def list_jobs(self, *, state: str = "") -> list[Json]:
        """Return jobs, newest first; `state` keeps only those in it."""
        return self._wait(self._client.list_jobs(state=state))

    def job(self, job_id: str) -> Json:
        """Return all about a job; the beginning of its id is enough where it is unique."""
        return self._wait(self._client.job(job_id))

    def tasks(self, job_id: str) -> list[Json]:
        """Return the tasks of a job with their attempts."""
        return self._wait(self._client.tasks(job_id))

    def why(self, job_id: str) -> Json:
        """Return why a job is where it is, and who must act next."""
        return self._wait(self._client.why(job_id))

    def logs(self, job_id: str, *, task: int | None = None) -> list[Json]:
        """Return what is known of a program's output: last lines, tails of failed tries."""
        return self._wait(self._client.logs(job_id, task=task))

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """Yield a job's history; with `follow`, until it has ended. Resumes by itself."""
        return self._iterate(self._client.events(job_id, after=after, follow=follow))

    def outputs(self, job_id: str) -> list[TaskOutput]:
        """Return the accepted results of a job."""
        return self._wait(self._client.outputs(job_id))

    def receipt(self, job_id: str, *, compact: bool = False, anchored: bool = False) -> bytes:
        """Return the proof of execution as its DAG-CBOR bytes."""
        return self._wait(self._client.receipt(job_id, compact=compact, anchored=anchored))

    def cancel(self, job_id: str, signer: Signer) -> Json:
        """End a job, signed by its requester; what was accepted until now is paid."""
        return self._wait(self._client.cancel(job_id, signer))

    def delivery(self, job_id: str) -> Delivery:
        """Return what a job's requester can accept, by its proof as it is now."""
        return self._wait(self._client.delivery(job_id))

    def accept(self, job: str | Delivery, signer: Signer) -> Json:
        """Sign that we take a job's work; its providers are told. See `AsyncClient.accept`."""
        return self._wait(self._client.accept(job, signer))

    def wait(
        self,
        job_id: str,
        *,
        until: Literal["finished", "settled"] = "settled",
        timeout: float | None = None,
    ) -> Json:
        """Wait for the results or the settlement. See `AsyncClient.wait`."""
        return self._wait(self._client.wait(job_id, until=until, timeout=timeout))

    def download(
        self,
        job_id: str,
        folder: Path,
        *,
        task: int | None = None,
        only_verified: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Download:
        """Fetch results into `folder`, one folder a task. See `AsyncClient.download`."""
        return self._wait(
            self._client.download(
                job_id, folder, task=task, only_verified=only_verified, on_progress=on_progress
            )
        )


async def _take_next(source: AsyncIterator[T]) -> T:
    return await anext(source)
