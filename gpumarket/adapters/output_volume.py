"""
The folder a job writes to, with a hard end.

Watching a folder grow is not a limit: a job can write into files it has already deleted. So where
this process may mount, the folder is a file system of its own that is simply full at the limit:
memory (tmpfs, 0.1 ms to make) for small outputs, a file (ext4 on a loop device, about 20 ms) for
large ones. Elsewhere the folder is watched, and `is_hard_limited` says so.

After the job, `collect` copies plain files out and nothing else. A link that a job left behind is
never followed on this side.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from gpumarket.protocol.errors import SandboxError

JOB_USER: Final = 65534
IN_MEMORY_BYTES_MAX: Final = 64 << 20
FILES_MAX: Final = 20_000
DEPTH_MAX: Final = 32
SKIPPED_NAMES_MAX: Final = 16
MOUNT_TOOL_SECONDS_MAX: Final = 60
BLOCK_BYTES: Final = 512

# Room above the limit, so that a job that goes over it is seen as over and not as out of space.
MEMORY_SLACK_BYTES: Final = 1 << 20
# A file system of this size keeps that much less for its own tables, at most.
DISK_SLACK_BYTES: Final = 16 << 20
DISK_SLACK_DIVISOR: Final = 32

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH: Final = 2


class VolumeKind(Enum):
    """What holds the output while the job runs."""

    MEMORY = "memory"
    DISK = "disk"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedOutput:
    """What was taken out of a volume."""

    output_bytes: int
    """Sum of the sizes of the plain files found, in bytes."""
    is_over_limit: bool
    """More than the limit was found; then nothing was copied."""
    skipped: tuple[str, ...]
    """The first few names that were no plain file: links, pipes, sockets, too deep."""


class OutputVolume:
    """One job's output folder; open it, hand `path` to the container, collect, close."""

    def __init__(
        self, folder: Path, *, bytes_max: int, kind: VolumeKind, has_checkpoints: bool = False
    ) -> None:
        self.folder = folder
        self.path = folder / "out"
        self.has_checkpoints = has_checkpoints
        self.bytes_max = bytes_max
        self.kind = kind

    @property
    def is_hard_limited(self) -> bool:
        """Whether the volume is full at its limit, so that nobody needs to watch it."""
        return self.kind is not VolumeKind.FOLDER

    @property
    def output_path(self) -> Path:
        """Where the job's output lies: the whole volume, or a part beside its checkpoints."""
        return self.path / "output" if self.has_checkpoints else self.path

    @property
    def checkpoint_path(self) -> Path:
        """Where the job's checkpoints lie, if it has any."""
        return self.path / "checkpoints"

    @property
    def memory_bytes(self) -> int:
        """How much of the job's memory limit the output may take, in bytes."""
        if self.kind is VolumeKind.MEMORY:
            return self.bytes_max + MEMORY_SLACK_BYTES
        return 0

    def open(self) -> None:
        """Make the folder; raise SandboxError where the disk or the kernel refuses."""
        self.folder.mkdir(parents=True, mode=0o755)
        # Closed to the job: if an engine elsewhere does not see our mount, writing fails at once
        # instead of landing on the disk without a limit.
        self.path.mkdir(mode=0o700)
        try:
            if self.kind is VolumeKind.MEMORY:
                mount_memory(self.path, self.memory_bytes)
            elif self.kind is VolumeKind.DISK:
                mount_disk_file(self.folder / "volume", self.path, self.bytes_max)
            else:
                open_folder_to_job(self.path)
            if self.has_checkpoints:
                for part in (self.output_path, self.checkpoint_path):
                    part.mkdir(mode=0o700)
                    open_folder_to_job(part)
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise SandboxError(
                "the output volume could not be made", why=f"{self.kind.value}: {error}"
            ) from error

    def is_over_limit_now(self) -> bool:
        """Measure a folder that is not hard-limited while the job runs."""
        try:
            used = sum(max(size, blocks) for _, size, blocks in walk_files(self.path, []))
        except OSError:
            return False  # the job moved something while we looked; the next look sees it
        return used > self.bytes_max

    def collect(self, target: Path) -> CollectedOutput:
        """
        Copy the plain files into `target` (made if missing), when they are within the limit.

        Call it when the job's processes are gone.
        """
        skipped: list[str] = []
        files = list(walk_files(self.output_path, skipped))
        output_bytes = sum(size for _, size, _ in files)
        is_over = output_bytes > self.bytes_max or len(files) > FILES_MAX
        if not is_over:
            target.mkdir(parents=True, exist_ok=True)
            for path, _, _ in files:
                copy = target / path.relative_to(self.output_path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy, follow_symlinks=False)
        return CollectedOutput(
            output_bytes=output_bytes,
            is_over_limit=is_over,
            skipped=tuple(skipped[:SKIPPED_NAMES_MAX]),
        )

    def close(self) -> None:
        """Unmount and delete the volume; safe to call twice and after a crash."""
        remove_volume(self.folder)


