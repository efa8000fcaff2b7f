"""
Two outputs on disk, and the comparison that the job's rule asks for.

Files are read one at a time, so that memory is bounded by the largest file and not by the output. A
requester's own comparator runs in the sandbox that the job ran in.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gpumarket.adapters.content import ContentStore
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    NpyRule,
    ProgramRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import ContentError, GpuMarketError
from gpumarket.protocol.ids import make_job_id
from gpumarket.protocol.job import JobSpec
from verifier.core.effects import CompareOutputs

FETCH_SECONDS_MAX = 300.0
OUTPUT_BYTES_MAX = 2 * 10**9
"""The most of one output that is put on disk to compare it."""
FILE_BYTES_MAX = 2 * 10**9
"""The most of one file that is held in memory."""
SENTENCE_CHARS_MAX = 160
EXIT_SAME, EXIT_DIFFERENT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where outputs are compared: content, sandbox, and a folder of ours."""

    content: ContentStore
    runner: UnitRunner
    folder: Path


class FolderFiles(Mapping[str, bytes]):
    """The plain files below a folder by relative name, each read when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._paths = {
            str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()
        }

    def __getitem__(self, name: str) -> bytes:
        return _read_bounded(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


class OneFile(Mapping[str, bytes]):
    """One file under every name: the base of all files of an output."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, frozenset(names)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return _read_bounded(self._path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ContentError(f"{path.name[:60]!r} has more than {FILE_BYTES_MAX} bytes")
    return path.read_bytes()


async def compare(effect: CompareOutputs, bench: Bench) -> Outcome:
    """Compare both outputs by the job's rule; what cannot be read decides nothing."""
    own, theirs = effect.own.output, effect.theirs.output
    rule = effect.request.job.verify.comparison
    if own == theirs:
        return Outcome(Verdict.MATCH, rule.name, "both outputs have the same CID")
    if isinstance(rule, BytesRule):
        text = "the outputs have different CIDs and must be equal by bytes"
        return Outcome(Verdict.MISMATCH, rule.name, text)
    try:
        async with _put_on_disk(effect, bench) as (own_folder, their_folder):
            if isinstance(rule, ProgramRule):
                return await _run_comparator(effect, bench, (own_folder, their_folder))
            base = await _find_base(effect, bench, rule)
            return await trio.to_thread.run_sync(
                _compare_folders, own_folder, their_folder, rule, base
            )
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


def _compare_folders(own: Path, theirs: Path, rule: Comparison, base: Path | None) -> Outcome:
    files = FolderFiles(own)
    started: Mapping[str, bytes] | None = None
    if base is not None:
        started = FolderFiles(base) if base.is_dir() else OneFile(base, list(files))
    return compare_outputs(files, FolderFiles(theirs), rule, base=started)


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


async def _run_comparator(
    effect: CompareOutputs, bench: Bench, folders: tuple[Path, Path]
) -> Outcome:
    request = effect.request
    await _prepare(request.job, effect, bench)
    result = await bench.runner.run_comparator(
        request.job,
        request.unit,
        name=f"compare-{request.receipt_hash.hex()}",
        job_id=make_job_id(request.order_hash),
        own=folders[0],
        theirs=folders[1],
    )
    return read_comparator(result)


async def _prepare(job: JobSpec, effect: CompareOutputs, bench: Bench) -> None:
    sources = effect.request.sources
    await bench.runner.prepare(job, sources=sources, deadline_s=FETCH_SECONDS_MAX)


def read_comparator(result: RunResult) -> Outcome:
    """Turn how a requester's comparator ended into an outcome; only 0 and 1 decide anything."""
    is_whole = not (result.is_timed_out or result.is_oom_killed or result.is_output_over_limit)
    lines = result.stdout_tail.decode(errors="replace").strip().splitlines() or [""]
    said = "".join(char for char in lines[-1] if char.isprintable())[:SENTENCE_CHARS_MAX]
    text = f"the job's comparator exited with {result.exit_code}: {said or 'it said nothing'}"
    if is_whole and result.exit_code == EXIT_SAME:
        return Outcome(Verdict.MATCH, "program", text)
    if is_whole and result.exit_code == EXIT_DIFFERENT:
        return Outcome(Verdict.MISMATCH, "program", text)
    return Outcome(Verdict.INCONCLUSIVE, "program", text)
