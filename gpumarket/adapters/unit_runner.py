"""
One unit of a job from its inputs to its stored output: the same for provider and verifier.

Both run the same bytes with the same environment, limits and mount points, so a program cannot
tell whether it earns or is checked, and two honest runs differ by their machines only. What differs
is where a training task goes on from and stops: a check of it is a part of the task.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import trio

from gpumarket.adapters.checkpoints import store_checkpoint
from gpumarket.adapters.content import ContentStore
from gpumarket.adapters.execution import (
    CheckpointFolder,
    InputMount,
    Limits,
    OnCheckpoint,
    OnOutput,
    RunRequest,
    RunResult,
    Sandbox,
)
from gpumarket.protocol.comparison import OWN_PATH, THEIRS_PATH, LlmRule, ProgramRule
from gpumarket.protocol.errors import ContentError, LocalProtocolError, SandboxError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.job import CheckpointPlan, JobSpec, make_unit_env
from gpumarket.protocol.training import CheckpointFacts, make_training_env
from gpumarket.protocol.units import MS_PER_SECOND

CPU_MILLIS_PER_CPU = 1000
OUTPUT_BYTES_DEFAULT = 10**9
OUTPUT_PATH_DEFAULT = "/out"
READABLE_MODE = 0o755
FETCH_SECONDS_MIN = 30.0
FETCH_BYTES_PER_SECOND_MIN = 500_000
"""Slower is no source: a small input that nobody has must not hold a slot for minutes."""
RESUME_PATH = "/resume"
"""Where a training task finds the checkpoint that it goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """How far a training task is run, from where, and who hears of its checkpoints."""

    stop_at: int
    """The step after which it ends."""
    resume: Cid | None
    on_checkpoint: OnCheckpoint


class ImageHolder(Sandbox, Protocol):
    """A sandbox that can tell whether it has an image already."""

    async def has_image(self, config_digest: str) -> bool:
        """Say whether the engine has the image with this configuration digest."""
        ...


