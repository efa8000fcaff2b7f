from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import docker
import pytest
import trio

from gpumarket.adapters.container_options import LABEL_OWNER
from gpumarket.adapters.execution import InputMount, RunRequest, RunResult
from gpumarket.adapters.limit_probe import (
    EXIT_NOT_STOPPED,
    MEMORY_ARGV,
    PROCESS_ARGV,
    write_probe_image,
)
from gpumarket.adapters.output_volume import IN_MEMORY_BYTES_MAX
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.protocol.errors import SandboxError
from tests.patience import PATIENCE

from .sandbox_fixture import (
    LIMITS,
    MIB,
    job_image_fixture,  # noqa: F401  pytest finds it by its name
    run_python,
    sandbox_fixture,  # noqa: F401  pytest finds it by its name
)

Image = tuple[Path, str]


def list_containers(owner: str) -> list[str]:
    client = docker.from_env()
    try:
        found = client.api.containers(all=True, filters={"label": f"{LABEL_OWNER}={owner}"})
        return [container["Names"][0] for container in found]
    finally:
        client.close()


async def test_a_program_runs_and_its_output_files_are_copied_out(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import os, sys; os.makedirs('/out/a/b'); open('/out/a/b/x', 'w').write('hello');"
        "print('said'); print('warned', file=sys.stderr)"
    )
    result = await run_python(sandbox, job_image[1], code)
    assert result.is_success
    assert (result.stdout_tail, result.stderr_tail) == (b"said\n", b"warned\n")
    assert (sandbox.folder / "collected/a/b/x").read_text() == "hello"
    assert (result.output_bytes, result.skipped_outputs) == (5, ())
    assert 10 <= result.wall_ms < 30_000
    assert list_containers(sandbox.owner) == []
    assert list(sandbox.volumes.iterdir()) == []


