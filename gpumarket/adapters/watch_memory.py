"""What a watchtower remembers, on disk: one small file, replaced whole, never half written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from gpumarket.adapters.first_blocks import replace_file
from gpumarket.protocol.watching import Memory


async def load_memory(path: Path) -> Memory | None:
    """Return what was written last; None where there is nothing that can be read."""
    return await trio.to_thread.run_sync(_load, path)


async def save_memory(path: Path, memory: Memory) -> None:
    """Write a memory so that power loss leaves this one or the one before."""
    await trio.to_thread.run_sync(replace_file, path, msgspec.msgpack.encode(memory))


def _load(path: Path) -> Memory | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Memory)
    except (FileNotFoundError, msgspec.DecodeError):
        # Unreadable is as good as lost: everything that can still be disputed is read again.
        return None
