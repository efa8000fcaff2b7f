"""
Runs of the training example in a process or a container, on machines of emulated classes.

A lab is one worker of a class; it does stints one after the other. `find_needed_tolerance` says in
the comparator's own measure how far two ends of a segment are from each other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gpumarket.comparing.checkpoints import decode_checkpoint_untrusted, find_fault
from scripts.benchmarks.training_work import Stint

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = ROOT / "examples/train/program"
TEXT: Final = ROOT / "examples/train/text.txt.gz"
WORKER: Final = ROOT / "scripts/benchmarks/training_work.py"
SEED: Final = 11
SEGMENT_STEPS: Final = 20
SEGMENTS: Final = 6
NEVER: Final = 1e9

sys.path.insert(0, str(PROGRAM))  # the program's files find each other as in its container

from checkpointing import Checkpoint as Checkpoint  # noqa: E402, PLC0414  as above; others import it from here


@dataclass
class Lab:
    """A worker that trains; `inside` is how it sees the folder `outside`."""

    process: subprocess.Popen[str]
    outside: Path
    inside: str
    seed: int
    done: int = 0

    def train(
        self, start: Checkpoint | None, steps: int = SEGMENT_STEPS, **changes: Any
    ) -> Checkpoint:
        """Train from a checkpoint or the beginning; `changes` are other fields of a `Stint`."""
        self.done += 1
        folder = f"{self.done}"
        if start is not None:
            path = start.write(self.outside / folder / "start")
            changes["start"] = f"{self.inside}/{path.relative_to(self.outside)}"
        stint = Stint(**{"seed": self.seed, "steps": steps, **changes})
        order = {**dataclasses.asdict(stint), "folder": f"{self.inside}/{folder}/end"}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended with {self.process.wait()}")
        return Checkpoint.read(self.outside / Path(answer.strip()).relative_to(self.inside))

    def train_honestly(self) -> list[Checkpoint]:
        """Return the checkpoints of an honest run, the beginning first."""
        checkpoints = [self.train(None, 0)]
        for _ in range(SEGMENTS):
            checkpoints.append(self.train(checkpoints[-1]))
        return checkpoints


@contextmanager
def open_lab(
    model: str, env: Mapping[str, str], *, image: str = "", seed: int = SEED
) -> Iterator[Lab]:
    """Start a worker: in a container of an image without network, or here if none is named."""
    with tempfile.TemporaryDirectory(prefix="gpumarket-lab-") as name:
        outside = Path(name)
        inside = "/lab" if image else name
        command = (
            _build_container_command(model, env, image=image, outside=outside)
            if image
            else [sys.executable, *map(str, (WORKER, PROGRAM, TEXT)), model]
        )
        with subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Lab(process, outside, inside, seed)
            # Leaving closes its input, which is its end.


def _build_container_command(
    model: str, env: Mapping[str, str], *, image: str, outside: Path
) -> Sequence[str]:
    mounts = {WORKER: "/in/work.py", PROGRAM: "/in/program", TEXT: "/in/text"}
    return [
        *("docker", "run", "--rm", "--interactive", "--network", "none", "--read-only"),
        *("--cap-drop", "ALL", "--user", f"{os.getuid()}:{os.getgid()}"),
        *(word for key, value in env.items() for word in ("--env", f"{key}={value}")),
        *(word for path, at in mounts.items() for word in ("--volume", f"{path}:{at}:ro")),
        *("--volume", f"{outside}:/lab", image),
        *("python3", "/in/work.py", "/in/program", "/in/text", model),
    ]


def decode(checkpoint: Checkpoint) -> Any:
    """Read a checkpoint as the market does: from its files."""
    return decode_checkpoint_untrusted(checkpoint.encode())


def find_needed_tolerance(own: Checkpoint, theirs: Checkpoint, *, start: Checkpoint) -> float:
    """
    Return the least tolerance with which `theirs` passes as what another class makes of a segment.

    In parts of the segment's own update, or of the loss; `NEVER` where none is enough.
    """
    fault, share = find_fault(
        decode(own), decode(theirs), decode(start), is_same_class=False, tolerance=str(NEVER)
    )
    return NEVER if fault else max(share, abs(own.loss - theirs.loss) / own.loss)
