"""The real engine and the real job image, for every test that runs containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumarket.adapters.execution import InputMount, Limits, RunRequest, RunResult
from gpumarket.adapters.sandbox import DockerSandbox
from tests.job_image import build_job_image

MIB = 1 << 20

LIMITS = Limits(
    memory_bytes=256 * MIB, cpu_millis=1000, run_ms=30_000, output_bytes=4 * MIB, pids=64
)


@pytest.fixture(scope="session", name="job_image")
def job_image_fixture() -> tuple[Path, str]:
    """Build the embeddings image once; return its archive and config digest."""
    return build_job_image()


@pytest.fixture(name="sandbox")
async def sandbox_fixture(
    job_image: tuple[Path, str], tmp_path: Path
) -> AsyncIterator[DockerSandbox]:
    """A sandbox of its own data folder that leaves nothing behind."""
    sandbox = DockerSandbox(owner=f"test-{tmp_path.name}", folder=tmp_path / "sandbox")
    await sandbox.ensure_image(*job_image)
    yield sandbox
    await sandbox.remove_leftovers()
    sandbox.close()


async def run_python(
    sandbox: DockerSandbox,
    digest: str,
    code: str,
    *,
    limits: Limits = LIMITS,
    env: dict[str, str] | None = None,
    inputs: tuple[InputMount, ...] = (),
) -> RunResult:
    """Run a Python program in the job image; its outputs land in the sandbox's folder."""
    request = RunRequest(
        name=f"gpumarket-{sandbox.owner}",
        lease_id="lease-1",
        image_digest=digest,
        argv=("python3", "-c", code),
        env=env or {},
        inputs=inputs,
        output_path="/out",
        output_folder=sandbox.folder / "collected",
        limits=limits,
    )
    return await sandbox.run(request)