class UnitRunner:
    """Prepares, runs and stores units inside one folder; each run has a name of its own."""

    def __init__(
        self,
        *,
        content: ContentStore,
        sandbox: ImageHolder,
        folder: Path,
        emulation: Mapping[str, str] | None = None,
    ) -> None:
        """Work in `folder`; `emulation` is what a devnet's node adds to the environment."""
        self._emulation = dict(emulation or {})
        self._content = content
        self._sandbox = sandbox
        self._inputs = folder / "inputs"
        self._runs = folder / "runs"
        self._checkpoints = folder / "checkpoints"
        for part in (self._inputs, self._runs, self._checkpoints):
            part.mkdir(parents=True, exist_ok=True)
        # Two units of one job want the same inputs at the same time: stage them once.
        self._staging = trio.Lock()

    async def prepare(
        self,
        job: JobSpec,
        *,
        sources: Sequence[str],
        deadline_s: float,
        checkpoints: Iterable[Cid] = (),
    ) -> int:
        """
        Have the job's image in the engine and its inputs on disk; raises what went wrong.

        `checkpoints` are those that a training task will go on from. Returns the bytes of what
        was not here before.
        """
        async with self._staging:
            with trio.fail_after(2 * deadline_s):
                brought = await self._prepare_image(job, sources, deadline_s)
                for item in job.inputs:
                    brought += await self._stage(item.cid, item.size_bytes, sources, deadline_s)
                if job.checkpoint is not None:
                    size = job.checkpoint.bytes_max
                    for cid in checkpoints:
                        brought += await self._stage(cid, size, sources, deadline_s)
        return brought

    async def run(
        self,
        job: JobSpec,
        unit: int,
        *,
        name: str,
        job_id: str,
        device_ids: tuple[str, ...] = (),
        on_output: OnOutput | None = None,
        training: TrainingRun | None = None,
    ) -> RunResult:
        """Run the unit's program in the sandbox; its output stays in the run's folder."""
        folder = self._runs / name
        await trio.to_thread.run_sync(self._make_run_folder, folder)
        request = make_request(
            job,
            unit,
            name=name,
            job_id=job_id,
            inputs=self._inputs,
            output_folder=folder,
            device_ids=device_ids,
        )
        request = replace(request, env={**request.env, **self._emulation})
        if training is None or job.checkpoint is None:
            return await self._sandbox.run(request, on_output=on_output)
        copies = self.find_checkpoints(name)
        await trio.to_thread.run_sync(self._make_run_folder, copies)
        request = add_checkpoints(
            request, job.checkpoint, training, inputs=self._inputs, copies=copies
        )
        return await self._sandbox.run(
            request, on_output=on_output, on_checkpoint=training.on_checkpoint
        )

    async def run_comparator(
        self,
        job: JobSpec,
        unit: int,
        *,
        name: str,
        job_id: str,
        own: Path,
        theirs: Path,
        written: Path | None = None,
    ) -> RunResult:
        """
        Run the command of a `program` or `llm` rule on two exported outputs, as the job itself is.

        What it writes to the job's output path comes into `written`, an empty folder, if given.
        """
        rule = job.verify.comparison
        if not isinstance(rule, ProgramRule | LlmRule):
            raise LocalProtocolError(f"the rule {rule.name} has no comparator to run")
        folder = written or self._runs / name
        await trio.to_thread.run_sync(self._make_run_folder, folder)
        request = make_request(
            job, unit, name=name, job_id=job_id, inputs=self._inputs, output_folder=folder
        )
        request = replace(request, env={**request.env, **self._emulation})
        outputs = []
        for path, place in ((own, OWN_PATH), (theirs, THEIRS_PATH)):
            await trio.to_thread.run_sync(_make_readable, path)
            outputs.append(InputMount(host_path=path, container_path=place))
        try:
            return await self._sandbox.run(
                replace(request, argv=rule.command, inputs=(*request.inputs, *outputs))
            )
        finally:
            if written is None:
                await trio.to_thread.run_sync(_remove_tree, folder)

    async def store(self, name: str) -> tuple[Cid, int]:
        """Add a run's output to the content store and pin it; returns its CID and file bytes."""
        folder = self._runs / name
        size = await trio.to_thread.run_sync(measure_tree, folder)
        cid = await self._content.add_directory(folder)
        await self._content.pin(cid, f"run-{name}")
        return cid, size

    def find_input(self, cid: Cid) -> Path:
        """Return the file or folder that a prepared job's input lies in."""
        return self._inputs / cid

    def find_output(self, name: str) -> Path:
        """Return the folder that a run writes its output to."""
        return self._runs / name

    def find_checkpoints(self, name: str) -> Path:
        """Return the folder that a run's newest checkpoints are copied to."""
        return self._checkpoints / name

    async def stop(self, name: str) -> None:
        """Kill a run's container, if there is one."""
        await self._sandbox.kill(f"gpumarket-{name}")

    async def store_checkpoint(
        self, copy: Path, *, name: str, number: int, before: Path | None
    ) -> CheckpointFacts:
        """
        Add a run's checkpoint to the content store and pin it; say what it is.

        `number` counts the run's checkpoints, `before` is the one that it came from.
        """
        try:
            return await store_checkpoint(
                self._content, copy, before=before, pin=f"checkpoint-{name}-{number}"
            )
        except ContentError as error:
            # It is raised inside of a run, whose errors are of this kind.
            raise SandboxError(
                error.message, code=error.code, why=error.why, fault="provider"
            ) from error

    async def clean(self, name: str, *, is_output_kept: bool, checkpoints: int = 0) -> None:
        """Remove a run's folders, and unless kept let go of its output and its checkpoints."""
        if not is_output_kept:
            await self._content.unpin(f"run-{name}")
            for number in range(checkpoints):
                await self._content.unpin(f"checkpoint-{name}-{number}")
        for folder in (self._runs / name, self._checkpoints / name):
            await trio.to_thread.run_sync(_remove_tree, folder)

    async def _prepare_image(self, job: JobSpec, sources: Sequence[str], deadline_s: float) -> int:
        digest = job.image.digest.removeprefix("sha256:")
        if await self._sandbox.has_image(digest):
            return 0
        await self._content.fetch(
            job.image.archive,
            sources=sources,
            deadline_s=min(deadline_s, _allow_seconds(job.image.archive_bytes)),
            max_bytes=_with_overhead(job.image.archive_bytes),
        )
        path = self._inputs / f"image-{secrets.token_hex(8)}.tar"
        try:
            await self._content.export(job.image.archive, path)
            await self._sandbox.ensure_image(path, digest)
            return path.stat().st_size
        finally:
            path.unlink(missing_ok=True)

    async def _stage(
        self, cid: Cid, size_bytes: int, sources: Sequence[str], deadline_s: float
    ) -> int:
        target = self._inputs / cid
        if target.exists():
            return 0
        await self._content.fetch(
            cid,
            sources=sources,
            deadline_s=min(deadline_s, _allow_seconds(size_bytes)),
            max_bytes=_with_overhead(size_bytes),
        )
        # Written aside and renamed, so that what is there is whole.
        aside = self._inputs / f"staging-{secrets.token_hex(8)}"
        await self._content.export(cid, aside)
        await trio.to_thread.run_sync(_make_readable, aside)
        aside.rename(target)
        return await trio.to_thread.run_sync(measure_tree, target)

    def _make_run_folder(self, folder: Path) -> None:
        _remove_tree(folder)
        folder.mkdir()


