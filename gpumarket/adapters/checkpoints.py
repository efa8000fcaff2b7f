"""Checkpoints between the disk, the content store and what is said of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.checkpoint_files import read_checkpoint
from gpumarket.adapters.checkpoint_watch import refuse_checkpoint
from gpumarket.adapters.content import ContentStore
from gpumarket.comparing.checkpoints import Checkpoint, find_false_word, measure_update
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.training import CheckpointFacts, SegmentState


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
