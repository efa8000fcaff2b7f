"""
The asynchronous client: plan, submit, watch, fetch.

Speaks HTTP to one coordinator and believes it nothing that can be checked: content is compared
with its CID, the network with the configuration, the cost with the signed order.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

from gpumarket.client.accepting import (
    SENT_MAX,
    Delivery,
    check_delivery,
    read_delivery,
    sign_delivery,
)
from gpumarket.client.connection import Connection, find_connection
from gpumarket.client.ordering import (
    Market,
    Plan,
    check_feasible,
    check_network,
    estimate_checks,
    make_order,
    read_market,
    share_budget,
    sign_order,
)
from gpumarket.client.packing import Packed, iterate_car, pack
from gpumarket.client.preparing import ContentStat, prepare, stat_content
from gpumarket.client.results import ResultFolder, TaskOutput, read_outputs
from gpumarket.client.transport import (
    AnswerNotUnderstood,
    CoordinatorRefused,
    CoordinatorUnreachable,
    Json,
    Transport,
    read_lines,
)
from gpumarket.client.views import (
    ENDED,
    WORK_DONE,
    Event,
    check_job_id,
    find_state,
    read_event,
    read_object,
    read_rows,
)
from gpumarket.client.wallet import Signer
from gpumarket.jobfile import JobFile, load_job_file
from gpumarket.protocol.cids import ContentId, format_cid, parse_cid
from gpumarket.protocol.codec import to_dag_json
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import ContentError, GpuMarketError, InvalidInput
from gpumarket.protocol.ids import parse_hash
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.order import CancelOrder, Order
from gpumarket.protocol.proof_file import decode_proof_untrusted
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Timestamp
from gpumarket.resolving import check_supported, find_budget, resolve_job

CAR_TYPE: Final = "application/vnd.ipld.car"
RAW_TYPE: Final = "application/vnd.ipld.raw"
SSE_TYPE: Final = "text/event-stream"
CBOR_TYPE: Final = "application/vnd.ipld.dag-cbor"
RECEIPT_BYTES_MAX: Final = 64 * 2**20
RECONNECTS_MAX: Final = 30
"""Attempts in a row to pick up a stream again; a stream that gives an event starts anew."""
POLL_SECONDS: Final = 0.5
POLL_SECONDS_MAX: Final = 2.0

OnProgress = Callable[[Path, int], None]
"""Told the path and the bytes sent or received so far."""


@dataclass(frozen=True, slots=True)
class Download:
    """What a download did: folders that are here, and tasks that were left out and why."""

    folder: Path
    fetched: tuple[Path, ...]
    present: tuple[Path, ...]
    skipped: tuple[int, ...]
    received_bytes: int


class AsyncClient:
    """One coordinator seen by one requester; use as `async with AsyncClient() as client`."""

    def __init__(self, url: str | None = None, *, connection: Connection | None = None) -> None:
        self.connection = connection or find_connection({"url": url})
        self._transport = Transport(self.connection.url)
        self._market: Market | None = None

    async def __aenter__(self) -> AsyncClient:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    # ---- the market ------------------------------------------------------------------------

    async def info(self) -> Json:
        """Return what the coordinator says of itself: version, chain, contract, limits."""
        return read_object(await self._transport.get("/v1/info"), "info")

    async def offers(self) -> list[Json]:
        """Return all offers that have not expired."""
        return read_rows(await self._transport.get("/v1/offers"), "offers")

    async def providers(self) -> list[Json]:
        """Return all providers the coordinator knows, with their reputation."""
        return read_rows(await self._transport.get("/v1/providers"), "providers")

    async def verifiers(self) -> list[Json]:
        """Return all verifiers the coordinator knows, with what their word has been worth."""
        return read_rows(await self._transport.get("/v1/verifiers"), "verifiers")

    async def canaries(self) -> Json:
        """Return the share of results forged on purpose among the checks, and those revealed."""
        return read_object(await self._transport.get("/v1/canaries"), "canaries")

    async def quote(self, spec: JobSpec) -> Json:
        """Return what the market says to a job now: funnel, offers, price, feasible."""
        answer = await self._transport.post("/v1/quotes", {"spec": _to_json(spec)})
        return read_object(answer, "quote")

    async def market(self) -> Market:
        """
        Return the coordinator's network, checked against the configuration.

        Raises `InvalidInput` GM-3020 where they differ.
        """
        if self._market is None:
            market = read_market(await self.info())
            check_network(
                market,
                chain_id=self.connection.chain_id,
                contract=self.connection.find("contract"),
            )
            self._market = market
        return self._market

    # ---- content ---------------------------------------------------------------------------

    async def add_content(self, path: Path, *, on_progress: OnProgress | None = None) -> Packed:
        """Send a file or folder to the coordinator's content store; return its name and size."""
        packed = await asyncio.to_thread(pack, path)
        await self._upload(packed, on_progress)
        return packed

    async def stat_content(self, cid: str) -> ContentStat:
        """Say what a CID is; raises `CoordinatorRefused` GM-6012 where nobody has it."""
        return await stat_content(parse_cid(cid), self._fetch_block)

    async def _fetch_block(self, cid: ContentId) -> bytes:
        path = f"/ipfs/{format_cid(cid)}?format=raw"
        data = b""
        async with self._transport.open(path, accept=RAW_TYPE) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > BLOCK_BYTES_MAX:
                    raise ContentError("a block over the limit", code="GM-6014")
        return data

    async def _upload(self, packed: Packed, on_progress: OnProgress | None) -> None:
        pieces = _read_in_threads(iterate_car(packed), packed.path, on_progress)
        answer = await self._transport.upload("/v1/content", pieces, content_type=CAR_TYPE)
        if not isinstance(answer, dict) or packed.cid not in answer.get("roots", ()):
            raise ContentError(
                f"the coordinator names {packed.path} differently",
                code="GM-6014",
                why=f"it is {packed.cid}, the answer was {str(answer)[:200]}",
                fault="coordinator",
            )

    # ---- jobs ------------------------------------------------------------------------------

    async def plan(
        self, job: JobFile | Path, *, overrides: Mapping[str, Any] | None = None
    ) -> Plan:
        """
        Resolve a job file and ask the market; nothing is sent but the spec, nothing is signed.

        Raises `InvalidJobFile` with all mistakes, `InvalidInput` for a wrong network, an image
        that is not the named one, or a budget that is too small.
        """
        if not isinstance(job, JobFile):
            job = load_job_file(job, overrides=overrides)
        check_supported(job)
        market = await self.market()
        contents, packed = await prepare(job, self._fetch_block)
        spec = resolve_job(job, contents)
        quote = await self.quote(spec)
        budget = find_budget(job)
        providers = max(1, len(quote.get("offers") or ()))
        checks = estimate_checks(spec.verify, spec.units, providers=providers, budget=budget)
        prices = share_budget(budget, units=spec.units, checks=checks, fee=market.fee)
        return Plan(
            spec=spec, market=market, budget=budget, prices=prices, quote=quote, packed=packed
        )

    async def submit(
        self,
        plan: Plan,
        signer: Signer,
        *,
        wait_for_capacity_s: int = 0,
        idempotency_key: str = "",
        on_progress: OnProgress | None = None,
    ) -> Json:
        """
        Upload what the coordinator lacks, sign the order and send it; return the new job.

        Raises `NobodyFits` GM-4021 before anything is signed where the plan says that nobody
        can run the job and it shall not wait; `CoordinatorRefused` with the reason: GM-3011 escrow,
        GM-4021 no provider, ….
        """
        if not wait_for_capacity_s:
            check_feasible(plan)
        order = make_order(plan, requester=signer.address, now=Timestamp(int(time.time())))
        signed = sign_order(order, key=signer.key, domain=plan.market.domain)
        left_out = []
        for packed in plan.packed:
            if await self._transport.exists(f"/ipfs/{packed.cid}"):
                left_out.append(packed)
            else:
                await self._upload(packed, on_progress)
        key = idempotency_key or signed.body.nonce.hex()
        try:
            return await self._send_order(plan.spec, signed, wait_for_capacity_s, key)
        except CoordinatorRefused as error:
            # A root may be there without all that hangs below it, from an upload cut short.
            if error.code != "GM-6012" or not left_out:
                raise
        for packed in left_out:
            await self._upload(packed, on_progress)
        return await self._send_order(plan.spec, signed, wait_for_capacity_s, key)

    async def _send_order(
        self, spec: JobSpec, order: Signed[Order], wait_for_capacity_s: int, key: str
    ) -> Json:
        body = {
            "spec": _to_json(spec),
            "order": _to_json(order),
            "wait_for_capacity_s": wait_for_capacity_s,
        }
        answer = await self._transport.post("/v1/jobs", body, headers={"Idempotency-Key": key})
        return read_object(answer, "job")

    async def list_jobs(self, *, state: str = "") -> list[Json]:
        """Return jobs, newest first; `state` keeps only those in it."""
        params = {"state": state} if state else {}
        return read_rows(await self._transport.get("/v1/jobs", params), "jobs")

    async def job(self, job_id: str) -> Json:
        """Return all about a job; the beginning of its id is enough where it is unique."""
        return read_object(await self._transport.get(_path(job_id)), "job")

    async def tasks(self, job_id: str) -> list[Json]:
        """Return the tasks of a job with their attempts."""
        return read_rows(await self._transport.get(_path(job_id, "/tasks")), "tasks")

    async def why(self, job_id: str) -> Json:
        """Return why a job is where it is, and who must act next."""
        return read_object(await self._transport.get(_path(job_id, "/why")), "why")

    async def logs(self, job_id: str, *, task: int | None = None) -> list[Json]:
        """Return what is known of a program's output: last lines, tails of failed tries."""
        params = {} if task is None else {"task": str(int(task))}
        return read_rows(await self._transport.get(_path(job_id, "/logs"), params), "logs")

    async def outputs(self, job_id: str) -> list[TaskOutput]:
        """Return the accepted results of a job."""
        rows = read_rows(await self._transport.get(_path(job_id, "/outputs")), "outputs")
        return read_outputs(rows)

    async def receipt(self, job_id: str, *, compact: bool = False, anchored: bool = False) -> bytes:
        """
        Return the proof of execution as its DAG-CBOR bytes.

        `compact` leaves out what the seed did not draw; with `anchored` the chain's part must be
        there, which it is anyway where the coordinator's node proves the state.
        """
        wishes = ["form=compact"] * compact + ["anchors=require"] * anchored
        path = _path(job_id, "/receipt") + "?" * bool(wishes) + "&".join(wishes)
        return await self._read_all(path, CBOR_TYPE, RECEIPT_BYTES_MAX)

    async def cancel(self, job_id: str, signer: Signer) -> Json:
        """End a job, signed by its requester; what was accepted until now is paid."""
        job = await self.job(job_id)
        wish = CancelOrder(order_hash=parse_hash(str(job.get("order_hash", ""))))
        signed = signer.key.sign(wish, (await self.market()).domain).as_signed()
        path = _path(str(job.get("id", job_id)), "/cancel")
        return read_object(await self._transport.post(path, {"cancel": _to_json(signed)}), "job")

    async def delivery(self, job_id: str) -> Delivery:
        """
        Return what a job's requester can accept, by its proof as it is now.

        Raises `InvalidInput` GM-3020 where the proof is of another network than the market.
        """
        delivery = read_delivery(decode_proof_untrusted(await self.receipt(job_id)))
        if delivery.domain != (await self.market()).domain:
            raise InvalidInput("the proof is of another network", code="GM-3020")
        return delivery

    async def accept(self, job: str | Delivery, signer: Signer) -> Json:
        """
        Sign that we take the work of a job's receipts, and let the coordinator tell the providers.

        They can then settle these receipts without a batch. Returns how many were `taken`, and
        which providers are `absent`: they are told when they join again. Raises as
        `check_delivery` does.
        """
        delivery = await self.delivery(job) if isinstance(job, str) else job
        check_delivery(delivery, self.connection, signer.account)
        approvals = sign_delivery(delivery, signer.key).approvals
        absent: list[str] = []
        path, taken = _path(delivery.job_id, "/acceptances"), 0
        for start in range(0, len(approvals), SENT_MAX):
            page = [each.acceptance for each in approvals[start : start + SENT_MAX]]
            answer = await self._transport.post(path, {"acceptances": _to_json(page)})
            said = read_object(answer, "acceptances")
            taken += int(said.get("taken", 0))
            absent += [str(who) for who in said.get("absent", ())]
        return {"id": delivery.job_id, "taken": taken, "absent": sorted(set(absent))}

    async def wait(
        self,
        job_id: str,
        *,
        until: Literal["finished", "settled"] = "settled",
        timeout: float | None = None,  # noqa: ASYNC109  the state at the end is the answer
    ) -> Json:
        """
        Wait until a job's results are in or its money has moved, and return it.

        Raises `GpuMarketError` GM-5004 when `timeout` seconds are over; the job goes on.
        """
        goal = WORK_DONE if until == "finished" else ENDED
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = POLL_SECONDS
        while True:
            job = await self.job(job_id)
            if find_state(job) in goal:
                return job
            if deadline is not None and time.monotonic() + pause > deadline:
                raise GpuMarketError(
                    f"{job_id} is {find_state(job)} after {timeout:g} s",
                    code="GM-5004",
                    money="unchanged; the job goes on",
                    hints=(f"gpumarket job wait {job_id}", f"gpumarket job describe {job_id}"),
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, POLL_SECONDS_MAX)

    async def events(
        self, job_id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[Event]:
        """
        Yield a job's history after event `after`; with `follow`, until the job has ended.

        A broken stream is picked up at the last event seen: each comes once and in order.
        """
        if not follow:
            for event in await self._list_events(job_id, after):
                yield event
            return
        failures = 0
        while True:
            try:
                async for event in self._stream_events(job_id, after):
                    if event.id > after:
                        after, failures = event.id, 0
                        yield event
                if find_state(await self.job(job_id)) in ENDED:
                    break
            except CoordinatorUnreachable:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise
            await asyncio.sleep(min(POLL_SECONDS * (1 + failures), 10.0))
        for event in await self._list_events(job_id, after):
            yield event

    async def _list_events(self, job_id: str, after: int) -> list[Event]:
        answer = await self._transport.get(_path(job_id, "/events"), {"after": str(after)})
        return [read_event(row) for row in read_rows(answer, "events")]

    async def _stream_events(self, job_id: str, after: int) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": str(after)}
        path = _path(job_id, "/events")
        async with self._transport.open(path, accept=SSE_TYPE, headers=headers) as pieces:
            async for line in read_lines(pieces):
                if line.startswith("data:"):
                    yield _read_sse(line)
                elif line.startswith(":") and find_state(await self.job(job_id)) in ENDED:
                    return

    async def download(
        self,
        job_id: str,
        folder: Path,
        *,
        task: int | None = None,
        only_verified: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Download:
        """
        Fetch results into `folder`, one folder a task; what is here already is not fetched.

        Every block is checked against its CID on the way, so a wrong byte never lands.
        """
        results = ResultFolder(folder)
        fetched, present, skipped, received = [], [], [], 0
        for output in await self.outputs(job_id):
            if task is not None and output.task != task:
                continue
            if only_verified and not output.is_verified:
                skipped.append(output.task)
            elif results.has(output):
                present.append(folder / output.folder_name)
            else:
                path, count = await self._fetch_output(results, output)
                fetched.append(path)
                received += count
                if on_progress is not None:
                    on_progress(path, received)
        return Download(folder, tuple(fetched), tuple(present), tuple(skipped), received)

    async def _fetch_output(self, results: ResultFolder, output: TaskOutput) -> tuple[Path, int]:
        path = f"/ipfs/{output.cid}?format=car"
        with results.open_spool(output) as spool:
            async with self._transport.open(path, accept=CAR_TYPE) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(spool.feed, piece)
            spool.finish()
            target = await asyncio.to_thread(results.accept, output, spool)
            return target, spool.received

    async def _read_all(self, path: str, accept: str, bytes_max: int) -> bytes:
        data = bytearray()
        async with self._transport.open(path, accept=accept) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > bytes_max:
                    raise AnswerNotUnderstood(f"{path}: more than {bytes_max} bytes")
        return bytes(data)


def _path(job_id: str, rest: str = "") -> str:
    return f"/v1/jobs/{check_job_id(job_id)}{rest}"


def _to_json(value: object) -> Any:

    return json.loads(to_dag_json(value))


def _read_sse(line: str) -> Event:

    try:
        return read_event(json.loads(line.removeprefix("data:")))
    except ValueError as error:
        raise AnswerNotUnderstood("an event of the stream is not JSON") from error


async def _read_in_threads(
    pieces: Iterator[bytes], path: Path, on_progress: OnProgress | None
) -> AsyncIterator[bytes]:
    sent = 0
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
        sent += len(piece)
        if on_progress is not None:
            on_progress(path, sent)
