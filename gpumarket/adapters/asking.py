"""
Ask a maker's library something in a process of its own, which may crash, print or hang.

The module that is asked is started as a program and calls `answer`; who asks calls `ask`. A
process that the kernel does not let die, as one that waits for a broken card, is left behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final, TypeVar

from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.errors import RemoteProtocolError

T = TypeVar("T")
ANSWER_BYTES_MAX: Final = 1 << 18
KILLED_SECONDS_MAX: Final = 2.0


class NoAnswer(Exception):
    """Nothing that can be used came back; its text says why."""


def ask(module: str, *arguments: str, as_type: type[T], seconds_max: float) -> T:
    """Start a module as a program and return what it answers; raise `NoAnswer`."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        told, said = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired as error:
        _leave(process)
        raise NoAnswer(f"no answer within {seconds_max:.0f} s") from error
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise NoAnswer(last[:200] or f"the process ended with {process.returncode}")
    try:
        return decode_document_untrusted(told, as_type, bytes_max=ANSWER_BYTES_MAX)
    except RemoteProtocolError as error:
        raise NoAnswer(error.message[:200]) from error


def _leave(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(KILLED_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return  # the kernel holds it; it dies when the kernel lets go


def answer(find: Callable[[], object]) -> None:
    """Write what `find` returns for who asks; what it prints meanwhile is not an answer."""
    sys.stdout.flush()
    line = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    found = encode_document(find())
    with os.fdopen(line, "wb") as file:
        file.write(found)
