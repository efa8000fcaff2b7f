"""
The archive: the proof of each paid job, anchored while the node knows the state, kept for years.

Nodes forget the state of old blocks within hours and the coordinator forgets old jobs, so a job's
compact proof is made once its last batch is confirmed. The whole one, which names all that shared
its batch and epochs and is far longer, is made when somebody asks for it. What the chain held of an
epoch's parties at its commitment is proven at once, since the last batch may be hours away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import trio

from coordinator.api.proofs import make_proof
from coordinator.core.batching import list_posted
from coordinator.core.epochs import get_document
from coordinator.core.reporting import find_job
from coordinator.core.state import Job, State
from gpumarket.adapters.logs import Log
from gpumarket.adapters.proof_files import Form, ProofFolder
from gpumarket.adapters.state_proofs import Papers
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.errors import ChainError, ContentError, GpuMarketError, InvalidInput
from gpumarket.protocol.ids import Address, Hash32, make_job_id
from gpumarket.protocol.proof import EpochDocument, ProofOfExecution
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import PROOF_BYTES_MAX, encode_proof

TRIES_MAX = 10
"""To anchor one job's proof; after these it is kept without anchors."""
RETRY_SECONDS = 60.0
PAPERS_SECONDS = 20.0


@dataclass(slots=True)
class _Try:
    """How often a proof could not be kept, and when to try again, by trio's clock."""

    count: int = 0
    again_at: float = 0.0


class Prover(Protocol):
    """What adds the chain's part to a proof: `StateProver`."""

    async def anchor(
        self, proof: ProofOfExecution, papers: Sequence[Papers] = ()
    ) -> tuple[ProofOfExecution, Hash32]:
        """Return the anchored proof and the newest block's hash; raise `ChainError` GM-3007."""

    async def take_papers(
        self,
        document: EpochDocument,
        *,
        requesters: Iterable[Address],
        contract: Address,
        block: int,
    ) -> Papers:
        """Prove what the contract holds of an epoch's parties; raise `ChainError` GM-3007."""