def make_request(
    job: JobSpec,
    unit: int,
    *,
    name: str,
    job_id: str,
    inputs: Path,
    output_folder: Path,
    device_ids: tuple[str, ...] = (),
) -> RunRequest:
    """Say how a unit is run: its job's command and limits, with its inputs from `inputs`."""
    output = job.outputs[0] if job.outputs else None
    return RunRequest(
        name=f"gpumarket-{name}",
        lease_id=name,
        image_digest=job.image.digest.removeprefix("sha256:"),
        argv=job.command,
        env=make_unit_env(job, unit, job_id=job_id),
        inputs=tuple(
            InputMount(host_path=inputs / item.cid, container_path=item.path) for item in job.inputs
        ),
        output_path=output.path if output else OUTPUT_PATH_DEFAULT,
        output_folder=output_folder,
        limits=Limits(
            memory_bytes=job.resources.memory_bytes,
            cpu_millis=job.resources.cpus * CPU_MILLIS_PER_CPU,
            run_ms=job.limits.run_seconds * MS_PER_SECOND,
            output_bytes=output.bytes_max if output else OUTPUT_BYTES_DEFAULT,
            shm_bytes=job.resources.shm_bytes,
        ),
        gpu_device_ids=device_ids,
        runtime="runsc" if job.placement.isolation == "gvisor" else "runc",
    )


def add_checkpoints(
    request: RunRequest,
    plan: CheckpointPlan,
    training: TrainingRun,
    *,
    inputs: Path,
    copies: Path,
) -> RunRequest:
    """Add to a run what a training task has more: a place for checkpoints, and where to go on."""
    resume = (
        ()
        if training.resume is None
        else (InputMount(host_path=inputs / training.resume, container_path=RESUME_PATH),)
    )
    env = make_training_env(
        plan, stop_at=training.stop_at, resume_path=RESUME_PATH if resume else ""
    )
    # One more than are kept: the next is being written.
    volume_bytes = request.limits.output_bytes + (plan.keep + 1) * plan.bytes_max
    return replace(
        request,
        env={**request.env, **env},
        inputs=(*request.inputs, *resume),
        limits=replace(request.limits, output_bytes=volume_bytes),
        checkpoints=CheckpointFolder(
            container_path=plan.path,
            host_folder=copies,
            bytes_max=plan.bytes_max,
            keep=plan.keep,
        ),
    )


def _with_overhead(size_bytes: int) -> int:
    # The DAG around a file: links and framing stay below two percent of it.
    return size_bytes + size_bytes // 50 + 65_536


def _allow_seconds(size_bytes: int) -> float:
    return FETCH_SECONDS_MIN + size_bytes / FETCH_BYTES_PER_SECOND_MIN


def measure_tree(root: Path) -> int:
    """Return the bytes of all files of a folder, or of one file."""
    return sum(path.stat().st_size for path in (root, *root.rglob("*")) if path.is_file())


def _make_readable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(READABLE_MODE)


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
