"""Checkpoints are taken out of a real container while it runs, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gpumarket.adapters.execution import CheckpointFolder, RunRequest, RunResult
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.protocol.errors import SandboxError
from tests.integration.sandbox_fixture import (  # noqa: F401  fixtures
    LIMITS,
    job_image_fixture,
    sandbox_fixture,
)

WRITE = """
import os, time
def leave(step, data=b"x"):
    aside = f"/ckpt/.step-{step:08d}"
    os.mkdir(aside)
    open(aside + "/model.safetensors", "wb").write(data)
    os.rename(aside, f"/ckpt/step-{step:08d}")
"""


async def run_training(
    sandbox: DockerSandbox, digest: str, code: str, *, bytes_max: int = 1 << 20, keep: int = 2
) -> tuple[RunResult, list[tuple[str, dict[str, bytes]]]]:
    """Run a program that leaves checkpoints; return them as they were told of."""
    seen: list[tuple[str, dict[str, bytes]]] = []

    async def note(copy: Path) -> None:
        files = await trio.to_thread.run_sync(lambda: list(copy.iterdir()))
        seen.append((copy.name, {path.name: path.read_bytes() for path in files}))

    request = RunRequest(
        name=f"gpumarket-{sandbox.owner}",
        lease_id="lease-1",
        image_digest=digest,
        argv=("python3", "-c", WRITE + code),
        env={},
        inputs=(),
        output_path="/ckpt/final",
        output_folder=sandbox.folder / "collected",
        limits=replace(LIMITS, output_bytes=8 << 20),
        checkpoints=CheckpointFolder(
            container_path="/ckpt",
            host_folder=sandbox.folder / "copies",
            bytes_max=bytes_max,
            keep=keep,
        ),
    )
    return await sandbox.run(request, on_checkpoint=note), seen


async def test_checkpoints_arrive_in_order_while_the_program_runs(sandbox, job_image):
    code = """
for step in range(5):
    leave(step * 10, b"%d" % step)
    # It can go on only when the node has taken away what is older than two.
    while step >= 2 and os.path.exists(f"/ckpt/step-{(step - 2) * 10:08d}"):
        time.sleep(0.05)
open("/ckpt/final/result.txt", "w").write("done")
"""
    result, seen = await run_training(sandbox, job_image[1], code)
    assert result.is_success, result.stderr_tail
    assert [name for name, _ in seen] == [f"step-{step:08d}" for step in range(0, 50, 10)]
    assert [files["model.safetensors"] for _, files in seen] == [b"%d" % step for step in range(5)]
    # The output has no checkpoint in it, and of the copies the newest two are left.
    assert [path.name for path in (sandbox.folder / "collected").rglob("*")] == ["result.txt"]
    copies = sorted(path.name for path in (sandbox.folder / "copies").iterdir())
    assert copies == ["step-00000030", "step-00000040"]


async def test_the_last_checkpoint_of_a_program_that_ends_at_once_is_taken(sandbox, job_image):
    result, seen = await run_training(sandbox, job_image[1], "leave(7)")
    assert result.is_success
    assert [name for name, _ in seen] == ["step-00000007"]


@pytest.mark.parametrize(
    "trick",
    [
        'os.symlink("/etc/passwd", "/ckpt/.step-00000001/model.safetensors")',
        'os.symlink("/proc/1/environ", "/ckpt/.step-00000001/a")',
        'os.mkfifo("/ckpt/.step-00000001/pipe")',
        'os.mkdir("/ckpt/.step-00000001/folder")',
        'open("/ckpt/.step-00000001/a", "wb").truncate(2 << 20)',
        '[open(f"/ckpt/.step-00000001/{n}", "wb") for n in range(17)]',
    ],
    ids=["link", "link to proc", "pipe", "folder", "too large", "too many"],
)
async def test_what_is_no_plain_checkpoint_ends_the_run(sandbox, job_image, trick):
    code = f"""
os.mkdir("/ckpt/.step-00000001")
{trick}
os.rename("/ckpt/.step-00000001", "/ckpt/step-00000001")
time.sleep(20)
"""
    with pytest.raises(SandboxError) as error:
        await run_training(sandbox, job_image[1], code)
    assert error.value.code == "GM-5105"
    assert error.value.fault == "requester"


async def test_a_link_in_the_place_of_a_checkpoint_is_not_followed(sandbox, job_image):
    code = 'os.symlink("/etc", "/ckpt/step-00000001"); time.sleep(20)'
    with pytest.raises(SandboxError) as error:
        await run_training(sandbox, job_image[1], code)
    assert error.value.code == "GM-5105"
