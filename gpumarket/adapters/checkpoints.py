"""Checkpoints between the disk, the content store and what is said of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.checkpoint_watch import refuse_checkpoint
from gpumarket.adapters.content import ContentStore
from gpumarket.comparing.checkpoints import (
    FILES,
    Checkpoint,
    decode_checkpoint_untrusted,
    find_false_word,
    measure_update,
)
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.segments import RULE, judge_segments
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.training import CheckpointFacts, SegmentAudit, SegmentState


async def store_checkpoint(
    content: ContentStore, copy: Path, *, before: Path | None, pin: str
) -> CheckpointFacts:
    """
    Put the copy of a finished checkpoint into the content store, and say what it is.

    Raises `SandboxError` GM-5105 where it is no checkpoint, and `ContentError`.
    """
    cid = await content.add_directory(copy)
    facts = await trio.to_thread.run_sync(partial(_read_facts, copy, before, cid))
    await content.pin(cid, pin)
    return facts


async def fetch_checkpoint(
    content: ContentStore,
    cid: Cid,
    *,
    sources: Sequence[str],
    deadline_s: float,
    bytes_max: int,
    folder: Path,
) -> Checkpoint:
    """
    Fetch a checkpoint and read it; `folder` is a place to work in.

    Raises `ContentError` where it cannot be had and `RemoteProtocolError` where it is malformed.
    """
    # Four files and their folder: links and framing stay below two percent.
    bytes_whole = bytes_max + bytes_max // 50 + 65_536
    await content.fetch(cid, sources=sources, deadline_s=deadline_s, max_bytes=bytes_whole)
    target = folder / f"checkpoint-{secrets.token_hex(8)}"
    try:
        await content.export(cid, target, max_bytes=bytes_whole)
        return await trio.to_thread.run_sync(read_checkpoint, target)
    finally:
        await trio.to_thread.run_sync(partial(shutil.rmtree, target, ignore_errors=True))


async def check_word(
    content: ContentStore,
    state: SegmentState,
    before: SegmentState | None,
    *,
    sources: Sequence[str],
    deadline_s: float,
    bytes_max: int,
    folder: Path,
) -> str:
    """
    Fetch what a state speaks of and say what it gets wrong; empty for nothing.

    Raises `ContentError` where a checkpoint cannot be had.
    """
    fetch = partial(
        fetch_checkpoint,
        content,
        sources=sources,
        deadline_s=deadline_s,
        bytes_max=bytes_max,
        folder=folder,
    )
    try:
        ended = await fetch(state.folder)
        started = None if before is None else await fetch(before.folder)
    except RemoteProtocolError as error:
        return f"the checkpoint of segment {state.index} is malformed: {error.message}"
    return await trio.to_thread.run_sync(find_false_word, state, ended, started)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's files; raise `RemoteProtocolError` for anything else."""
    files = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    if files.keys() != FILES or not all(path.is_file() for path in files.values()):
        raise RemoteProtocolError(f"a checkpoint is a folder with {', '.join(sorted(FILES))}")
    return decode_checkpoint_untrusted({name: path.read_bytes() for name, path in files.items()})


class StoredCheckpoints(Mapping[int, Checkpoint]):
    """Checkpoints in folders by number, each read when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._folders = {int(path.name): path for path in root.iterdir() if path.name.isdigit()}

    def __getitem__(self, index: int) -> Checkpoint:
        return read_checkpoint(self._folders[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


def judge_stored(
    audit: SegmentAudit,
    *,
    own: Path,
    theirs: Path,
    own_class: Hash32,
    provider: Address,
    tolerance: str,
) -> Outcome:
    """
    Judge a task by its drawn segments, as `judge_segments`, from folders of checkpoints by number.

    Raises `InvalidInput` where a checkpoint is missing.
    """
    try:
        return judge_segments(
            audit,
            own=StoredCheckpoints(own),
            theirs=StoredCheckpoints(theirs),
            own_class=own_class,
            provider=provider,
            tolerance=tolerance,
        )
    except RemoteProtocolError as error:
        # Ours were written by the same program; its rules of form are what a provider signed.
        by_another = any(state.provider != provider for state in audit.states)
        verdict = Verdict.INCONCLUSIVE if by_another else Verdict.MISMATCH
        return Outcome(verdict, RULE, f"a checkpoint is malformed: {error.message[:160]}")


def _read_facts(copy: Path, before: Path | None, cid: Cid) -> CheckpointFacts:
    try:
        checkpoint = read_checkpoint(copy)
        norm = measure_update(None if before is None else read_checkpoint(before), checkpoint)
    except RemoteProtocolError as error:
        raise refuse_checkpoint(copy.name, error.message) from error
    except OSError as error:
        raise ContentError("a checkpoint could not be read", why=str(error)) from error
    if copy.name != f"step-{checkpoint.step:08d}":
        raise refuse_checkpoint(copy.name, f"its own step is {checkpoint.step}")
    model, optimizer, rng = checkpoint.compute_roots()
    return CheckpointFacts(
        step=checkpoint.step,
        folder=cid,
        model_root=model,
        optimizer_root=optimizer,
        rng_root=rng,
        cursor=checkpoint.cursor,
        loss=checkpoint.loss,
        update_norm=norm,
    )
