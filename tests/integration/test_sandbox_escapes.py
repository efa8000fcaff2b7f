"""What a hostile job tries, run for real: each attempt must fail, and fail for the right reason."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.container_options import build_environment
from gpumarket.adapters.execution import InputMount
from gpumarket.adapters.sandbox import DockerSandbox

from .sandbox_fixture import (
    LIMITS,
    MIB,
    job_image_fixture,  # noqa: F401  pytest finds it by its name
    run_python,
    sandbox_fixture,  # noqa: F401  pytest finds it by its name
)

Image = tuple[Path, str]

# x86-64 numbers and harmless arguments: without a filter most of these reach the kernel and
# answer with something else than EPERM (measured: io_uring_setup EFAULT, ptrace success).
SYSTEM_CALLS = {
    "ptrace": (101, 16, 1, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, 0, 0),
    "keyctl": (250, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 8, 0),
    "io_uring_enter": (426, 0, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "name_to_handle_at": (303, 0, 0, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "clone with a new user namespace": (56, 0x10000011, 0, 0, 0, 0),
}


async def report(sandbox: DockerSandbox, image: Image, code: str, **options: Any) -> Any:
    """Run code that prints one JSON value, and return it."""
    result = await run_python(sandbox, image[1], code, **options)
    assert result.exit_code == 0, result.stderr_tail.decode()
    return json.loads(result.stdout_tail)


async def test_dangerous_system_calls_are_refused(sandbox: DockerSandbox, job_image: Image) -> None:
    code = (
        "import ctypes, json\nlibc = ctypes.CDLL(None, use_errno=True)\nfound = {}\n"
        f"for name, call in {SYSTEM_CALLS!r}.items():\n"
        "    answer = libc.syscall(*map(ctypes.c_long, call))\n"
        "    found[name] = (answer, ctypes.get_errno())\n"
        "print(json.dumps(found))"
    )
    found = await report(sandbox, job_image, code)
    assert {name: tuple(answer) for name, answer in found.items()} == dict.fromkeys(
        SYSTEM_CALLS, (-1, 1)
    )


async def test_clone3_is_said_not_to_exist_so_that_threads_fall_back(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import ctypes, json, threading\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "answer = libc.syscall(435, 0, 0)\nerrno = ctypes.get_errno()\n"
        "seen = []\nthread = threading.Thread(target=seen.append, args=(1,))\n"
        "thread.start(); thread.join()\nprint(json.dumps([answer, errno, seen]))"
    )
    assert await report(sandbox, job_image, code) == [-1, 38, [1]]


@pytest.mark.parametrize("family", [38, 40, 17, 44])
async def test_odd_socket_families_are_refused(
    sandbox: DockerSandbox, job_image: Image, family: int
) -> None:
    code = (
        "import json, socket\n"
        f"try: socket.socket({family}, socket.SOCK_DGRAM); print(json.dumps('opened'))\n"
        "except OSError as error: print(json.dumps(error.errno))"
    )
    assert await report(sandbox, job_image, code) == 1


async def test_the_process_is_nobody_without_any_privilege(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os\nfields = dict(line.split(':\\t', 1) for line in open('/proc/self/status')"
        " if ':\\t' in line)\n"
        "print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), *(fields[name].strip()"
        " for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')"
        ")]))"
    )
    nobody, none = [65534] * 3, "0" * 16
    found = await report(sandbox, job_image, code)
    assert found[:2] == [nobody, nobody]
    assert set(found[2]) <= {65534}
    assert found[3:] == [none, none, none, none, none, "1", "2"]


async def test_nothing_but_scratch_shm_and_output_can_be_written(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os\nwritable = []\n"
        "for folder, folders, _ in os.walk('/'):\n"
        "    if folder in ('/proc', '/sys'): folders.clear(); continue\n"
        "    try: open(folder + '/x', 'w').close(); writable.append(folder)\n"
        "    except OSError: pass\n"
        "print(json.dumps([sorted(writable), os.statvfs('/').f_flag & os.ST_RDONLY]))"
    )
    writable, is_root_read_only = await report(sandbox, job_image, code)
    assert writable == ["/dev/mqueue", "/dev/shm", "/out", "/tmp"]
    assert is_root_read_only  # also where the image lets everybody write


async def test_kernel_settings_and_other_processes_are_out_of_reach(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os\nopened = []\n"
        "for path, mode in (('/proc/sys/kernel/core_pattern', 'w'), ('/proc/sysrq-trigger', 'w'),"
        " ('/sys/kernel/uevent_helper', 'w'), ('/proc/sys/vm/drop_caches', 'w')):\n"
        "    try: open(path, mode).close(); opened.append(path)\n"
        "    except OSError: pass\n"
        "for path in ('/proc/kcore', '/proc/timer_list', '/proc/keys'):\n"
        "    try: opened += [path] if open(path, 'rb').read(64) else []\n"
        "    except OSError: pass\n"
        "pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]\n"
        "print(json.dumps([opened, max(pids) < 50]))"
    )
    assert await report(sandbox, job_image, code) == [[], True]


async def test_there_is_no_network_but_its_own_loopback(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        # No packet is sent anywhere else: without interfaces and routes there is nowhere to send.
        code = (
            "import json, os, socket\n"
            f"try: socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 3)\n"
            "except OSError as error: answer = error.errno\n"
            "else: answer = 'connected'\n"
            "routes = open('/proc/net/route').read().splitlines()[1:]\n"
            "print(json.dumps([answer, os.listdir('/sys/class/net'), routes]))"
        )
        answer, interfaces, routes = await report(sandbox, job_image, code)
    assert answer == 111
    assert (interfaces, routes) == (["lo"], [])


async def test_the_engine_and_raw_devices_are_not_there(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os, stat\n"
        "sockets = [path for path in ('/var/run/docker.sock', '/run/docker.sock',"
        " '/run/containerd/containerd.sock') if os.path.exists(path)]\n"
        "blocks = [name for name in os.listdir('/dev')"
        " if stat.S_ISBLK(os.lstat('/dev/' + name).st_mode)]\n"
        "try: os.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0)); blocks += ['made']\n"
        "except OSError: pass\n"
        "print(json.dumps([sockets, blocks, sorted(os.listdir('/dev'))]))"
    )
    sockets, blocks, devices = await report(sandbox, job_image, code)
    assert (sockets, blocks) == ([], [])
    assert not {"kvm", "mem", "kmsg", "fuse", "loop-control", "nvidia0"} & set(devices)


async def test_a_fork_bomb_hits_its_limit_and_dies_with_its_container(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os, time\nstarted = 0\n"
        "try:\n    while started < 5000:\n"
        "        if os.fork() == 0: time.sleep(30); os._exit(0)\n        started += 1\n"
        "except OSError as error: print(json.dumps([started, error.errno]))"
    )
    started, errno = await report(sandbox, job_image, code)
    assert (errno, started < LIMITS.pids) == (11, True)


async def test_programs_cannot_be_started_from_places_a_job_can_write(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os, shutil, subprocess\nstarted = []\n"
        "for folder in ('/tmp', '/out', '/dev/shm'):\n"
        "    path = shutil.copy('/usr/bin/python3.11', folder + '/p'); os.chmod(path, 0o755)\n"
        "    try: subprocess.run([path, '-c', '0']); started.append(folder)\n"
        "    except PermissionError: pass\n"
        "print(json.dumps(started))"
    )
    limits = replace(LIMITS, output_bytes=16 * MIB)
    assert await report(sandbox, job_image, code, limits=limits) == []


async def test_scratch_and_shared_memory_are_bounded(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json\nwritten = []\n"
        "for path in ('/tmp/x', '/dev/shm/x'):\n"
        "    file, count = open(path, 'wb', buffering=0), 0\n"
        "    try:\n        while count < 64: count += file.write(bytes(1 << 20)) >> 20\n"
        "    except OSError as error: pass\n"
        "    written.append(count)\n"
        "print(json.dumps(written))"
    )
    limits = replace(LIMITS, scratch_bytes=8 * MIB, shm_bytes=4 * MIB)
    assert await report(sandbox, job_image, code, limits=limits) == [8, 4]


async def test_the_cpu_limit_holds_for_all_threads_together(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import json, os, time\nfor _ in range(2):\n"
        "    if os.fork() == 0:\n        end = time.monotonic() + 1\n"
        "        while time.monotonic() < end: pass\n        os._exit(0)\n"
        "os.wait(); os.wait(); used = os.times()\n"
        "try: quota = open('/sys/fs/cgroup/cpu.max').read().split()\n"
        "except OSError: quota = [open('/sys/fs/cgroup/cpu/cpu.cfs_' + name).read().strip()"
        " for name in ('quota_us', 'period_us')]\n"
        "print(json.dumps([used.children_user + used.children_system, quota]))"
    )
    limits = replace(LIMITS, cpu_millis=500)
    used, quota = await report(sandbox, job_image, code, limits=limits)
    assert used < 0.8
    # On a busy machine the first holds by itself; the quota that is in force does not.
    assert int(quota[0]) / int(quota[1]) == 0.5


async def test_a_job_cannot_tell_a_provider_from_a_verifier(
    job_image: Image, tmp_path: Path
) -> None:
    """Everything a job can ask about its place must be the same for both, or be random."""
    code = (
        "import json, os, socket\n"
        "mounts = sorted((line.split()[3], line.split()[4]) for line in"
        " open('/proc/self/mountinfo') if 'docker' not in line.split()[3]"
        " and line.split()[4] not in ('/',))\n"
        "print(json.dumps([dict(os.environ), socket.gethostname(), mounts, os.listdir('/in'),"
        " open('/proc/self/limits').read(), open('/proc/cmdline').read()]))"
    )
    (tmp_path / "staged").write_text("input")
    mount = InputMount(host_path=tmp_path / "staged", container_path="/in/text")
    seen = []
    for role in ("provider", "verifier"):
        sandbox = DockerSandbox(owner=f"{role}-{tmp_path.name}", folder=tmp_path / role)
        try:
            await sandbox.ensure_image(*job_image)
            seen.append(await report(sandbox, job_image, code, inputs=(mount,), env={"GIVEN": "x"}))
        finally:
            await sandbox.remove_leftovers()
            sandbox.close()
    assert seen[0] == seen[1]
    assert "provider" not in json.dumps(seen)
    assert seen[0][0]["GIVEN"] == "x"


async def test_variables_that_steer_the_toolkit_or_the_loader_never_reach_a_job(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": "all", "LD_PRELOAD": "/in/evil.so", "FINE": "1"}
    code = "import json, os; print(json.dumps(sorted(os.environ)))"
    names = await report(sandbox, job_image, code, env=env)
    assert "FINE" in names
    assert not [name for name in names if name.startswith(("NVIDIA_", "LD_"))]


def test_variables_of_the_image_that_open_gpus_are_taken_away() -> None:
    image_env = ("NVIDIA_VISIBLE_DEVICES=all", "PATH=/usr/bin", "LD_LIBRARY_PATH=/x")
    assert build_environment({"A": "b"}, image_env) == [
        "LD_LIBRARY_PATH",
        "NVIDIA_VISIBLE_DEVICES",
        "A=b",
        "HOME=/tmp",
    ]
