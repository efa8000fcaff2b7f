"""
Sampled units of a proof run again on this machine, by the runner that providers and verifiers use.

Image and inputs come from an auditor's folder by CID; nobody is asked for anything. Which units are
run is drawn here and not by the seed, so that nobody could know it before.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.blockstore import FileBlockStore
from gpumarket.adapters.checkpoint_files import judge_stored
from gpumarket.adapters.class_probe import probe_repro_class
from gpumarket.adapters.content import EmbeddedNode
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.output_files import (
    OUTPUT_BYTES_MAX,
    compare_by_name,
    compare_folders,
    compare_tokens,
    judge_replay,
    read_comparator,
)
from gpumarket.adapters.output_shelf import OVERHEAD_BYTES, OutputShelf
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.adapters.segment_runs import run_segments
from gpumarket.adapters.session import PeerUnreachable, RawStream
from gpumarket.adapters.trees import TreeAdder
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.comparing.judging import Outcome, judge
from gpumarket.comparing.rechecking import Rerun, SampledUnit, list_sampled, report_runs
from gpumarket.comparing.segments import check_numbers, list_needed
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.comparison import LlmRule, NpyRule, ProgramRule, SafetensorsRule
from gpumarket.protocol.errors import ContentError, GpuMarketError, SandboxError
from gpumarket.protocol.evidence import Check
from gpumarket.protocol.ids import Cid, make_job_id
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.training import make_starts
from gpumarket.protocol.unixfs import KUBO_V0, KUBO_V1, Block

LOAD_SECONDS_MAX = 600.0
STORE_BYTES_MAX = 2**40


class Nobody:
    """The network of somebody who asks no peer."""

    def serve_raw(self, _protocol: str, _handler: Callable[[RawStream], Awaitable[None]]) -> None:
        """Serve nobody."""

    async def open_raw(self, peer_id: str, _protocol: str, *, address: str = "") -> RawStream:
        """Reach nobody."""
        raise PeerUnreachable(f"{address or peer_id} is not asked: an audit has no network")

    async def disconnect(self, _peer_id: str) -> None:
        """Break off nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where units of one job are run and compared."""

    proof: ProofOfExecution
    shelf: OutputShelf
    store: FileBlockStore
    node: EmbeddedNode
    sandbox: DockerSandbox
    runner: UnitRunner
    folder: Path

    async def load(self, cid: Cid, bytes_max: int) -> None:
        """Take content off the shelf; raises `ContentError` where it is not there."""
        bytes_max += bytes_max // 50 + OVERHEAD_BYTES
        await trio.to_thread.run_sync(
            partial(self.shelf.load, cid, self._keep, bytes_max=bytes_max)
        )

    def _keep(self, block: Block) -> None:
        self.store.put(block.cid, block.data)


def rerun_units(
    proof: ProofOfExecution, folder: Path, *, count: int, is_whole: bool = False
) -> Check:
    """
    Run up to `count` sampled units with the local engine; without one nothing is decided.

    Of a training task the drawn segments are run, or with `is_whole` all of them.
    """
    sampled = list_sampled(proof)
    drawn = secrets.SystemRandom().sample(sampled, min(count, len(sampled)))
    if is_whole:
        drawn = [each.widen() for each in drawn]
    try:
        found = trio.run(_rerun_all, proof, folder, drawn) if drawn else []
    except SandboxError as error:
        found = [Rerun(each, None, error.message) for each in drawn]
    return report_runs(found, len(sampled))


async def _rerun_all(
    proof: ProofOfExecution, folder: Path, drawn: list[SampledUnit]
) -> list[Rerun]:
    async with _open_bench(proof, folder) as bench:
        try:
            await _prepare(bench)
        except GpuMarketError as error:
            return [Rerun(each, None, error.message) for each in drawn]
        return [await _rerun(each, bench) for each in drawn]


@asynccontextmanager
async def _open_bench(proof: ProofOfExecution, folder: Path) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="gpumarket-units-") as name:
        work = Path(name)
        sandbox = DockerSandbox(owner=f"audit-{secrets.token_hex(8)}", folder=work / "sandbox")
        store = FileBlockStore(work / "blocks", quota_bytes=STORE_BYTES_MAX)
        node = EmbeddedNode(Nobody(), store)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                yield Bench(
                    proof=proof,
                    shelf=OutputShelf(folder),
                    store=store,
                    node=node,
                    sandbox=sandbox,
                    runner=UnitRunner(content=node, sandbox=sandbox, folder=work / "units"),
                    folder=work,
                )
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await sandbox.remove_leftovers()
            sandbox.close()
            store.close()


async def _prepare(bench: Bench) -> None:
    job = bench.proof.job
    if not await bench.sandbox.has_image(job.image.digest.removeprefix("sha256:")):
        await bench.load(job.image.archive, job.image.archive_bytes)
    for item in job.inputs:
        await bench.load(item.cid, item.size_bytes)
    # Whoever audits needs the same walls: the program is as strange here as at a provider.
    await bench.sandbox.probe("runsc" if job.placement.isolation == "gvisor" else "runc")
    await bench.runner.prepare(job, sources=(), deadline_s=LOAD_SECONDS_MAX)


async def _rerun(sampled: SampledUnit, bench: Bench) -> Rerun:
    if bench.proof.job.checkpoint is not None:
        return await _rerun_segments(sampled, bench)
    job, runner, name = bench.proof.job, bench.runner, secrets.token_hex(16)
    job_id = make_job_id(bench.proof.order.body.compute_struct_hash())
    try:
        result = await runner.run(job, sampled.unit, name=name, job_id=job_id)
        if not result.is_success:
            return Rerun(sampled, None, f"the program exited with {result.exit_code} here")
        outcome = await _compare(sampled, bench, runner.find_output(name))
    except (GpuMarketError, MemoryError) as error:
        return Rerun(sampled, None, str(error) or "it does not fit into memory")
    finally:
        with trio.CancelScope(shield=True):
            await runner.clean(name, is_output_kept=False)
    if outcome.verdict is Verdict.MISMATCH and outcome.rule == "bytes":
        own_class = await trio.to_thread.run_sync(probe_repro_class)
        outcome = judge(outcome, is_same_class=own_class == sampled.repro_class)
    return Rerun(sampled, outcome)


async def _rerun_segments(sampled: SampledUnit, bench: Bench) -> Rerun:
    job, runner, name = bench.proof.job, bench.runner, secrets.token_hex(16)
    plan, audit = job.checkpoint, sampled.segments
    if plan is None or audit is None:
        return Rerun(sampled, None, "a training task is run again by its segments, and has none")
    theirs = bench.folder / f"theirs-{secrets.token_hex(8)}"
    theirs.mkdir()
    try:
        check_numbers(audit)
        for index in list_needed(audit.states, audit.drawn):
            cid = audit.states[index].folder
            await bench.load(cid, plan.bytes_max)
            await bench.node.export(cid, theirs / str(index), max_bytes=plan.bytes_max)
        starts = make_starts(audit.states, audit.drawn, plan)
        begins = [start.folder for start in starts if start.folder is not None]
        await runner.prepare(job, sources=(), deadline_s=LOAD_SECONDS_MAX, checkpoints=begins)
        runs = await run_segments(
            runner,
            job,
            sampled.unit,
            starts=starts,
            name=name,
            job_id=make_job_id(bench.proof.order.body.compute_struct_hash()),
        )
        if runs.exit_code:
            return Rerun(sampled, None, f"the program exited with {runs.exit_code} here")
        own_class = await trio.to_thread.run_sync(probe_repro_class)
        judge_it = partial(
            judge_stored,
            audit,
            own=runner.find_output(name),
            theirs=theirs,
            own_class=own_class,
            provider=sampled.provider,
            tolerance=plan.tolerance,
        )
        return Rerun(sampled, await trio.to_thread.run_sync(judge_it))
    except (GpuMarketError, MemoryError) as error:
        return Rerun(sampled, None, str(error) or "it does not fit into memory")
    finally:
        with trio.CancelScope(shield=True):
            await runner.clean(name, is_output_kept=False)
            await trio.to_thread.run_sync(partial(shutil.rmtree, theirs, ignore_errors=True))


async def _compare(sampled: SampledUnit, bench: Bench, own: Path) -> Outcome:
    rule = bench.proof.job.verify.comparison
    layout = KUBO_V0 if parse_cid(sampled.output).version == 0 else KUBO_V1
    adder = TreeAdder(lambda _block: None, layout)
    entry = await trio.to_thread.run_sync(adder.add_directory, own)
    is_same = entry.cid == parse_cid(sampled.output)
    named = compare_by_name(sampled.output if is_same else "", sampled.output, rule)
    if named is not None:
        return named
    theirs = bench.folder / f"theirs-{secrets.token_hex(8)}"
    await bench.load(sampled.output, OUTPUT_BYTES_MAX)
    await bench.node.export(sampled.output, theirs, max_bytes=OUTPUT_BYTES_MAX)
    if not theirs.is_dir():
        raise ContentError(f"{sampled.output} is a file, and an output is a folder")
    if isinstance(rule, ProgramRule):
        return read_comparator(await _run_command(sampled, bench, own=own, theirs=theirs))
    if isinstance(rule, LlmRule):
        return await _compare_tokens(sampled, bench, rule, folders=(own, theirs))
    find = partial(compare_folders, own, theirs, rule, base=_find_base(bench))
    return await trio.to_thread.run_sync(find)


async def _compare_tokens(
    sampled: SampledUnit, bench: Bench, rule: LlmRule, *, folders: tuple[Path, Path]
) -> Outcome:
    own, theirs = folders
    own_class = await trio.to_thread.run_sync(probe_repro_class)
    is_same_class = own_class == sampled.repro_class
    find = partial(compare_tokens, own, theirs, rule, is_same_class=is_same_class)
    found = await trio.to_thread.run_sync(find)
    if found is not None:
        return found
    written = bench.folder / f"replay-{secrets.token_hex(8)}"
    result = await _run_command(sampled, bench, own=own, theirs=theirs, written=written)
    judge_it = partial(judge_replay, result, written=written, theirs=theirs, rule=rule)
    return await trio.to_thread.run_sync(judge_it)


async def _run_command(
    sampled: SampledUnit, bench: Bench, *, own: Path, theirs: Path, written: Path | None = None
) -> RunResult:
    return await bench.runner.run_comparator(
        bench.proof.job,
        sampled.unit,
        name=secrets.token_hex(16),
        job_id=make_job_id(bench.proof.order.body.compute_struct_hash()),
        own=own,
        theirs=theirs,
        written=written,
    )


def _find_base(bench: Bench) -> Path | None:
    job = bench.proof.job
    rule = job.verify.comparison
    if not isinstance(rule, NpyRule | SafetensorsRule) or not rule.base:
        return None
    found = [item.cid for item in job.inputs if item.name == rule.base]
    if not found:
        raise ContentError(f"the job has no input {rule.base[:60]!r} to compare with")
    return bench.runner.find_input(found[0])
