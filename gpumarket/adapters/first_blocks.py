"""
Where on the chain to begin to look for what this node may have done before it died.

A deed is noted with the newest block before it is tried for the first time, on disk. Looking for
its event then needs the blocks since, however often the process starts again. A deed that is not
noted was not tried since the last one that was, because a copy of this file that is older than
the chain says so itself; and where there is no file, nothing is known and all blocks are searched.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import trio

DEEDS_MAX = 1_024
"""Those tried last are kept; one that is outstanding is tried again every few seconds."""
REORG_BLOCKS = 64
"""After a reorg an event may lie in a block before the one that was newest."""


class _Record(msgspec.Struct):
    newest: int = 0
    """The newest block when this was written last."""
    deeds: dict[str, int] = msgspec.field(default_factory=dict)


class FirstBlocks:
    """A small file beside the journal; one process owns it, as it owns the journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = _read(path)
        self._lock = trio.Lock()

    @property
    def is_missing(self) -> bool:
        """Whether nothing is known, so that all blocks would be searched."""
        return self._record is None

    async def begin(self, head: int) -> None:
        """Say that nothing was ever tried: the node is new."""
        async with self._lock:
            await self._store(_Record(newest=head))

    async def find(self, deed: bytes, *, head: int) -> int:
        """Return the block to search from for a deed that is about to be tried; durable."""
        async with self._lock:
            record = self._record or _Record()
            block = record.deeds.pop(deed.hex(), record.newest)
            kept = [*record.deeds.items(), (deed.hex(), block)][-DEEDS_MAX:]
            await self._store(_Record(newest=max(record.newest, head), deeds=dict(kept)))
        return max(0, min(block, head) - REORG_BLOCKS)

    async def _store(self, record: _Record) -> None:
        data = msgspec.json.encode(record)
        await trio.to_thread.run_sync(replace_file, self._path, data)
        self._record = record


def _read(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        # Unreadable is as good as lost: then all blocks are searched, which is slow and right.
        return None


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file whole: power loss leaves this one or the one before."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
