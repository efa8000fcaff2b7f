"""
What a run in a sandbox is: what is asked for, how it ended, and who can do it.

No container engine is named here. Docker is one implementation (`sandbox.py`); fleets on Slurm or
Kubernetes come behind the same `Sandbox`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

OnOutput = Callable[[str, bytes], None]
"""Called in the event loop with "stdout" or "stderr" and a chunk; must be quick."""
OnCheckpoint = Callable[[Path], Awaitable[None]]
"""Called in the event loop with the copy of each finished checkpoint, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use; all are enforced, none is a hint."""

    memory_bytes: int
    cpu_millis: int
    """Thousandths of one core."""
    run_ms: int
    output_bytes: int
    pids: int = 256
    scratch_bytes: int = 64 << 20
    """Size of /tmp; it lies in memory and counts as such."""
    shm_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMount:
    """A file or folder the job may read; readable by everyone on the host."""

    host_path: Path
    container_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFolder:
    """Where a training task leaves its checkpoints, and where they are copied to meanwhile."""

    container_path: str
    host_folder: Path
    """Gets a folder for each finished checkpoint; the newest `keep` stay."""
    bytes_max: int
    """Of one checkpoint."""
    keep: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """
    One run of one program.

    The job can read the host path of each input in /proc/self/mountinfo. So these paths must not
    tell a provider from a verifier: stage inputs in a folder whose name says neither.
    """

    name: str
    """Container name, unique on this engine."""
    lease_id: str
    image_digest: str
    """Hex sha2-256 of the image's config, without `sha256:`."""
    argv: tuple[str, ...]
    """The whole command; the entrypoint of the image is not put before it."""
    env: Mapping[str, str]
    inputs: tuple[InputMount, ...]
    output_path: str
    """Where the job writes, inside the container."""
    output_folder: Path
    """Where its plain files are copied to, on this machine."""
    limits: Limits
    workdir: str = ""
    """Empty for the image's own."""
    gpu_device_ids: tuple[str, ...] = ()
    """Devices as the engine calls them: identities of NVIDIA's, or paths of device files."""
    runtime: str = "runc"
    checkpoints: CheckpointFolder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended. At most one of the three flags is set, the first that applied."""

    exit_code: int
    is_timed_out: bool
    is_output_over_limit: bool
    is_oom_killed: bool
    wall_ms: int
    output_bytes: int
    skipped_outputs: tuple[str, ...]
    stdout_tail: bytes
    stderr_tail: bytes

    @property
    def is_success(self) -> bool:
        """Whether the program ended by itself with exit code 0 and within its limits."""
        flags = self.is_timed_out or self.is_output_over_limit or self.is_oom_killed
        return self.exit_code == 0 and not flags


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFacts:
    """What the engine is, after it was tried."""

    engine_id: str
    engine_version: str
    runtimes: tuple[str, ...]
    cgroup_version: str
    is_output_hard_limited: bool


class Sandbox(Protocol):
    """What a role needs of a sandbox."""

    async def probe(self, runtime: str = "runc") -> SandboxFacts:
        """Try the engine's limits; raise SandboxError GM-2110 where they are not enforced."""
        ...

    async def ensure_image(self, archive_path: Path | None, config_digest: str) -> None:
        """Return when the engine has the image; load it from the archive if need be."""
        ...

    async def run(
        self,
        request: RunRequest,
        *,
        on_output: OnOutput | None = None,
        on_checkpoint: OnCheckpoint | None = None,
    ) -> RunResult:
        """Run one program to its end; cancelling kills it."""
        ...

    async def kill(self, name: str) -> None:
        """Kill a container of ours; it need not exist."""
        ...

    async def remove_leftovers(self) -> int:
        """Remove what earlier processes of this data folder left; return how many containers."""
        ...
