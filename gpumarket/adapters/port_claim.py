"""
Makes sure that one port and one data folder belong to one process.

libp2p listens with SO_REUSEPORT: a second process on the same port starts without an error
and takes every other connection. So the port is probed, and held under a name that only one
process can bind and that the kernel releases when the process dies.
"""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from gpumarket.protocol.errors import InvalidInput

CODE_CLAIMED = "GM-8101"
LOCK_FILE_NAME = "gpumarket.lock"
PID_BYTES_MAX = 32


@contextlib.contextmanager
def claim_port(host: str, port: int) -> Iterator[None]:
    """Hold a TCP port while the context lasts; raises InvalidInput GM-8101 if it is taken."""
    if port == 0:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            if sys.platform == "linux":
                # An abstract name: no file is left behind, and two claims cannot race.
                name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                name.bind(f"\0gpumarket-tcp-{port}")
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # Only REUSEADDR, so that closed connections of a former run are no hindrance.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            raise InvalidInput(
                f"port {port} on {host} is not free",
                code=CODE_CLAIMED,
                why=error.strerror or str(error),
                hints=(f"ss -ltnp 'sport = :{port}'",),
            ) from None
        yield


@contextlib.contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Hold a data folder while the context lasts; raises InvalidInput GM-8101 if it is taken."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(
            f"the data folder {folder} cannot be used",
            code=CODE_CLAIMED,
            why=error.strerror or str(error),
        ) from None
    try:
        _lock_file(lock, folder)
        yield
    finally:
        # Closing releases the lock; the file stays, for removing it would race with the next.
        os.close(lock)


def _lock_file(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(lock, PID_BYTES_MAX).decode("ascii", "replace").strip() or "unknown"
        raise InvalidInput(
            f"another process uses the data folder {folder}",
            code=CODE_CLAIMED,
            why=f"its process id is {pid}",
            hints=(f"ps -p {pid} -o pid,args",),
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
