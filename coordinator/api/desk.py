"""The desk: what the API may ask of the running coordinator, all on the trio side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from coordinator.api.answers import show_money
from coordinator.api.archive import Archive
from coordinator.api.views import (
    Json,
    list_tasks,
    show_canaries,
    show_entry,
    show_epoch,
    show_funnel,
    show_job,
    show_pause,
    show_provider,
    show_relaxations,
    show_verifier,
)
from coordinator.core.admission import NoProviderFits, check_submission, explain_demand
from coordinator.core.events import JobCancelled, JobSubmitted, WorkAccepted
from coordinator.core.order_book import is_online
from coordinator.core.relaying import check_acceptances
from coordinator.core.reporting import explain_job, find_job
from coordinator.core.state import Job, State
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.content import EmbeddedNode
from gpumarket.adapters.metrics import Metrics
from gpumarket.protocol.cids import ContentId, format_cid
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import ContentError, InvalidInput
from gpumarket.protocol.ids import ZERO_ADDRESS, ZERO_HASH, Cid, format_hex, parse_address
from gpumarket.protocol.job import JobSpec, compute_verify_hash
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.order import CancelOrder, Order
from gpumarket.protocol.proof_file import decode_proof_untrusted, format_proof
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import compute_price
from gpumarket.protocol.unixfs import Block

QUOTE_SECONDS = 120
"""For which time a task's price is estimated when nothing is known about it."""


