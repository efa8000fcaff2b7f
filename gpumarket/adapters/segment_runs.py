"""
Segments of a training task done again, each from its own start: for verifiers and auditors.

Each run goes on from the checkpoint before and stops after one segment; what it ends with is kept
in one folder, by the segment's number.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.unit_runner import TrainingRun, UnitRunner
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.training import SegmentStart


@dataclass(frozen=True, slots=True)
class SegmentRuns:
    """How the runs of all segments ended: 0, or the exit code of the first that failed."""

    exit_code: int
    duration_ms: int


async def run_segments(
    runner: UnitRunner,
    job: JobSpec,
    unit: int,
    *,
    starts: Sequence[SegmentStart],
    name: str,
    job_id: str,
) -> SegmentRuns:
    """
    Do segments again; `runner.find_output(name)` then has a folder for each one's end.

    The job is prepared, with the checkpoints that its segments begin with. A segment that fails,
    or leaves no checkpoint at its end, is the last one that is run.
    """
    ends = runner.find_output(name)
    await trio.to_thread.run_sync(make_empty, ends)
    duration_ms = 0
    for start in starts:
        run = f"{name}-{start.index}"
        training = TrainingRun(
            stop_at=start.step_to,
            resume=start.folder,
            on_checkpoint=partial(_keep_end, ends, start),
        )
        result = await runner.run(job, unit, name=run, job_id=job_id, training=training)
        await runner.clean(run, is_output_kept=True)
        duration_ms += result.wall_ms
        if not result.is_success or not (ends / str(start.index)).is_dir():
            return SegmentRuns(result.exit_code or 1, duration_ms)
    return SegmentRuns(0, duration_ms)


async def _keep_end(ends: Path, start: SegmentStart, copy: Path) -> None:
    number = {f"step-{start.step_to:08d}": start.index}
    if start.folder is None:
        number["step-00000000"] = 0
    if copy.name in number:
        target = ends / str(number[copy.name])
        await trio.to_thread.run_sync(shutil.copytree, copy, target)


def make_empty(root: Path) -> None:
    """Have an empty folder at `root`, whatever was there."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
