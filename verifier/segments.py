"""
A training task done again where the seed says so: a few segments, each from its own start.

Each run goes on from the checkpoint before and stops after one segment. What it ends with is
sealed; only then are the provider's own ends fetched and compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.checkpoint_files import judge_stored
from gpumarket.adapters.content import ContentStore
from gpumarket.adapters.segment_runs import make_empty, run_segments
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.segments import RULE, list_needed
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import ContentError, InvalidInput
from gpumarket.protocol.ids import Cid, make_job_id
from gpumarket.protocol.messages import CheckRequested
from verifier.core.effects import CompareOutputs

FETCH_SECONDS_MAX = 300.0
OWN_BYTES_MAX = 2**40
"""Of what came out here: our own bytes, bounded by how many segments are done again."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out of all segments."""

    output: Cid
    exit_code: int
    duration_ms: int


async def replay_segments(request: CheckRequested, runner: UnitRunner, name: str) -> Replayed:
    """Do the asked segments again; the output has a folder for each one's end, by its number."""
    starts = request.segments
    await runner.prepare(
        request.job,
        sources=request.sources,
        deadline_s=FETCH_SECONDS_MAX,
        checkpoints=[start.folder for start in starts if start.folder is not None],
    )
    runs = await run_segments(
        runner,
        request.job,
        request.unit,
        starts=starts,
        name=name,
        job_id=make_job_id(request.order_hash),
    )
    output, _ = await runner.store(name)
    return Replayed(output, runs.exit_code, runs.duration_ms)


async def compare_segments(effect: CompareOutputs, content: ContentStore, folder: Path) -> Outcome:
    """Compare what came out here with the provider's checkpoints at both ends of each segment."""
    root = folder / f"segments-{effect.request.receipt_hash.hex()}"
    await trio.to_thread.run_sync(make_empty, root)
    try:
        await content.export(effect.own.output, root / "own", max_bytes=OWN_BYTES_MAX)
        await _fetch_theirs(effect, content, root / "theirs")
        return await trio.to_thread.run_sync(_judge, effect, root)
    except (ContentError, InvalidInput, MemoryError) as error:
        text = f"the segments could not be compared: {str(error)[:160]}"
        return Outcome(Verdict.INCONCLUSIVE, RULE, text)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, root, ignore_errors=True))


async def _fetch_theirs(effect: CompareOutputs, content: ContentStore, target: Path) -> None:
    audit, plan = effect.segments, effect.request.job.checkpoint
    if audit is None or plan is None:
        raise InvalidInput("a task without checkpoints has no segments")
    bytes_max = plan.bytes_max + plan.bytes_max // 50 + 65_536
    await trio.to_thread.run_sync(make_empty, target)
    for index in list_needed(audit.states, audit.drawn):
        cid = audit.states[index].folder
        await content.fetch(
            cid,
            sources=_join(effect.sources, effect.request.sources),
            deadline_s=FETCH_SECONDS_MAX,
            max_bytes=bytes_max,
        )
        await content.export(cid, target / str(index), max_bytes=bytes_max)


def _judge(effect: CompareOutputs, root: Path) -> Outcome:
    audit, plan = effect.segments, effect.request.job.checkpoint
    if audit is None or plan is None:
        raise InvalidInput("a task without checkpoints has no segments")
    return judge_stored(
        audit,
        own=root / "own",
        theirs=root / "theirs",
        own_class=effect.own.repro_class,
        provider=effect.theirs.provider,
        tolerance=plan.tolerance,
    )


def _join(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
