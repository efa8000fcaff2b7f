"""
Run a stranger's program in a container that can reach nothing and outlive nothing.

The one place that knows Docker. The options are in `container_options`. The node enforces time and
output itself, since no engine does; the engine's other limits are tried once (`probe`) before any
job is taken, since some engines accept limits and do not enforce them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors
import requests
import trio
import urllib3
from docker.utils import kwargs_from_env

from gpumarket.adapters import limit_probe
from gpumarket.adapters.checkpoint_watch import CheckpointWatch
from gpumarket.adapters.container_options import (
    LABEL_OWNER,
    build_container_options,
    build_host_config,
    compute_wall_ms,
)
from gpumarket.adapters.engine_socket import (
    check_engine_listens,
    no_engine_answers,
    open_output_stream,
    read_frames,
)
from gpumarket.adapters.execution import (
    OnCheckpoint,
    OnOutput,
    RunRequest,
    RunResult,
    SandboxFacts,
)
from gpumarket.adapters.images import (
    check_nothing_forbidden,
    decode_image_archive_untrusted,
    stream_image_archive,
)
from gpumarket.adapters.limit_probe import (
    compute_engine_key,
    limits_not_enforced,
    read_probed_keys,
)
from gpumarket.adapters.logs import Log
from gpumarket.adapters.output_volume import (
    CollectedOutput,
    OutputVolume,
    check_can_mount,
    choose_kind,
    remove_volume,
)
from gpumarket.protocol.errors import RemoteProtocolError, SandboxError

DEFAULT_ENGINE_URL: Final = "unix:///var/run/docker.sock"
DEFAULT_RUNTIME: Final = "runc"
CALL_SECONDS_MAX: Final = 120
CLEANUP_SECONDS_MAX: Final = 30
CONTAINERS_MAX: Final = 64
TAIL_BYTES_MAX: Final = 64 << 10
FORWARDED_BYTES_MAX: Final = 4 << 20
KNOWN_IMAGES_MAX: Final = 256
WATCH_SECONDS: Final = 0.1

log = Log("sandbox")


class DockerSandbox:
    """The sandbox on a Docker engine (20.10 or newer), with runc or gVisor's runsc."""

    def __init__(self, *, owner: str, folder: Path) -> None:
        """
        Connect to the engine that the environment names.

        `owner` marks this data folder's containers, so that two nodes may share an engine;
        `folder` holds output volumes while jobs run, and what the probe found.
        """
        self.owner = owner
        self.folder = folder
        self.volumes = folder / "volumes"
        self.volumes.mkdir(parents=True, exist_ok=True)
        self.can_mount = check_can_mount(folder)
        # A run holds one thread to its end; the other half is there to kill and to remove.
        self.slots = trio.CapacityLimiter(CONTAINERS_MAX)
        self.limiter = trio.CapacityLimiter(2 * CONTAINERS_MAX)
        self.image_env: dict[str, tuple[str, ...]] = {}
        self.tidiers: trio.Nursery | None = None
        self.leaving: dict[str, trio.Event] = {}
        settings: dict[str, Any] = {"base_url": DEFAULT_ENGINE_URL, **kwargs_from_env()}
        check_engine_listens(settings["base_url"])
        with engine_errors():
            self.engine = docker.APIClient(**settings, version="auto", timeout=CALL_SECONDS_MAX)

    def close(self) -> None:
        """Close the connections to the engine."""
        self.engine.close()

    async def probe(self, runtime: str = "runc") -> SandboxFacts:
        """Try a memory and a process bomb, once per engine and its settings (about 1 s)."""
        info = await self.call(self.engine.info)
        facts = SandboxFacts(
            engine_id=str(info["ID"]),
            engine_version=str(info["ServerVersion"]),
            runtimes=tuple(sorted(info["Runtimes"])),
            cgroup_version=str(info.get("CgroupVersion", "1")),
            is_output_hard_limited=self.can_mount,
        )
        if runtime not in facts.runtimes:
            raise SandboxError(
                f"the engine has no runtime {runtime}",
                code="GM-2110",
                why=f"it has {', '.join(facts.runtimes)}",
            )
        record = self.folder / "limits-enforced.json"
        key = compute_engine_key(info, runtime)
        if key not in read_probed_keys(record):
            await self.try_limits(runtime)
            record.write_text(json.dumps([*read_probed_keys(record), key]))
        return facts

    async def try_limits(self, runtime: str) -> None:
        """Run both bombs; raise SandboxError GM-2110 unless both are stopped."""
        if not limit_probe.is_probe_available():
            raise limits_not_enforced("there is no probe for this machine's processor")
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            archive, digest = await self.in_thread(partial(limit_probe.write_probe_image, folder))
            await self.ensure_image(archive, digest)
            memory = await self.run_bomb(
                digest, limit_probe.MEMORY_ARGV, runtime=runtime, folder=folder
            )
            if not memory.is_oom_killed and memory.exit_code != limit_probe.EXIT_KILLED:
                raise limits_not_enforced(f"a memory bomb ended with code {memory.exit_code}")
            processes = await self.run_bomb(
                digest, limit_probe.PROCESS_ARGV, runtime=runtime, folder=folder
            )
            if processes.exit_code == limit_probe.EXIT_NOT_STOPPED:
                raise limits_not_enforced(f"{limit_probe.PROCESSES_STARTED} processes started")

    async def run_bomb(
        self, digest: str, argv: tuple[str, ...], *, runtime: str, folder: Path
    ) -> RunResult:
        """Run the probe once under small limits."""
        return await self.run(
            limit_probe.build_request(digest, argv, runtime=runtime, folder=folder)
        )

    async def ensure_image(self, archive_path: Path | None, config_digest: str) -> None:
        """
        Return when the engine has image `sha256:<config_digest>`.

        Loads the archive if need be, after checking it ourselves. Raises SandboxError GM-5203
        (other bytes than named), GM-5204 (refused) or GM-5201 (absent, or the engine refuses).
        """
        if await self.has_image(config_digest):
            return
        if archive_path is None:
            raise SandboxError(f"the engine has no image sha256:{config_digest}")
        try:
            archive = await trio.to_thread.run_sync(
                decode_image_archive_untrusted, archive_path, config_digest, limiter=self.limiter
            )
        except RemoteProtocolError as error:
            raise convert_refusal(error) from error
        loaded = await self.call(self.load_image, stream_image_archive(archive))
        if not await self.has_image(config_digest):
            for image in loaded:
                await self.call(self.engine.remove_image, image, force=True)
            raise SandboxError(
                "the engine made another image of the archive",
                code="GM-5203",
                why=f"expected sha256:{config_digest}, got {', '.join(loaded) or 'none'}",
                fault="requester",
            )

    def load_image(self, archive: Iterator[bytes]) -> list[str]:
        """Send an archive to the engine; return the ids it says it loaded."""
        loaded = []
        for line in self.engine.load_image(archive):  # type: ignore[no-untyped-call]  # stubs lack it
            if "error" in line:
                raise SandboxError("the engine refuses the image", why=str(line["error"])[:500])
            words = str(line.get("stream", "")).split("Loaded image ID: ")
            loaded += [word.strip() for word in words[1:]]
        return loaded

    async def has_image(self, config_digest: str) -> bool:
        """Whether the engine has the image; remembers its environment."""
        try:
            image = await self.call(self.engine.inspect_image, f"sha256:{config_digest}")
        except SandboxError as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                return False
            raise
        try:
            # As the engine understood it: the last word before anything of it is run.
            check_nothing_forbidden(image)
        except RemoteProtocolError as error:
            raise convert_refusal(error) from error
        if len(self.image_env) >= KNOWN_IMAGES_MAX:
            self.image_env.clear()
        self.image_env[config_digest] = tuple(image["Config"].get("Env") or ())
        return True

    async def run(
        self,
        request: RunRequest,
        *,
        on_output: OnOutput | None = None,
        on_checkpoint: OnCheckpoint | None = None,
    ) -> RunResult:
        """
        Run one program and copy its output files to `request.output_folder`.

        The image must be there (`ensure_image`). Cancelling kills the container. Raises
        SandboxError where the container could not be run; how the program ended is the result.
        """
        if request.image_digest not in self.image_env and not await self.has_image(
            request.image_digest
        ):
            raise SandboxError(f"the engine has no image sha256:{request.image_digest}")
        volume = OutputVolume(
            self.volumes / hashlib.sha256(request.name.encode()).hexdigest()[:16],
            bytes_max=request.limits.output_bytes,
            kind=choose_kind(request.limits.output_bytes, can_mount=self.can_mount),
            has_checkpoints=request.checkpoints is not None,
        )
        watch = None
        if request.checkpoints is not None and on_checkpoint is not None:
            watch = CheckpointWatch(volume.checkpoint_path, request.checkpoints, on_checkpoint)
        if request.name in self.leaving:
            await self.leaving[request.name].wait()
        await self.slots.acquire_on_behalf_of(volume)
        try:
            await self.in_thread(volume.open)
            result = await self.run_container(Following(self, request, volume, on_output, watch))
        except BaseException:
            await self.tidy(None, volume)
            raise
        if self.tidiers is None:
            await self.tidy(request.name, volume)
        else:
            self.leaving[request.name] = trio.Event()
            self.tidiers.start_soon(self.tidy, request.name, volume)
        return result

    @asynccontextmanager
    async def tidying(self) -> AsyncIterator[None]:
        """
        Give results out at once while the block runs, and remove what held them afterwards.

        Without it each run waits until its container and volume are gone.
        """
        async with trio.open_nursery() as self.tidiers:
            try:
                yield
            finally:
                self.tidiers = None

    async def tidy(self, name: str | None, volume: OutputVolume) -> None:
        """Remove an ended run's container, if it still has one, and its volume; free its slot."""
        with trio.CancelScope(shield=True):
            try:
                if name is not None:
                    with trio.move_on_after(CLEANUP_SECONDS_MAX):
                        await self.remove(name)
            except SandboxError as error:
                # It has ended and is told of: what stays of it is swept at the next start.
                log.warn("a container was not removed", name=name, reason=error.message)
            finally:
                await self.in_thread(volume.close)
                self.slots.release_on_behalf_of(volume)
                if name in self.leaving:
                    self.leaving.pop(name).set()

    async def run_container(self, following: Following) -> RunResult:
        """Create, follow and collect one container; remove it where that failed."""
        request, volume = following.request, following.volume
        env = self.image_env[request.image_digest]
        options = build_container_options(request, volume, image_env=env, owner=self.owner)
        options["host_config"] = self.engine.create_host_config(
            **build_host_config(request, volume)
        )
        # Outside of the cleanup: when the name is taken, the container there is not ours to remove.
        await self.call(self.engine.create_container, **options)
        try:
            await following.follow()
            state = (await self.call(self.engine.inspect_container, request.name))["State"]
            # Nothing may write any more when the output is read. The kernel ends all of a PID
            # namespace before its first process; gVisor is no kernel of that kind.
            if request.runtime != DEFAULT_RUNTIME:
                await self.remove(request.name)
            if following.watch is not None:
                await following.watch.take()
            collected = await self.in_thread(partial(volume.collect, request.output_folder))
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(CLEANUP_SECONDS_MAX):
                await self.remove(request.name)
            raise
        return following.build_result(state, collected)

    async def kill(self, name: str) -> None:
        """Kill a container of this owner, whose run then ends with code 137; it may be gone."""
        filters = {"name": f"^/{re.escape(name)}$", "label": f"{LABEL_OWNER}={self.owner}"}
        for found in await self.call(self.engine.containers, filters=filters):
            await self.kill_container(found["Id"])

    async def kill_container(self, name: str) -> None:
        """Kill a container that may have just ended by itself."""
        try:
            await self.call(self.engine.kill, name)
        except SandboxError as error:
            if not isinstance(error.__cause__, docker.errors.APIError):
                raise

    async def remove(self, name: str) -> None:
        """Kill and remove a container with its anonymous volumes."""
        try:
            await self.call(self.engine.remove_container, name, force=True, v=True)
        except SandboxError as error:
            cause = error.__cause__
            # 404: gone already; 409: the engine is removing it for somebody else.
            if not isinstance(cause, docker.errors.APIError) or cause.status_code not in (404, 409):
                raise

    async def remove_leftovers(self) -> int:
        """Remove containers and output volumes that an earlier process of this owner left."""
        filters = {"label": f"{LABEL_OWNER}={self.owner}"}
        found = await self.call(self.engine.containers, all=True, filters=filters)
        for container in found:
            await self.remove(container["Id"])
        for volume in list(self.volumes.iterdir()):
            await self.in_thread(partial(remove_volume, volume))
        return len(found)

    async def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the engine in a thread; raise SandboxError for whatever goes wrong there."""

        def ask() -> Any:
            with engine_errors():
                return function(*arguments, **options)

        return await self.in_thread(ask)

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Run a blocking function in a thread of this sandbox's share."""
        return await trio.to_thread.run_sync(function, limiter=self.limiter)