@dataclass(slots=True)
class Desk:
    """Reads the state, keeps content, and turns requests into events."""

    read_state: Callable[[], State]
    post: Callable[[Any], Awaitable[None]]
    wait_moved: Callable[[], Awaitable[None]]
    chain: Chain
    content: EmbeddedNode
    clock: SystemClock
    metrics: Metrics
    update_metrics: Callable[[], None]
    content_peers: tuple[str, ...]
    version: str
    archive: Archive

    # ---- the market ------------------------------------------------------------------------

    def show_info(self) -> Json:
        """Say who we are and where promises count."""
        state = self.read_state()
        settings = state.settings
        online = [p for p in state.providers.values() if is_online(state, p)]
        return {
            "version": self.version,
            "role": "coordinator",
            "chain_id": settings.domain.chain_id,
            "contract": format_hex(settings.domain.contract),
            "coordinator": format_hex(settings.coordinator),
            "content_peers": list(self.content_peers),
            "fee": show_money(settings.fee),
            "order_lifetime": settings.order_lifetime_seconds,
            "devnet": settings.domain.chain_id == DEVNET_CHAIN_ID,
            "posting_paused": show_pause(state.pause),
            "members": {
                "providers": len(online),
                "verifiers": sum(1 for v in state.verifiers.values() if v.session),
            },
            "time": self.clock.now(),
        }

    def list_offers(self) -> list[Json]:
        """Show every provider in the book, those online first."""
        state = self.read_state()
        rows = [show_provider(state, provider) for provider in state.providers.values()]
        return sorted(rows, key=lambda row: (not row["online"], row["provider"]))

    def show_provider(self, address: str) -> Json:
        """Show one provider."""
        state = self.read_state()
        provider = state.providers.get(parse_address(address))
        if provider is None:
            raise InvalidInput(f"no provider {address} is in the book", code="GM-8005")
        return show_provider(state, provider)

    def list_verifiers(self) -> list[Json]:
        """Show every verifier in the book, those online first."""
        state = self.read_state()
        rows = [show_verifier(state, verifier) for verifier in state.verifiers.values()]
        return sorted(rows, key=lambda row: (not row["online"], row["verifier"]))

    def show_canaries(self) -> Json:
        """Show the share of canaries among the checks, and those that are over."""
        return show_canaries(self.read_state())

    def list_epochs(self) -> list[Json]:
        """Show all epochs, newest first."""
        epochs = self.read_state().epochs
        return [show_epoch(epoch) for _, epoch in sorted(epochs.items(), reverse=True)]

    def make_quote(self, spec: JobSpec) -> Json:
        """Say who could run a job, why others cannot, and what it would cost for a while."""
        state = self.read_state()
        funnel = explain_demand(state, _imagine_order(spec), spec)
        offers = [
            show_provider(state, provider)
            for provider in state.providers.values()
            if is_online(state, provider)
        ]
        prices = [
            compute_price(
                duration_ms=QUOTE_SECONDS * 1000,
                devices=max(1, spec.resources.devices.count),
                price_per_device_hour=provider.offer.body.price_per_device_hour,
            )
            for provider in state.providers.values()
            if is_online(state, provider)
        ]
        return {
            "feasible": funnel.feasible > 0,
            "funnel": show_funnel(funnel),
            "relaxations": show_relaxations(funnel),
            "offers": offers[: funnel.feasible],
            "price": {
                "low": show_money(min(prices, default=0)),
                "high": show_money(max(prices, default=0)),
                "per_task_seconds": QUOTE_SECONDS,
            },
        }

    def render_metrics(self) -> bytes:
        """Write all metrics as of now."""
        self.update_metrics()
        return self.metrics.render().encode()

    # ---- content ---------------------------------------------------------------------------

    async def keep_blocks(self, blocks: Sequence[Block]) -> None:
        """Store checked blocks that a client sent."""
        await self.content.keep_blocks(blocks)

    async def pin_roots(self, roots: Sequence[ContentId]) -> list[Cid]:
        """Pin what a client sent; refuse a root whose blocks are not all here."""
        names = [format_cid(root) for root in roots]
        for name in names:
            await self._check_here(name)
            await self.content.pin(name)
        return names

    async def read_block(self, cid: ContentId) -> bytes:
        """Return one block."""
        try:
            return await self.content.read_block(cid)
        except ContentError as error:
            if error.code == "GM-6016":
                raise _not_here(format_cid(cid)) from error
            raise

    async def list_blocks(self, cid: ContentId) -> list[ContentId]:
        """Return the names of all blocks below a root, in depth-first order."""
        return await self.content.list_blocks(cid)

    async def has(self, cid: ContentId) -> bool:
        """Say whether all below a root is here."""
        return await self.content.has(format_cid(cid))

    async def _check_here(self, cid: Cid) -> None:
        if not await self.content.has(cid):
            raise _not_here(cid)

    # ---- jobs ------------------------------------------------------------------------------

    async def submit(
        self, order: Signed[Order], spec: JobSpec, *, key: str, wait_seconds: int
    ) -> Json:
        """Take a job, or raise the reason why it is not taken; nothing is charged then."""
        for cid in (spec.image.archive, *(item.cid for item in spec.inputs)):
            await self._check_here(cid)
        balance, _, block = await self.chain.read_confirmed_escrow(order.body.requester)
        event = JobSubmitted(
            at=self.clock.now(),
            order=order,
            spec=spec,
            idempotency_key=key,
            wait_for_capacity_seconds=wait_seconds,
            escrow_balance=balance,
            escrow_block=block,
        )
        try:
            check_submission(self.read_state(), event)
        except NoProviderFits as error:
            error.__dict__["funnel"] = show_funnel(error.funnel)
            raise
        await self.post(event)
        state = self.read_state()
        job = state.jobs.get(order.body.compute_struct_hash())
        if job is None:
            check_submission(state, event)
            raise InvalidInput("the job was not taken", code="GM-8001")
        return show_job(state, job)

    async def cancel(self, name: str, signed: Signed[CancelOrder]) -> Json:
        """Stop a job for its requester, who must have signed."""
        state = self.read_state()
        job = self._find_job(name)
        wish = verify(signed, state.settings.domain)
        if wish.signer != job.order.body.requester or wish.body.order_hash != job.order_hash:
            raise InvalidInput("only the requester can cancel its job", code="GM-1204")
        await self.post(JobCancelled(at=self.clock.now(), order_hash=job.order_hash))
        return show_job(self.read_state(), job)

    async def accept(self, name: str, acceptances: Sequence[Signed[Acceptance]]) -> Json:
        """Tell providers that a job's requester, who must have signed, takes their work."""
        job = self._find_job(name)
        event = WorkAccepted(
            at=self.clock.now(), order_hash=job.order_hash, acceptances=tuple(acceptances)
        )
        leases = check_acceptances(self.read_state(), event)
        await self.post(event)
        state = self.read_state()
        providers = sorted({lease.provider for lease in leases.values()})
        seats = [(who, state.providers.get(who)) for who in providers]
        return {
            "id": job.job_id,
            "taken": len(leases),
            "providers": len(providers),
            # They get it when they join again.
            "absent": [format_hex(who) for who, seat in seats if seat is None or not seat.session],
        }

    def list_jobs(self, wanted: str) -> list[Json]:
        """Show jobs, newest first; `wanted` keeps one state."""
        state = self.read_state()
        jobs = sorted(state.jobs.values(), key=lambda job: job.created_at, reverse=True)
        return [show_job(state, job) for job in jobs if wanted in ("", job.state.value)]

    def show_job(self, name: str) -> Json:
        """Show one job."""
        return show_job(self.read_state(), self._find_job(name))

    def list_tasks(self, name: str) -> list[Json]:
        """Show the tasks of a job."""
        return list_tasks(self.read_state(), self._find_job(name))

    def explain_job(self, name: str) -> Json:
        """Say why a job is where it is: who could run it and who falls where."""
        state, job = self.read_state(), self._find_job(name)
        why = explain_job(state, job)
        view = show_job(state, job)
        return {
            "id": job.job_id,
            "state": view["state"],
            "reason": view["reason"],
            "next": view["next"],
            "escrow_covers": why.is_covered,
            "funnel": show_funnel(why.funnel),
            "relaxations": show_relaxations(why.funnel),
        }

    def list_events(self, name: str, after: int) -> tuple[list[Json], bool]:
        """Return the log entries after a number, and whether none can follow."""
        job = self._find_job(name)
        return [show_entry(entry) for entry in job.log if entry.sequence > after], job.is_over

    def show_logs(self, name: str, task: int | None) -> list[Json]:
        """Return what is known of the programs' output: last lines, and tails of failures."""
        rows = []
        for row in self.list_tasks(name):
            if task is None or row["task"] == task:
                lines = [row["line"]] if row["line"] else []
                tails = [failure["log_tail"] for failure in row["failures"]]
                rows.append({"task": row["task"], "last_lines": lines, "failure_tails": tails})
        return rows

    def list_outputs(self, name: str) -> list[Json]:
        """Show the outputs that were opened; `verified` ones passed their epoch's checks."""
        state, job = self.read_state(), self._find_job(name)
        rows = []
        for unit in job.units:
            lease = state.leases.get(unit.lease_id) if unit.lease_id else None
            if lease is None or lease.opening is None or not lease.is_output_here:
                continue
            result = lease.opening.body.result
            rows.append(
                {
                    "task": unit.index,
                    "cid": result.output,
                    "bytes": result.output_bytes,
                    "provider": format_hex(lease.provider),
                    "verified": lease.state is LeaseState.ACCEPTED,
                }
            )
        return rows

    async def give_proof(self, name: str, is_compact: bool, must_anchor: bool) -> bytes:
        """Return the file of a job's proof of execution, as `Archive.give`."""
        return await self.archive.give(name, is_compact=is_compact, must_anchor=must_anchor)

    async def spell_proof(self, data: bytes) -> str:
        """Write the file of a proof as DAG-JSON."""
        return await trio.to_thread.run_sync(lambda: format_proof(decode_proof_untrusted(data)))

    async def await_events(
        self, name: str, after: int, *, seconds: float
    ) -> tuple[list[Json], bool]:
        """List events like `list_events`, but while there are none wait for one, for a while."""
        job = self._find_job(name)
        with trio.move_on_after(seconds):
            # The newest number tells; the list is long and the market moves often.
            while not job.is_over and (not job.log or job.log[-1].sequence <= after):
                await self.wait_moved()
                job = self.read_state().jobs.get(job.order_hash, job)
        return self.list_events(name, after)

    def _find_job(self, name: str) -> Job:
        return find_job(self.read_state(), name)


def _not_here(cid: Cid) -> InvalidInput:
    return InvalidInput(
        f"content {cid} is not here, or not whole",
        code="GM-6012",
        money="nothing was charged",
        hints=("gpumarket data add PATH",),
        fault="requester",
    )


def _imagine_order(spec: JobSpec) -> Order:
    """Return an order without limits, to ask who fits before anything is signed."""
    most = 2**40
    return Order(
        requester=ZERO_ADDRESS,
        coordinator=ZERO_ADDRESS,
        job_hash=spec.compute_hash(),
        verify_hash=compute_verify_hash(spec.verify),
        units=spec.units,
        checks=0,
        max_unit_price=most,
        max_check_price=0,
        max_fee=0,
        settle_by=most,
        expiry=most,
        nonce=ZERO_HASH,
    )
