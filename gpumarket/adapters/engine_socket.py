"""The engine's socket: whether anybody listens, and a container's output as it is written."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any, Final, Protocol

from gpumarket.protocol.errors import SandboxError

FRAME_HEADER_BYTES: Final = 8
STDERR_FRAME: Final = 2
CHUNK_BYTES_MAX: Final = 64 << 10


class Attachable(Protocol):
    """The one call of the docker library that is needed here."""

    def attach_socket(self, container: str, params: Mapping[str, int]) -> Any:
        """Open a connection that carries the container's output."""
        ...


def open_output_stream(engine: Attachable, name: str) -> BufferedReader:
    """Attach to a container that is not started yet, so that no output is missed."""
    connection = engine.attach_socket(name, params={"stdout": 1, "stderr": 1, "stream": 1})
    # Our own handle: the library's has a time limit that a silent job would run into, and is
    # closed only when it is collected.
    with socket.socket(fileno=os.dup(connection.fileno())) as stream:
        connection._response.close()
        stream.settimeout(None)
        return stream.makefile("rb")


def read_frames(output: BufferedReader) -> Iterator[tuple[str, bytes]]:
    """Yield (stdout or stderr, chunk) from the engine's multiplexed stream until it ends."""
    while len(header := output.read(FRAME_HEADER_BYTES)) == FRAME_HEADER_BYTES:
        left = int.from_bytes(header[4:], "big")
        while left > 0 and (chunk := output.read1(min(left, CHUNK_BYTES_MAX))):
            left -= len(chunk)
            yield ("stderr" if header[0] == STDERR_FRAME else "stdout"), chunk


def check_engine_listens(url: str) -> None:
    """
    Tell an engine that is not there (GM-2101) from one that this user may not use (GM-2102).

    Asked before the library connects, which says the same of both and leaves its socket open.
    """
    path = url.partition("unix://")[2]
    if not path:
        return  # over TCP there is nothing to tell apart
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except PermissionError as error:
            raise SandboxError(
                "this user may not use Docker", code="GM-2102", why=str(error), fault="provider"
            ) from error
        except OSError as error:
            raise no_engine_answers(f"{path}: {error.strerror}") from error


def no_engine_answers(why: str) -> SandboxError:
    """Make the error for a machine without an engine."""
    return SandboxError(
        "no Docker engine answers",
        code="GM-2101",
        why=why[:500],
        hints=("scripts/install-docker",),
        fault="provider",
    )