@dataclass(slots=True)
class Archive:
    """Makes, keeps and gives proofs; one is anchored at a time."""

    read_state: Callable[[], State]
    prover: Prover
    folder: ProofFolder
    _turn: trio.Lock = field(default_factory=trio.Lock)
    _seen: set[Hash32] = field(default_factory=set)
    """Ended jobs that were looked at."""
    waiting: dict[Hash32, _Try] = field(default_factory=dict)
    """Ended jobs without a file."""
    _young: dict[int, _Try] = field(default_factory=dict)
    """Committed epochs whose papers are not taken."""

    async def give(self, name: str, *, is_compact: bool, must_anchor: bool) -> bytes:
        """
        Return the file of a job's proof, which may be one that the coordinator else forgot.

        Where the node does not prove the state it is without the chain's part; or `ChainError`
        GM-3007 is raised if it must be anchored. Raises `InvalidInput` where nothing is known.
        """
        job = self._find_job(name)
        if isinstance(job, Job):
            kept = await self._read(job.order_hash, is_compact=is_compact)
            # Who gets what is kept does not wait for what is made.
            return kept or await self._give_known(
                job, is_compact=is_compact, must_anchor=must_anchor
            )
        data = await self._read(job, is_compact=is_compact, is_bare=not must_anchor)
        if data is None:
            raise InvalidInput(
                f"this proof of {make_job_id(job)} is no longer here",
                code="GM-5001",
                why="its job ended long ago; what is kept longest is the compact proof",
                hints=(f"gpumarket job receipt {make_job_id(job)} --compact",),
            )
        return data

    def _find_job(self, name: str) -> Job | Hash32:
        """Return a job, or the order of one that has left its proof only."""
        try:
            return find_job(self.read_state(), name)
        except InvalidInput as error:
            found = self.folder.find_orders(name) if error.code == "GM-5001" else []
            if len(found) != 1:
                raise
            return found[0]

    async def _give_known(self, job: Job, *, is_compact: bool, must_anchor: bool) -> bytes:
        async with self._turn:
            kept = await self._read(job.order_hash, is_compact=is_compact)
            if kept is not None:
                return kept
            proof = await self._make(job, is_compact=is_compact)
            if not proof.settlements and not must_anchor:
                return await _encode(proof)
            try:
                data = await self._anchor(job, proof)
            except ChainError:
                if must_anchor:
                    raise
                return await _encode(proof)
            if is_final(self.read_state(), job):
                with suppress(ContentError):  # it is made again, while the node knows the state
                    await self._keep(job.order_hash, data, "compact" if is_compact else "whole")
        return data

    async def _make(self, job: Job, *, is_compact: bool) -> ProofOfExecution:
        proof = make_proof(self.read_state(), job)
        return await trio.to_thread.run_sync(compact_proof, proof) if is_compact else proof

    async def _anchor(self, job: Job, proof: ProofOfExecution) -> bytes:
        found = [
            await trio.to_thread.run_sync(self.folder.read_papers, number) for number in job.epochs
        ]
        papers = [
            decode_document_untrusted(data, Papers, bytes_max=PROOF_BYTES_MAX)
            for data in found
            if data is not None
        ]
        anchored, _ = await self.prover.anchor(proof, papers)
        return await _encode(anchored)

    async def _read(
        self, order_hash: Hash32, *, is_compact: bool, is_bare: bool = False
    ) -> bytes | None:
        forms: list[Form] = ["compact"] if is_compact else ["whole"]
        if is_compact and is_bare:
            forms.append("bare")
        for form in forms:
            data = await trio.to_thread.run_sync(self.folder.read, order_hash, form)
            if data is not None:
                return data
        return None

    async def _keep(self, order_hash: Hash32, data: bytes, form: Form) -> None:
        await trio.to_thread.run_sync(self.folder.keep, order_hash, data, form)
        if form != "whole":
            self.waiting.pop(order_hash, None)

    # ---- by itself -------------------------------------------------------------------------

    async def run(self, wait_moved: Callable[[], Awaitable[None]], log: Log) -> None:
        """File the compact proof of each job that ended paid, until cancelled."""
        while True:
            self._note_ended()
            self._note_epochs()
            epochs = [each for each, tried in self._young.items() if _is_time(tried)]
            for number in epochs:
                await self._take_papers(number, log)
            due = [order for order in self.waiting if self._is_due(order)]
            for order_hash in due:
                await self._file(order_hash, log)
            if due or epochs:
                continue  # what moved meanwhile was not waited for
            tries = [*self.waiting.values(), *self._young.values()]
            again_at = min((each.again_at for each in tries if not _is_time(each)), default=inf)
            with trio.move_on_at(again_at):
                await wait_moved()

    def _note_epochs(self) -> None:
        state = self.read_state()
        for number in state.open_epochs:
            is_new = number not in self.folder.epochs and number not in self._young
            if is_new and state.epochs[number].sequence is not None:
                self._young[number] = _Try()
        for number in self.folder.epochs - state.epochs.keys():
            self.folder.drop_papers(number)
        for number in self._young.keys() - state.epochs.keys():
            del self._young[number]

    async def _take_papers(self, number: int, log: Log) -> None:
        state, tried = self.read_state(), self._young[number]
        epoch = state.epochs.get(number)
        if epoch is None:
            return
        pools = [pool for part in epoch.parts.values() for pool in part.pools]
        jobs = [state.jobs.get(order) for pool in pools for order in pool.order_hashes]
        try:
            papers = await self.prover.take_papers(
                get_document(epoch),
                requesters={job.order.body.requester for job in jobs if job is not None},
                contract=state.settings.domain.contract,
                block=epoch.block,
            )
            data = encode_document(papers)
            await trio.to_thread.run_sync(self.folder.keep_papers, number, data)
            del self._young[number]
        except GpuMarketError as error:
            log.warn("an epoch is not proven yet", epoch=number, reason=error.why or error.message)
            tried.count += 1
            # After that no node knows the state any more: the proofs say what is open.
            is_last = tried.count == TRIES_MAX
            tried.again_at = inf if is_last else trio.current_time() + PAPERS_SECONDS

    def _note_ended(self) -> None:
        state = self.read_state()
        for order_hash in reversed(state.over):  # what ended last stands last
            if order_hash in self._seen:
                break
            self._seen.add(order_hash)
            is_kept = self.folder.has(order_hash, "compact")
            if not is_kept and list_posted(state, state.jobs[order_hash]):
                self.waiting[order_hash] = _Try()
        if len(self._seen) > 2 * len(state.over) + 1_000:
            self._seen &= set(state.over)

    def _is_due(self, order_hash: Hash32) -> bool:
        state = self.read_state()
        job = state.jobs.get(order_hash)
        return job is None or (_is_time(self.waiting[order_hash]) and is_final(state, job))

    async def _file(self, order_hash: Hash32, log: Log) -> None:
        job = self.read_state().jobs.get(order_hash)
        if job is None:
            log.error("a job was forgotten before its proof was kept", job=make_job_id(order_hash))
            del self.waiting[order_hash]
            return
        tried = self.waiting[order_hash]
        try:
            async with self._turn:
                proof = await self._make(job, is_compact=True)
                if tried.count < TRIES_MAX:
                    data = await self._anchor(job, proof)
                    await self._keep(order_hash, data, "compact")
                else:
                    log.error("a proof is kept without anchors", job=job.job_id)
                    await self._keep(order_hash, await _encode(proof), "bare")
        except GpuMarketError as error:
            log.warn("a proof is not kept yet", job=job.job_id, reason=error.why or error.message)
            tried.count += 1
            tried.again_at = trio.current_time() + RETRY_SECONDS
            if tried.count > TRIES_MAX:
                log.error("no proof of a job is kept", job=job.job_id)
                del self.waiting[order_hash]


def is_final(state: State, job: Job) -> bool:
    """Say whether a job's proof will say no more than it does now: all is paid and judged."""
    return job.is_over and not any(number in state.open_epochs for number in job.epochs)


def _is_time(tried: _Try) -> bool:
    return tried.again_at <= trio.current_time()


async def _encode(proof: ProofOfExecution) -> bytes:
    return await trio.to_thread.run_sync(encode_proof, proof)
