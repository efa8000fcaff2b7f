"""
Take finished checkpoints out of a folder that a running container writes to.

The container is still there and is nobody's friend: while we look, a file may become a link, a
pipe, or longer. So every name is opened below an open folder, without following links, and what
is not a plain file by then is not read. What was taken is a copy that nobody else can write to;
whether it is a whole checkpoint is for those who read the copy.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from gpumarket.adapters.execution import CheckpointFolder, OnCheckpoint
from gpumarket.protocol.errors import SandboxError

LOOK_SECONDS: Final = 0.25
FILES_MAX: Final = 16
"""In one checkpoint; it has four."""
NAMES_MAX: Final = 10_000
"""Entries of the folder that are looked at."""
COPY_BYTES: Final = 1 << 20
_FINISHED: Final = re.compile(r"step-[0-9]{8}")
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a pipe would wait for its writer.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class CheckpointWatch:
    """The checkpoints of one run, taken as they come."""

    source: Path
    """Where the container writes, on this machine."""
    request: CheckpointFolder
    on_checkpoint: OnCheckpoint
    taken: list[str] = field(default_factory=list)

    async def follow(self) -> None:
        """Take what is finished again and again, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.take()

    async def take(self) -> None:
        """Take what is finished now; raise `SandboxError` GM-5105 for what cannot be taken."""
        for name in await trio.to_thread.run_sync(self._list_new):
            # Shielded, so that a checkpoint is either known to all or to nobody.
            with trio.CancelScope(shield=True):
                copy = await trio.to_thread.run_sync(self._copy, name)
                self.taken.append(name)
                await self.on_checkpoint(copy)
                await trio.to_thread.run_sync(self._forget_old)

    def _list_new(self) -> list[str]:
        with os.scandir(self.source) as entries:
            names = [entry.name for entry, _ in zip(entries, range(NAMES_MAX), strict=False)]
        return sorted(
            name for name in names if _FINISHED.fullmatch(name) and name not in self.taken
        )

    def _copy(self, name: str) -> Path:
        target = self.request.host_folder / name
        aside = self.request.host_folder / f".{name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            copy_folder(self.source / name, aside, bytes_max=self.request.bytes_max)
        except OSError as error:
            raise refuse_checkpoint(name, f"it could not be read: {error.strerror}") from error
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        return target

    def _forget_old(self) -> None:
        for name in self.taken[: -self.request.keep]:
            # Without the right to remove the job's own files they stay, and count as its output.
            with contextlib.suppress(OSError):
                shutil.rmtree(self.source / name)
            shutil.rmtree(self.request.host_folder / name, ignore_errors=True)


def copy_folder(source: Path, target: Path, *, bytes_max: int) -> None:
    """
    Copy the plain files of one folder, none of which may be trusted to stay what it is.

    Raises `SandboxError` GM-5105 for more than `FILES_MAX` files or `bytes_max` bytes.
    """
    folder = os.open(source, _FOLDER_FLAGS)
    try:
        left = bytes_max
        names = sorted(os.listdir(folder))
        if len(names) > FILES_MAX:
            raise refuse_checkpoint(source.name, f"{len(names)} files, at most {FILES_MAX}")
        for name in names:
            left -= _copy_file(folder, name, target, bytes_max=left)
            if left < 0:
                raise refuse_checkpoint(source.name, f"it is larger than {bytes_max} bytes")
    finally:
        os.close(folder)


def _copy_file(folder: int, name: str, target: Path, *, bytes_max: int) -> int:
    """Copy one plain file; return its bytes, or at most one piece more than allowed."""
    source = os.open(name, _FILE_FLAGS, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise refuse_checkpoint(target.name.lstrip("."), "it holds more than plain files")
        copied = 0
        with (target / ascii(name)[1:-1].replace("/", "_")).open("xb") as copy:
            while copied <= bytes_max and (piece := os.read(source, COPY_BYTES)):
                copied += copy.write(piece)
        return copied
    finally:
        os.close(source)


def refuse_checkpoint(name: str, why: str) -> SandboxError:
    """Return the error for a checkpoint that the task left and nobody can use."""
    return SandboxError(
        f"the checkpoint {name} cannot be used", code="GM-5105", why=why, fault="requester"
    )