class Following:
    """One container from its start to its end: output, deadline, output size."""

    def __init__(
        self,
        sandbox: DockerSandbox,
        request: RunRequest,
        volume: OutputVolume,
        on_output: OnOutput | None,
        watch: CheckpointWatch | None,
    ) -> None:
        self.sandbox = sandbox
        self.watch = watch
        self.request = request
        self.volume = volume
        self.on_output = on_output
        self.tails = {"stdout": bytearray(), "stderr": bytearray()}
        self.forwarded_bytes = 0
        self.is_timed_out = False
        self.is_output_over_limit = False
        self.exit_code = -1
        self.started = trio.Event()

    async def follow(self) -> None:
        """Start the container and return when it has ended by itself or by us."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch_deadline)
                if not self.volume.is_hard_limited:
                    nursery.start_soon(self.watch_output)
                if self.watch is not None:
                    nursery.start_soon(self.watch.follow)
                # Abandoned when we are cancelled: the container is removed then, which ends it.
                await trio.to_thread.run_sync(  # type: ignore[call-arg]  # stubs of an older trio
                    self.run_to_end, abandon_on_cancel=True, limiter=self.sandbox.limiter
                )
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # The nursery puts even a single error into a group; callers catch the error itself.
            ours, others = group.split(SandboxError)
            if ours is None or others is not None:
                raise
            raise ours.exceptions[0] from ours.exceptions[0].__cause__

    def run_to_end(self) -> None:
        """Start the container and read its output until it has ended, in a thread."""
        engine, name = self.sandbox.engine, self.request.name
        with engine_errors(), open_output_stream(engine, name) as output:
            engine.start(name)
            trio.from_thread.run_sync(self.started.set)
            for stream, chunk in read_frames(output):
                self.take_output(stream, chunk)
            self.exit_code = int(engine.wait(name)["StatusCode"])

    def take_output(self, stream: str, chunk: bytes) -> None:
        """Keep the tail of the output, and pass on what is within bounds."""
        tail = self.tails[stream]
        tail += chunk
        del tail[:-TAIL_BYTES_MAX]
        if self.on_output is not None and self.forwarded_bytes < FORWARDED_BYTES_MAX:
            self.forwarded_bytes += len(chunk)
            trio.from_thread.run_sync(self.on_output, stream, chunk)

    async def watch_deadline(self) -> None:
        """Kill the container when its time is over."""
        await self.started.wait()
        await trio.sleep(self.request.limits.run_ms / 1000)
        self.is_timed_out = True
        await self.end_container()

    async def watch_output(self) -> None:
        """Kill the container when its output folder grew over the limit."""
        is_over = False
        while not is_over:
            await trio.sleep(WATCH_SECONDS)
            is_over = await self.sandbox.in_thread(self.volume.is_over_limit_now)
        self.is_output_over_limit = True
        await self.end_container()

    async def end_container(self) -> None:
        """Kill, then wait in vain: the reader ends this task when the container is gone."""
        await self.sandbox.kill_container(self.request.name)
        await trio.sleep(CLEANUP_SECONDS_MAX)
        raise SandboxError("the engine did not end a container", why=self.request.name)

    def build_result(self, state: Mapping[str, Any], collected: CollectedOutput) -> RunResult:
        """Put together how the run ended."""
        is_over = self.is_output_over_limit or collected.is_over_limit
        # A program may lose a child to the limit and still end well.
        is_oom = bool(state["OOMKilled"]) and self.exit_code != 0
        return RunResult(
            exit_code=self.exit_code,
            is_timed_out=self.is_timed_out,
            is_output_over_limit=is_over and not self.is_timed_out,
            is_oom_killed=is_oom and not (is_over or self.is_timed_out),
            wall_ms=compute_wall_ms(state),
            output_bytes=collected.output_bytes,
            skipped_outputs=collected.skipped,
            stdout_tail=bytes(self.tails["stdout"]),
            stderr_tail=bytes(self.tails["stderr"]),
        )


def convert_refusal(error: RemoteProtocolError) -> SandboxError:
    """Turn what is wrong with an image into an error of the run that needs it."""
    return SandboxError(error.message, code=error.code, why=error.why, fault=error.fault)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what the docker library raises into SandboxError, with the engine's own words."""
    try:
        yield
    except docker.errors.APIError as error:
        why = str(error.explanation or error)[:500]
        code = "GM-2103" if "could not select device driver" in why else "GM-5201"
        raise SandboxError("the engine refused", code=code, why=why, fault="provider") from error
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise no_engine_answers(str(error)) from error