def choose_kind(bytes_max: int, *, can_mount: bool) -> VolumeKind:
    """Pick the kind of volume for an output limit."""
    if not can_mount:
        return VolumeKind.FOLDER
    return VolumeKind.MEMORY if bytes_max <= IN_MEMORY_BYTES_MAX else VolumeKind.DISK


def check_can_mount(folder: Path) -> bool:
    """Try whether this process may mount, with one small volume that is removed again."""
    volume = OutputVolume(folder / "mount-check", bytes_max=4096, kind=VolumeKind.MEMORY)
    volume.close()
    try:
        volume.open()
    except SandboxError:
        return False
    volume.close()
    return True


def walk_files(root: Path, skipped: list[str]) -> Iterator[tuple[Path, int, int]]:
    """
    Yield each plain file below `root` with its size and the disk it takes, both in bytes.

    Follows no link, goes DEPTH_MAX deep, and stops after FILES_MAX + 1 entries of any kind.
    """
    folders, seen = [(root, 0)], 0
    while folders:
        folder, depth = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                if seen > FILES_MAX + 1:
                    return
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) and depth < DEPTH_MAX:
                    folders.append((Path(entry.path), depth + 1))
                elif entry.is_file(follow_symlinks=False) and is_plain_name(entry.name):
                    yield Path(entry.path), status.st_size, status.st_blocks * BLOCK_BYTES
                elif len(skipped) < SKIPPED_NAMES_MAX:
                    skipped.append(ascii(os.path.relpath(entry.path, root))[1:-1][:200])


def is_plain_name(name: str) -> bool:
    """Whether a file name is printable text, which every other machine can write too."""
    # Bytes that are no UTF-8 arrive as lone surrogates, which are not printable.
    return name.isprintable()


def remove_volume(folder: Path) -> None:
    """Unmount and delete what a volume left, also one of a process that was killed."""
    if os.path.ismount(folder / "out"):
        unmount(folder / "out")
    with contextlib.suppress(OSError):  # the common case: nothing is left but the empty folders
        os.rmdir(folder / "out")
        os.rmdir(folder)
    if folder.exists():
        # `rm` walks with bounded memory and any depth; shutil recurses a frame per level.
        subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", str(folder)],
            check=False,
            capture_output=True,
            timeout=MOUNT_TOOL_SECONDS_MAX,
        )


def open_folder_to_job(path: Path) -> None:
    """Let the job's user write to a folder that is not mounted."""
    try:
        os.chown(path, JOB_USER, JOB_USER)
    except PermissionError:
        path.chmod(0o777)


def mount_memory(path: Path, size: int) -> None:
    """Mount a memory file system of `size` bytes."""
    options = f"size={size},nr_inodes={FILES_MAX + 100},mode=0700,uid={JOB_USER},gid={JOB_USER}"
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if libc().mount(b"output", os.fsencode(path), b"tmpfs", flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount_disk_file(image: Path, path: Path, bytes_max: int) -> None:
    """Make a file system inside a file of fixed size, and mount it; needs mkfs.ext4."""
    size = bytes_max + DISK_SLACK_BYTES + bytes_max // DISK_SLACK_DIVISOR
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows now, not inside the job
    run_tool(
        *("mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(FILES_MAX + 100)),
        *("-O", "^has_journal", "-E", f"nodiscard,root_owner={JOB_USER}:{JOB_USER}", str(image)),
    )
    run_tool("mount", "-o", "loop,nosuid,nodev,noexec", str(image), str(path))
    lost_and_found = path / "lost+found"
    if lost_and_found.exists():
        lost_and_found.rmdir()


def run_tool(*command: str) -> None:
    """Run a system tool; raise OSError with its words when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, timeout=MOUNT_TOOL_SECONDS_MAX)
    if done.returncode != 0:
        raise OSError(errno.EIO, f"{command[0]}: {done.stderr[:200].decode(errors='replace')}")


def unmount(path: Path) -> None:
    """Unmount `path` now, or as soon as its last user is gone."""
    library = libc()
    if library.umount2(os.fsencode(path), 0) != 0:
        library.umount2(os.fsencode(path), MNT_DETACH)


def libc() -> ctypes.CDLL:
    """Open the C library, for the two calls Python has no name for."""
    return ctypes.CDLL(None, use_errno=True)
