"""
Attack 16: a job that finds out who runs it, and behaves while it is checked.

A provider and a verifier run the same unit with the real engine, each with its own name, folder,
owner and run. Everything that a program can look at is then the same, but for what the engine
draws anew for every container, on either side, like its own id and the number of its process.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import JobSpec
from gpumarket.testing.factories import (
    make_image,
    make_input,
    make_output,
    make_resources,
    make_spec,
)
from tests.integration.sandbox_fixture import (
    job_image_fixture,  # noqa: F401  pytest finds it by its name
)

LOOK = r"""
import json, os, platform, resource, socket, subprocess, time
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"
def walk(top, depth):
    found = []
    for folder, folders, files in os.walk(top):
        if folder.count("/") - top.count("/") >= depth:
            folders[:] = []
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            found.append([path, oct(info.st_mode), info.st_uid, info.st_gid, info.st_rdev])
    return sorted(found)
def tick(clock):
    steps = set()
    last = clock()
    for _ in range(2000):
        now = clock()
        if now != last:
            steps.add(now - last)
        last = now
    return min(steps) < 10**6
limits = {name: resource.getrlimit(getattr(resource, name))
          for name in dir(resource) if name.startswith("RLIMIT_")}
status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
seen = {
    "env": sorted(os.environ.items()),
    "argv": open("/proc/1/cmdline", "rb").read().split(b"\0")[-6:].__repr__(),
    "mounts": read("/proc/self/mountinfo"),
    "mounted": read("/proc/mounts"),
    "cgroup": read("/proc/self/cgroup"),
    "limits": limits,
    "memory": [read("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
               read("/sys/fs/cgroup/memory.max")],
    "cpu": [read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), read("/sys/fs/cgroup/cpu.max"),
            read("/sys/fs/cgroup/cpu/cpu.shares")],
    "pids": [read("/sys/fs/cgroup/pids/pids.max"), read("/sys/fs/cgroup/pids.max")],
    "host": [socket.gethostname(), platform.uname()._asdict(), read("/etc/hostname"),
             read("/etc/hosts"), read("/etc/resolv.conf")],
    "devices": walk("/dev", 2),
    "in": walk("/in", 3),
    "network": [sorted(os.listdir("/sys/class/net")), read("/proc/net/route"),
                read("/proc/net/dev")],
    "who": [os.getuid(), os.getgid(), os.getgroups(), os.getppid(), os.getcwd()],
    "rights": {key: status[key].strip() for key in
               ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                "Cpus_allowed", "Mems_allowed", "Umask")},
    "oom": read("/proc/self/oom_score_adj"),
    "processors": [os.cpu_count(), len(os.sched_getaffinity(0))],
    "clock": [time.tzname, tick(time.time_ns), tick(time.monotonic_ns),
              time.get_clock_info("time").resolution],
    "tmp": [os.statvfs("/tmp")[:4], os.statvfs("/out")[:4], os.statvfs("/dev/shm")[:4]],
    "labels": read("/proc/self/attr/current"),
    "init": read("/proc/1/comm"),
}
with open("/out/seen.json", "w") as file:
    json.dump(seen, file)
"""
DRAWN_BY_THE_ENGINE = (
    (re.compile(r"/var/lib/docker/[^ ,:]*"), "ENGINE"),
    (re.compile(r"[0-9a-f]{64}"), "ID"),
    (re.compile(r"(?m)^\d+ \d+ \d+:\d+ "), "MOUNT "),
    (re.compile(r"upperdir=[^,]*|workdir=[^,]*|lowerdir=[^ ,]*"), "LAYERS"),
    (re.compile(r"/dev/loop\d+"), "LOOP"),
    (re.compile(r"/l/[A-Z0-9]{26}"), "LAYER"),
)
"""Random in every container, whoever starts it: a second run of the same side differs there too."""


class NoContent:
    """Nothing is fetched: the input lies there already."""


@pytest.fixture(name="sandboxes")
async def sandboxes_fixture(
    job_image: tuple[Path, str], tmp_path: Path
) -> AsyncIterator[dict[str, DockerSandbox]]:
    """Two nodes on one engine, as on the devnet: folders whose names say neither."""
    found = {}
    for role, name in (("provider", "3f9c2ab1"), ("verifier", "b7704de9")):
        found[role] = DockerSandbox(owner=f"test-16-{name}", folder=tmp_path / name / "sandbox")
        await found[role].ensure_image(*job_image)
    yield found
    for sandbox in found.values():
        await sandbox.remove_leftovers()
        sandbox.close()


def make_job(job_image: tuple[Path, str], *, output_bytes: int) -> JobSpec:
    return make_spec(
        name="look",
        image=make_image(digest=f"sha256:{job_image[1]}"),
        command=("python3", "/in/look.py"),
        env={"MODE": "honest"},
        inputs=(make_input(name="look", path="/in/look.py", size_bytes=len(LOOK)),),
        outputs=(make_output(path="/out", bytes_max=output_bytes),),
        resources=make_resources(
            devices=DeviceNeed(count=0), cpus=1, memory_bytes=256 << 20, disk_bytes=10**6
        ),
    )


async def look(sandbox: DockerSandbox, job: JobSpec, name: str) -> dict[str, Any]:
    """Run the unit as a role does, and read what the program saw."""
    folder = sandbox.folder.parent / "work"
    runner = UnitRunner(content=NoContent(), sandbox=sandbox, folder=folder)  # type: ignore[arg-type]  # not asked
    source = folder / "inputs" / job.inputs[0].cid
    source.write_text(LOOK)
    source.chmod(0o755)
    result = await runner.run(job, 3, name=name, job_id="gm-abcdefghij")
    assert result.is_success, result.stderr_tail.decode()
    seen: dict[str, Any] = json.loads((runner.find_output(name) / "seen.json").read_text())
    return {key: hide_drawn(value, sandbox.folder.parent) for key, value in seen.items()}


def hide_drawn(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        value = value.replace(str(folder.resolve()), "NODE")
        value = re.sub(r"NODE/sandbox/volumes/[0-9a-f]{16}", "NODE/volume", value)
        for pattern, name in DRAWN_BY_THE_ENGINE:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, list):
        return [hide_drawn(each, folder) for each in value]
    if isinstance(value, dict):
        return {key: hide_drawn(each, folder) for key, each in value.items()}
    return value


@pytest.mark.parametrize("output_bytes", [1_000_000, 100_000_000], ids=["memory", "disk"])
async def test_a_program_sees_the_same_whoever_runs_it(
    sandboxes: dict[str, DockerSandbox], job_image: tuple[Path, str], output_bytes: int
) -> None:
    job = make_job(job_image, output_bytes=output_bytes)
    earns = await look(sandboxes["provider"], job, "a1" * 32)
    is_checked = await look(sandboxes["verifier"], job, "5c" * 32)
    different = {
        key: (earns[key], is_checked[key]) for key in earns if earns[key] != is_checked[key]
    }
    assert different == {}


async def test_what_is_hidden_from_the_comparison_says_neither_role(
    sandboxes: dict[str, DockerSandbox], job_image: tuple[Path, str]
) -> None:
    """The host's paths are in /proc/self/mountinfo: they must not name a role."""
    job = make_job(job_image, output_bytes=1_000_000)
    for sandbox in sandboxes.values():
        seen = await look(sandbox, job, "77" * 32)
        for word in ("provider", "verifier", "check", "lease", "audit", "owner"):
            text = json.dumps({key: seen[key] for key in ("env", "mounts", "mounted", "cgroup")})
            assert word not in text.lower()
