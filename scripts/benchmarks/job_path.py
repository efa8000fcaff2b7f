"""
The whole path of a one-task job against `docker run` of the same container, round by round.

Ours: from the client's submission over a warm HTTP connection, through coordinator, libp2p and
provider into a container and back, until the client sees that the signed result is with the
coordinator. The chain is off the path: the escrow is filled before, and each job is settled
before the next round begins, so that nothing of one round runs in another.

Theirs: `docker run --rm` with the same image, flags and runtime, into an output volume that is
mounted already.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpumarket.adapters.output_volume import OutputVolume, check_can_mount, choose_kind
from gpumarket.adapters.unit_runner import make_request
from gpumarket.client import AsyncClient
from gpumarket.client.connection import find_connection
from gpumarket.client.ordering import Plan
from gpumarket.client.wallet import Signer, find_account, open_account
from gpumarket.protocol.job import JobSpec
from gpumarket.testing.devnet import CPU_PROVIDER, PASSWORD, STATE_FOLDER, Devnet
from scripts.benchmarks import Figures
from scripts.benchmarks.figures import summarize
from scripts.benchmarks.plain_docker import build_run_command

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = ROOT / "build/images/embeddings/image.tar"
# Another result each time: one that is stored already would cost no write.
PROGRAM: Final = "import time; open('/out/x','w').write(str(time.time_ns()))"
TARGET: Final = 1.25
SETTLE_SECONDS_MAX: Final = 120.0
ROUND_SECONDS_MAX: Final = 120.0
WARM_UP_ROUNDS: Final = 1
FINISHED: Final = "task.finished"
"""The event by which a client sees that the signed result is with the coordinator."""


@dataclass(slots=True)
class PlainDocker:
    """Runs the container that a provider would run, by the docker command line."""

    spec: JobSpec
    folder: Path
    image_env: tuple[str, ...]
    count: int = 0

    def run(self) -> float:
        """Run once; return the seconds it took from the command to its end."""
        self.count += 1
        name = f"plain-{self.count}"
        request = make_request(
            self.spec,
            0,
            name=name,
            job_id="gm-aaaaaaaaaa",
            inputs=self.folder,
            output_folder=self.folder / "unused",
        )
        with self._open_volume(name) as volume:
            command = build_run_command(
                request,
                volume,
                image_env=self.image_env,
                seccomp_path=self.folder / "seccomp.json",
            )
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=ROUND_SECONDS_MAX)
            seconds = time.perf_counter() - began
            if not (volume.path / "x").stat().st_size:
                raise RuntimeError("the container wrote nothing")
        return seconds

    @contextlib.contextmanager
    def _open_volume(self, name: str) -> Iterator[OutputVolume]:
        bytes_max = self.spec.outputs[0].bytes_max
        kind = choose_kind(bytes_max, can_mount=check_can_mount(self.folder))
        volume = OutputVolume(self.folder / name, bytes_max=bytes_max, kind=kind)
        volume.open()
        try:
            yield volume
        finally:
            volume.close()


def run(rounds: int) -> Figures:
    """Measure both paths `rounds` times, one after the other; print and return the figures."""
    if not IMAGE.is_file():
        raise SystemExit("bench: there is no demo image; run scripts/build-image first")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        job_file = write_job_file(folder)
        devnet = Devnet(folder / STATE_FOLDER)
        devnet.up(providers=(CPU_PROVIDER,))
        try:
            ours, theirs = asyncio.run(measure(folder, job_file, rounds))
        finally:
            devnet.down()
    figures = summarize(ours, theirs)
    print(f"docker run   {figures['theirs_median_ms']:>7.1f} ms median")
    print(f"our path     {figures['ours_median_ms']:>7.1f} ms median")
    print(
        f"ratio        {figures['median_ratio']:.3f} median, {figures['p95_ratio']:.3f} p95 "
        f"of {figures['n']} rounds; must be at most {TARGET}"
    )
    return figures


def write_job_file(folder: Path) -> Path:
    """Write the job: a program that writes a few bytes, on the image of the demo."""
    job = {
        "version": 1,
        "name": "job-path",
        "image": f"file:{IMAGE}",
        "command": ["python3", "-c", PROGRAM],
        "resources": {"gpu": {"count": 0}, "cpu": 1, "memory": "1GB", "disk": "1GB"},
        "outputs": [{"name": "out", "from": "/out", "max_size": "1MB"}],
        "verify": {"mode": "none"},
        "budget": {"max": "0.10 USDC"},
        "limits": {"queue": "1m", "run": "1m"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))  # JSON is YAML
    return path


async def measure(folder: Path, job_file: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Run both sides in turn; return the seconds of ours and of `docker run`, by round."""
    connection = find_connection({}, env={}, folder=folder)
    account = find_account(connection)
    signer = open_account(account, password=PASSWORD, chain_id=connection.chain_id or 0)
    ours: list[float] = []
    theirs: list[float] = []
    async with AsyncClient(connection=connection) as client:
        plan = await client.plan(job_file)
        await run_job(client, plan, signer)  # brings the image to the engine
        plain = PlainDocker(plan.spec, folder, read_image_env(plan.spec))
        for turn in range(1 - WARM_UP_ROUNDS, rounds + 1):
            # Right after each other, so that both meet the same load; settling comes after both.
            their_seconds = await asyncio.to_thread(plain.run)
            our_seconds = await run_job(client, plan, signer)
            if turn > 0:
                ours.append(our_seconds)
                theirs.append(their_seconds)
                print(f"round {turn:>6} {show(our_seconds)} ours, {show(their_seconds)} theirs")
    return ours, theirs


async def run_job(client: AsyncClient, plan: Plan, signer: Signer) -> float:
    """Run one job; return the seconds until its signed result was seen, once it is settled."""
    began = time.perf_counter()
    job = await client.submit(plan, signer)
    seconds = 0.0
    events = client.events(str(job["id"]), follow=True)
    async with contextlib.aclosing(events):  # type: ignore[type-var]  # a generator, typed wider
        async for event in events:
            if event.type == FINISHED:
                seconds = time.perf_counter() - began
                break
    done = await client.wait(str(job["id"]), timeout=SETTLE_SECONDS_MAX)
    if done["state"].lower() != "settled" or not seconds:
        raise RuntimeError(f"the job is {done['state']}: {done.get('reason')}")
    return seconds


def show(seconds: float) -> str:
    """Write a duration in milliseconds."""
    return f"{seconds * 1000:7.1f} ms"


def read_image_env(spec: JobSpec) -> tuple[str, ...]:
    """Ask the engine for the environment that the image sets."""
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config.Env}}", spec.image.digest],
        check=True,
        capture_output=True,
        timeout=ROUND_SECONDS_MAX,
    )
    return tuple(json.loads(done.stdout) or ())
