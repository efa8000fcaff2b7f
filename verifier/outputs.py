"""
Two outputs on disk, and the comparison that the job's rule asks for.

A requester's own comparator runs in the sandbox that the job ran in.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.content import ContentStore
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.output_files import (
    OUTPUT_BYTES_MAX,
    SENTENCE_CHARS_MAX,
    compare_by_name,
    compare_folders,
    compare_tokens,
    judge_replay,
    read_comparator,
)
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    Comparison,
    LlmRule,
    NpyRule,
    ProgramRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import ContentError, GpuMarketError
from gpumarket.protocol.ids import make_job_id
from gpumarket.protocol.job import JobSpec
from verifier.core.effects import CompareOutputs

FETCH_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where outputs are compared: content, sandbox, and a folder of ours."""

    content: ContentStore
    runner: UnitRunner
    folder: Path


async def compare(effect: CompareOutputs, bench: Bench) -> Outcome:
    """Compare both outputs by the job's rule; what cannot be read decides nothing."""
    own, theirs = effect.own.output, effect.theirs.output
    rule = effect.request.job.verify.comparison
    named = compare_by_name(own, theirs, rule)
    if named is not None:
        return named
    try:
        async with _put_on_disk(effect, bench) as (own_folder, their_folder):
            if isinstance(rule, ProgramRule):
                return await _run_comparator(effect, bench, (own_folder, their_folder))
            if isinstance(rule, LlmRule):
                return await _compare_tokens(effect, bench, rule, (own_folder, their_folder))
            base = await _find_base(effect, bench, rule)
            find = partial(compare_folders, own_folder, their_folder, rule, base=base)
            return await trio.to_thread.run_sync(find)
    except (GpuMarketError, MemoryError) as error:
        text = f"the outputs could not be compared: {str(error)[:SENTENCE_CHARS_MAX]}"
        return Outcome(Verdict.INCONCLUSIVE, rule.name, text)


@asynccontextmanager
async def _put_on_disk(effect: CompareOutputs, bench: Bench) -> AsyncIterator[tuple[Path, Path]]:
    size = effect.theirs.output_bytes
    await bench.content.fetch(
        effect.theirs.output,
        sources=effect.sources,
        deadline_s=FETCH_SECONDS_MAX,
        max_bytes=min(OUTPUT_BYTES_MAX, size + size // 50 + 65_536),
    )
    root = bench.folder / f"compare-{effect.request.receipt_hash.hex()}"
    await trio.to_thread.run_sync(_make_empty, root)
    try:
        folders = root / "own", root / "theirs"
        for cid, folder in zip((effect.own.output, effect.theirs.output), folders, strict=True):
            await bench.content.export(cid, folder, max_bytes=OUTPUT_BYTES_MAX)
        yield folders
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(root, ignore_errors=True))


def _make_empty(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)


async def _find_base(effect: CompareOutputs, bench: Bench, rule: Comparison) -> Path | None:
    """Return the input that the rule measures changes from, staged by the replay before."""
    if not isinstance(rule, NpyRule | SafetensorsRule) or not rule.base:
        return None
    job = effect.request.job
    found = [item.cid for item in job.inputs if item.name == rule.base]
    if not found:
        raise ContentError(f"the job has no input {rule.base[:60]!r} to compare with")
    await _prepare(job, effect, bench)
    return bench.runner.find_input(found[0])


async def _compare_tokens(
    effect: CompareOutputs, bench: Bench, rule: LlmRule, folders: tuple[Path, Path]
) -> Outcome:
    is_same_class = effect.own.repro_class == effect.theirs.repro_class
    own, theirs = folders
    find = partial(compare_tokens, own, theirs, rule, is_same_class=is_same_class)
    found = await trio.to_thread.run_sync(find)
    if found is not None:
        return found
    written = own.parent / "replay"
    result = await _run_command(effect, bench, folders, written=written)
    judge = partial(judge_replay, result, written=written, theirs=theirs, rule=rule)
    return await trio.to_thread.run_sync(judge)


async def _run_comparator(
    effect: CompareOutputs, bench: Bench, folders: tuple[Path, Path]
) -> Outcome:
    return read_comparator(await _run_command(effect, bench, folders))


async def _run_command(
    effect: CompareOutputs,
    bench: Bench,
    folders: tuple[Path, Path],
    *,
    written: Path | None = None,
) -> RunResult:
    request = effect.request
    await _prepare(request.job, effect, bench)
    return await bench.runner.run_comparator(
        request.job,
        request.unit,
        name=f"compare-{request.receipt_hash.hex()}",
        job_id=make_job_id(request.order_hash),
        own=folders[0],
        theirs=folders[1],
        written=written,
    )


async def _prepare(job: JobSpec, effect: CompareOutputs, bench: Bench) -> None:
    sources = effect.request.sources
    await bench.runner.prepare(job, sources=sources, deadline_s=FETCH_SECONDS_MAX)