async def test_the_exit_code_of_the_program_is_reported(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    result = await run_python(sandbox, job_image[1], "raise SystemExit(7)")
    assert (result.exit_code, result.is_success) == (7, False)
    assert (result.is_timed_out, result.is_oom_killed) == (False, False)
    assert not result.is_output_over_limit


async def test_a_program_that_does_not_exist_is_a_failed_program_not_a_broken_engine(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    request = build_request(sandbox, job_image[1], argv=("no-such-program",))
    result = await sandbox.run(request)
    assert result.exit_code == 127


async def test_inputs_are_readable_and_not_writable(
    sandbox: DockerSandbox, job_image: Image, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("input")
    code = (
        "print(open('/in/text').read())\n"
        "try: open('/in/text', 'w')\n"
        "except OSError as error: print(error.strerror)"
    )
    mount = InputMount(host_path=text, container_path="/in/text")
    result = await run_python(sandbox, job_image[1], code, inputs=(mount,))
    assert result.stdout_tail == b"input\nRead-only file system\n"
    assert text.read_text() == "input"


async def test_output_arrives_while_the_program_runs(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    seen: list[tuple[float, bytes]] = []
    code = "import time; print('progress 1/2'); time.sleep(0.6); print('progress 2/2')"
    request = build_request(sandbox, job_image[1], argv=("python3", "-c", code))
    await sandbox.run(request, on_output=lambda _, chunk: seen.append((time.monotonic(), chunk)))
    assert b"".join(chunk for _, chunk in seen) == b"progress 1/2\nprogress 2/2\n"
    assert seen[-1][0] - seen[0][0] > 0.4


async def test_a_task_over_its_time_limit_is_killed_even_if_it_ignores_signals(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    started = time.monotonic()
    result = await run_python(sandbox, job_image[1], code, limits=replace(LIMITS, run_ms=800))
    assert result.is_timed_out
    assert not result.is_success
    assert time.monotonic() - started < 10


async def test_a_memory_bomb_is_killed_and_named(sandbox: DockerSandbox, job_image: Image) -> None:
    code = "kept = []\nwhile True: kept.append(bytearray(1 << 24))"
    limits = replace(LIMITS, memory_bytes=96 * MIB)
    result = await run_python(sandbox, job_image[1], code, limits=limits)
    assert result.is_oom_killed
    assert not result.is_success


@pytest.mark.parametrize("limit", [4 * MIB, IN_MEMORY_BYTES_MAX + MIB])
async def test_an_output_over_its_limit_is_bounded_and_named(
    sandbox: DockerSandbox, job_image: Image, limit: int
) -> None:
    code = "f = open('/out/big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()"
    limits = replace(LIMITS, output_bytes=limit)
    result = await run_python(sandbox, job_image[1], code, limits=limits)
    assert result.is_output_over_limit
    assert not result.is_success
    assert limit < result.output_bytes <= limit + limit // 32 + 16 * MIB
    assert not (sandbox.folder / "collected/big").exists()


async def test_an_output_at_its_limit_is_kept_whole(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    for limit in (4 * MIB, IN_MEMORY_BYTES_MAX + MIB):
        code = f"open('/out/full', 'wb').write(bytes({limit}))"
        limits = replace(LIMITS, output_bytes=limit)
        result = await run_python(sandbox, job_image[1], code, limits=limits)
        assert result.is_success, result
        assert (sandbox.folder / "collected/full").stat().st_size == limit


async def test_files_deleted_while_open_do_not_get_around_the_output_limit(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import os\nkept = []\ntry:\n  for i in range(50):\n"
        "    f = open(f'/out/{i}', 'wb'); kept.append(f); os.unlink(f.name)\n"
        "    f.write(bytes(1 << 20)); f.flush()\n"
        "except OSError as error: print(len(kept), error.strerror)"
    )
    result = await run_python(sandbox, job_image[1], code)
    assert result.stdout_tail == b"6 No space left on device\n"


async def test_where_nothing_can_be_mounted_the_output_folder_is_watched(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    sandbox.can_mount = False
    code = (
        "import time\nfor i in range(1000):\n"
        "  open(f'/out/{i}', 'wb').write(bytes(1 << 20)); time.sleep(0.01)"
    )
    result = await run_python(sandbox, job_image[1], code)
    assert result.is_output_over_limit
    assert result.output_bytes < 200 * MIB


async def test_links_and_pipes_in_the_output_are_left_behind(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = (
        "import os; os.symlink('/etc/shadow', '/out/shadow'); os.mkfifo('/out/pipe');"
        "os.symlink('/', '/out/root'); open('/out/fine', 'w').write('x')"
    )
    result = await run_python(sandbox, job_image[1], code)
    assert sorted(result.skipped_outputs) == ["pipe", "root", "shadow"]
    assert [path.name for path in (sandbox.folder / "collected").iterdir()] == ["fine"]


async def test_a_flood_of_output_is_kept_to_its_tail(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    code = "for i in range(300_000): print('x' * 99)\nprint('end')"
    result = await run_python(sandbox, job_image[1], code)
    assert result.is_success
    assert len(result.stdout_tail) <= 64 << 10
    assert result.stdout_tail.endswith(b"x\nend\n")


async def test_cancelling_kills_the_container(sandbox: DockerSandbox, job_image: Image) -> None:
    request = build_request(
        sandbox, job_image[1], argv=("python3", "-c", "import time; time.sleep(60)")
    )
    started = time.monotonic()
    with trio.move_on_after(1.5) as scope:
        await sandbox.run(request)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 10
    assert list_containers(sandbox.owner) == []
    assert list(sandbox.volumes.iterdir()) == []


async def test_while_tidying_a_result_does_not_wait_for_what_is_removed_after_it(
    sandbox: DockerSandbox, job_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_remove = trio.Event()
    remove = sandbox.remove

    async def remove_later(name: str) -> None:
        await may_remove.wait()
        await remove(name)

    monkeypatch.setattr(sandbox, "remove", remove_later)
    async with sandbox.tidying():
        result = await run_python(sandbox, job_image[1], "open('/out/x', 'w').write('1')")
        assert result.is_success
        assert (sandbox.folder / "collected/x").read_text() == "1"
        assert sandbox.slots.borrowed_tokens == 1
        may_remove.set()
        # The same name again waits for the one that is leaving.
        assert (await run_python(sandbox, job_image[1], "pass")).is_success
    assert sandbox.slots.borrowed_tokens == 0
    assert list_containers(sandbox.owner) == []
    assert list(sandbox.volumes.iterdir()) == []


async def test_killing_by_name_ends_a_run(sandbox: DockerSandbox, job_image: Image) -> None:
    code = "import time; print('up'); time.sleep(60)"
    request = build_request(sandbox, job_image[1], argv=("python3", "-c", code))
    running = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run_to_its_end() -> None:
            result = await sandbox.run(request, on_output=lambda *_: running.set())
            assert (result.exit_code, result.is_timed_out) == (137, False)

        nursery.start_soon(run_to_its_end)
        with trio.fail_after(PATIENCE):
            await running.wait()
        await sandbox.kill(request.name)
    assert list_containers(sandbox.owner) == []


async def test_the_janitor_removes_only_its_own(
    sandbox: DockerSandbox, job_image: Image, tmp_path: Path
) -> None:
    other = DockerSandbox(owner=f"{sandbox.owner}-other", folder=tmp_path / "other")
    client = docker.from_env()
    try:
        for owner in (sandbox.owner, other.owner):
            client.api.create_container(
                f"sha256:{job_image[1]}", ["python3"], labels={LABEL_OWNER: owner}
            )
        assert await sandbox.remove_leftovers() == 1
        assert (list_containers(sandbox.owner), len(list_containers(other.owner))) == ([], 1)
    finally:
        assert await other.remove_leftovers() == 1
        other.close()
        client.close()


async def test_an_image_that_is_not_there_is_one_clear_error(sandbox: DockerSandbox) -> None:
    with pytest.raises(SandboxError, match="no image sha256:0000"):
        await run_python(sandbox, "0" * 64, "")


async def test_a_gpu_that_the_engine_cannot_hand_over_has_its_own_code(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    request = build_request(sandbox, job_image[1], argv=("python3",))
    with pytest.raises(SandboxError) as caught:
        await sandbox.run(replace(request, gpu_device_ids=("GPU-00000000",)))
    assert caught.value.code == "GM-2103"
    assert list_containers(sandbox.owner) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device file")
async def test_a_device_file_is_handed_over_with_its_group_and_nothing_else(
    sandbox: DockerSandbox, job_image: Image
) -> None:
    file = Path(f"/dev/gpumarket-test-{os.getpid()}")
    os.mknod(file, 0o660 | stat.S_IFCHR, os.makedev(1, 5))  # reads zeros
    try:
        os.chown(file, 0, 54_321)
        program = (
            f"import os; print(open('{file}', 'rb').read(3)); print(os.getuid(), os.getgroups())"
        )
        request = build_request(sandbox, job_image[1], argv=("python3", "-c", program))
        result = await sandbox.run(replace(request, gpu_device_ids=(str(file),)))
        assert result.stdout_tail.decode().splitlines() == [
            r"b'\x00\x00\x00'",
            "65534 [54321, 65534]",
        ]
        alone = await sandbox.run(request)
        assert b"No such file" in alone.stderr_tail
    finally:
        os.unlink(file)


@pytest.mark.parametrize("path", ["/dev/gpumarket-none", "/dev/shm"])
async def test_what_is_no_device_is_not_handed_over(
    sandbox: DockerSandbox, job_image: Image, path: str
) -> None:
    request = build_request(sandbox, job_image[1], argv=("python3",))
    with pytest.raises(SandboxError, match="cannot be handed") as caught:
        await sandbox.run(replace(request, gpu_device_ids=(path,)))
    assert caught.value.code == "GM-2103"
    assert list_containers(sandbox.owner) == []


async def test_the_engines_limits_are_tried_once_and_remembered(sandbox: DockerSandbox) -> None:
    facts = await sandbox.probe()
    assert "runc" in facts.runtimes
    assert facts.engine_id
    started = time.monotonic()
    assert await sandbox.probe() == facts
    assert time.monotonic() - started < 0.5


async def test_an_engine_without_the_runtime_asked_for_is_refused(sandbox: DockerSandbox) -> None:
    with pytest.raises(SandboxError, match="no runtime no-such") as caught:
        await sandbox.probe("no-such")
    assert caught.value.code == "GM-2110"


@pytest.mark.parametrize(
    ("memory_exit", "process_exit", "is_trusted"), [(137, 0, True), (9, 0, False), (137, 9, False)]
)
async def test_an_engine_that_stops_no_bomb_is_refused(
    sandbox: DockerSandbox,
    job_image: Image,
    monkeypatch: pytest.MonkeyPatch,
    memory_exit: int,
    process_exit: int,
    is_trusted: bool,
) -> None:
    """An engine that ignores limits cannot be had here, so its answers are put in its place."""
    result = await run_python(sandbox, job_image[1], "")

    async def answer(digest: str, argv: tuple[str, ...], **_: object) -> RunResult:
        exit_code = memory_exit if argv == MEMORY_ARGV else process_exit
        return replace(result, exit_code=exit_code)

    monkeypatch.setattr(sandbox, "run_bomb", answer)
    if is_trusted:
        await sandbox.probe()
        return
    for _ in range(2):  # a refusal is not remembered as a success
        with pytest.raises(SandboxError) as caught:
            await sandbox.probe()
        assert caught.value.code == "GM-2110"


async def test_the_bombs_are_real(sandbox: DockerSandbox, tmp_path: Path) -> None:
    archive, digest = write_probe_image(tmp_path)
    await sandbox.ensure_image(archive, digest)
    memory = await sandbox.run_bomb(digest, MEMORY_ARGV, runtime="runc", folder=tmp_path)
    assert (memory.exit_code, memory.is_oom_killed) == (137, True)
    processes = await sandbox.run_bomb(digest, PROCESS_ARGV, runtime="runc", folder=tmp_path)
    assert processes.exit_code == 0
    unlimited = replace(LIMITS, memory_bytes=1024 * MIB, pids=400)
    for argv in (MEMORY_ARGV, PROCESS_ARGV):
        request = replace(build_request(sandbox, digest, argv=argv), limits=unlimited)
        assert (await sandbox.run(request)).exit_code == EXIT_NOT_STOPPED


async def test_several_programs_run_side_by_side(sandbox: DockerSandbox, job_image: Image) -> None:
    results: dict[str, RunResult] = {}

    async def run_one(name: str) -> None:
        request = build_request(
            sandbox, job_image[1], argv=("python3", "-c", f"open('/out/{name}', 'w').write('x')")
        )
        results[name] = await sandbox.run(replace(request, name=f"{request.name}-{name}"))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(run_one, name)
    assert all(result.is_success for result in results.values())
    assert {path.name for path in (sandbox.folder / "collected").iterdir()} == set("abc")


async def test_a_name_that_is_taken_is_refused_and_its_owner_left_alone(
    sandbox: DockerSandbox, job_image: Image, tmp_path: Path
) -> None:
    other = DockerSandbox(owner=f"{sandbox.owner}-other", folder=tmp_path / "other")
    request = build_request(
        other, job_image[1], argv=("python3", "-c", "import time; print('up'); time.sleep(60)")
    )
    running = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(other.run, request, on_output=lambda *_: running.set()))
        with trio.fail_after(PATIENCE):
            await running.wait()
        with pytest.raises(SandboxError, match="refused"):
            await sandbox.run(request)
        await sandbox.kill(request.name)
        assert list_containers(other.owner) == [f"/{request.name}"]
        await other.kill(request.name)
    other.close()


async def test_without_an_engine_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(SandboxError) as caught:
        DockerSandbox(owner="test", folder=tmp_path)
    assert caught.value.code == "GM-2101"
    assert caught.value.hints


def build_request(sandbox: DockerSandbox, digest: str, *, argv: tuple[str, ...]) -> RunRequest:
    return RunRequest(
        name=f"gpumarket-{sandbox.owner}",
        lease_id="lease-1",
        image_digest=digest,
        argv=argv,
        env={},
        inputs=(),
        output_path="/out",
        output_folder=sandbox.folder / "collected",
        limits=LIMITS,
    )
