"""
Every option a stranger's container is created with.

Each is there for a reason that a test in tests/integration/test_sandbox_escapes.py tries to get
around. Plain values in the terms of Docker's API; `sandbox.py` hands them to the engine.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

from gpumarket.adapters.execution import RunRequest
from gpumarket.adapters.output_volume import OutputVolume
from gpumarket.protocol.errors import SandboxError

SCRATCH_FILES_MAX: Final = 10_000
OPEN_FILES_MAX: Final = 4096
DEVICE_FILES: Final = "/dev/"
GVISOR_PIDS_MIN: Final = 256  # its own threads count

LABEL_OWNER: Final = "gpumarket.owner"
LABEL_LEASE: Final = "gpumarket.lease"
JOB_USER: Final = "65534:65534"
SCRATCH_PATH: Final = "/tmp"  # noqa: S108  a path inside the container
# The container toolkit acts on the first, the dynamic loader of its hooks on the second.
STRIPPED_ENV: Final = ("NVIDIA_", "LD_")


def build_container_options(
    request: RunRequest, volume: OutputVolume, *, image_env: tuple[str, ...], owner: str
) -> dict[str, Any]:
    """Build what a container is, except its limits."""
    return {
        "name": request.name,
        "image": f"sha256:{request.image_digest}",
        "entrypoint": list(request.argv[:1]),
        "command": list(request.argv[1:]),
        "environment": build_environment(request.env, image_env),
        "user": JOB_USER,
        "working_dir": request.workdir or None,
        "hostname": "job",
        "healthcheck": {"test": ["NONE"]},
        "stop_signal": "SIGKILL",
        "labels": {LABEL_OWNER: owner, LABEL_LEASE: request.lease_id},
    }


def build_environment(env: Mapping[str, str], image_env: tuple[str, ...]) -> list[str]:
    """
    Build the job's environment, the same for whoever runs it.

    A name without `=` takes a variable of the image away; `NVIDIA_VISIBLE_DEVICES=all` in an
    image would open every GPU of the machine on some set-ups.
    """
    removed = {line.partition("=")[0] for line in image_env if line.startswith(STRIPPED_ENV)}
    kept = {key: value for key, value in env.items() if not key.startswith(STRIPPED_ENV)}
    kept.setdefault("HOME", SCRATCH_PATH)
    return [*sorted(removed), *(f"{key}={value}" for key, value in sorted(kept.items()))]


def build_host_config(request: RunRequest, volume: OutputVolume) -> dict[str, Any]:
    """Build the isolation and the limits of one container."""
    limits = request.limits
    memory = limits.memory_bytes + volume.memory_bytes
    is_gvisor = request.runtime == "runsc"
    security = ["no-new-privileges:true"]
    if not is_gvisor:  # gVisor answers system calls itself and takes no profile
        security.append(f"seccomp={read_seccomp_profile()}")
    ulimits = [
        {"name": "nofile", "soft": OPEN_FILES_MAX, "hard": OPEN_FILES_MAX},
        {"name": "core", "soft": 0, "hard": 0},
    ]
    if not volume.is_hard_limited:
        largest = max(limits.output_bytes, limits.scratch_bytes) + 1
        ulimits.append({"name": "fsize", "soft": largest, "hard": largest})
    return {
        "runtime": request.runtime,
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": security,
        "pids_limit": max(limits.pids, GVISOR_PIDS_MIN) if is_gvisor else limits.pids,
        "mem_limit": memory,
        "memswap_limit": memory,  # equal: no swap
        "mem_swappiness": 0,
        "oom_score_adj": 500,
        "nano_cpus": limits.cpu_millis * 1_000_000,
        "cpu_shares": 256,  # below the node's own processes
        "tmpfs": {
            SCRATCH_PATH: "rw,noexec,nosuid,nodev,uid=65534,gid=65534,mode=0700,"
            f"size={limits.scratch_bytes},nr_inodes={SCRATCH_FILES_MAX}"
        },
        "shm_size": limits.shm_bytes,
        "ipc_mode": "private",
        "cgroupns": "private",
        "init": True,
        "ulimits": ulimits,
        "log_config": {"type": "json-file", "config": {"max-size": "1m", "max-file": "1"}},
        "restart_policy": {"Name": "no"},
        "mounts": build_mounts(request, volume),
        "device_requests": build_device_requests(request.gpu_device_ids),
        **build_device_files(request.gpu_device_ids),
    }


def build_mounts(request: RunRequest, volume: OutputVolume) -> list[dict[str, Any]]:
    """Build the inputs, read-only, and the places to write."""
    inputs = [
        build_bind(mount.host_path, mount.container_path, is_read_only=True)
        for mount in request.inputs
    ]
    output = build_bind(volume.output_path, request.output_path, is_read_only=False)
    if request.checkpoints is None:
        return [*inputs, output]
    place = request.checkpoints.container_path
    # The engine mounts the outer path first, so one of the two may lie in the other.
    return [*inputs, build_bind(volume.checkpoint_path, place, is_read_only=False), output]


def build_bind(host_path: Path, container_path: str, *, is_read_only: bool) -> dict[str, Any]:
    """Build one bind mount."""
    return {
        "Type": "bind",
        "Source": str(host_path.resolve()),
        "Target": container_path,
        "ReadOnly": is_read_only,
    }


def build_device_requests(gpu_device_ids: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Ask for exactly these GPUs, by UUID; none when there are none."""
    identities = [name for name in gpu_device_ids if not name.startswith(DEVICE_FILES)]
    if not identities:
        return None
    capabilities = [["gpu", "compute", "utility"]]
    return [{"device_ids": identities, "capabilities": capabilities}]


def build_device_files(gpu_device_ids: tuple[str, ...]) -> dict[str, Any]:
    """
    Hand over devices that are files, and the groups that may use them, but never that of root.

    Raises `SandboxError` GM-2103 for what is no character device: a disk is not for sale.
    """
    files = [name for name in gpu_device_ids if name.startswith(DEVICE_FILES)]
    groups: set[int] = set()
    for name in files:
        try:
            found = Path(name).lstat()
        except OSError as error:
            raise _refuse_device(name, error.strerror or str(error)) from error
        if not stat.S_ISCHR(found.st_mode):
            raise _refuse_device(name, "it is no character device")
        groups |= {found.st_gid} - {0}
    if not files:
        return {}
    return {
        "devices": [f"{name}:{name}:rw" for name in files],
        "group_add": [str(group) for group in sorted(groups)],
    }


def _refuse_device(name: str, why: str) -> SandboxError:
    return SandboxError(
        f"the device {name} cannot be handed to a container",
        code="GM-2103",
        why=why,
        money="nothing was charged",
    )


def compute_wall_ms(state: Mapping[str, Any]) -> int:
    """Compute how long a container ran from the engine's own times, in milliseconds."""
    started, finished = (
        # Nine digits of a second are three more than Python reads.
        datetime.fromisoformat(f"{state[key][:26].rstrip('Z')}+00:00")
        for key in ("StartedAt", "FinishedAt")
    )
    return max(0, round((finished - started).total_seconds() * 1000))


def read_seccomp_profile() -> str:
    """Read the allow-list of system calls that is shipped with this package."""
    return resources.files("gpumarket.adapters").joinpath("seccomp.json").read_text()
