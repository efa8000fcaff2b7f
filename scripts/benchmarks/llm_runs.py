"""
Honest runs of the rule `llm` between classes of machines, as many as a calibration takes.

A run is one prompt of 64 tokens, generated in one class and judged by the replay in another. They
are done some tasks at a time, each class in a process of its own, and written to a file when they
are done: who stops it and starts it again goes on from there.

    python3 -m scripts.benchmarks.llm_runs generate FOLDER SEED...    in the environment of a class
    python3 -m scripts.benchmarks.llm_runs judge FOLDER SEED...       in that of the judge
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from gpumarket.protocol.comparison import Calibration, LlmRule
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks.calibration import ROOT, digest_software, make_noise, name_blas
from scripts.benchmarks.llm import measure_prompts
from scripts.benchmarks.llm_work import EXAMPLE, WEIGHTS, Task

JUDGE: Final = "native"
PROMPTS: Final = 32
"""Of one task: so many runs it is."""
TASKS_AT_ONCE: Final = 8
WORKER_SECONDS_MAX: Final = 900
SEEDS_FROM: Final = 10_000_000
"""Far from those of the benchmark."""


def measure_more(state: Path, *, runs: int, seconds: float) -> int:
    """
    Add runs to the file `state` until each pair of classes has `runs` or the time is over.

    Returns how many runs each pair has.
    """
    done = len(read_state(state))
    end = time.monotonic() + seconds
    while done * PROMPTS < runs and time.monotonic() < end:
        count = min(TASKS_AT_ONCE, -(-runs // PROMPTS) - done)
        seeds = [SEEDS_FROM + done + each for each in range(count)]
        rows = list(_measure(seeds))
        state.parent.mkdir(parents=True, exist_ok=True)
        with state.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        done += count
        print(
            f"runs         {done * PROMPTS} of {runs} for each of {len(CLASSES)} pairs", flush=True
        )
    return done * PROMPTS


def read_state(state: Path) -> list[dict[str, dict[str, list[float]]]]:
    """Return the tasks in a file: by class and quantity, a value for each prompt."""
    if not state.exists():
        return []
    whole, _, torn = state.read_text().rpartition("\n")
    if torn:  # it was stopped while it wrote
        state.write_text(whole + "\n" * bool(whole))
    return [json.loads(line) for line in whole.splitlines()]


def make_calibration(state: Path) -> Calibration:
    """Make the document of all runs in a file."""
    rows = read_state(state)
    programs = [EXAMPLE / name for name in ("lm.py", "model.safetensors", "prompts.txt")]
    programs += [ROOT / "gpumarket/comparing/llm.py", ROOT / "scripts/benchmarks/llm_runs.py"]
    noise = []
    for kind in CLASSES:
        margins = [value for row in rows for value in row[kind]["margin_max"]]
        distances = [value for row in rows for value in row[kind]["distance_max"]]
        noise.append(make_noise("honest", (JUDGE, kind), "margin_max", margins))
        noise.append(make_noise("honest", (JUDGE, kind), "distance_max", distances))
    return Calibration(
        rule=LlmRule(command=("python3", "/in/lm.py", "replay")),
        classes=tuple(CLASSES),
        noise=tuple(noise),
        software={"numpy": np.__version__, "blas": name_blas()},
        digests=digest_software(programs),
    )


def _measure(seeds: Sequence[int]) -> Iterator[dict[str, dict[str, list[float]]]]:
    with tempfile.TemporaryDirectory(prefix="llm-runs-") as name:
        for kind in CLASSES:
            _work("generate", Path(name) / kind, seeds, kind)
        _work("judge", Path(name), seeds, JUDGE)
        for seed in seeds:
            yield json.loads((Path(name) / f"{seed}.json").read_text())


def _work(what: str, folder: Path, seeds: Sequence[int], kind: str) -> None:
    plain = {key: value for key, value in os.environ.items() if "GPUMARKET" not in key}
    subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.llm_runs", what, folder, *map(str, seeds)],
        env={**plain, "OPENBLAS_NUM_THREADS": "1", **CLASSES[kind]},
        cwd=ROOT,
        check=True,
        timeout=WORKER_SECONDS_MAX,
    )


# ---- in a class of its own -----------------------------------------------------------------------


def _generate(folder: Path, seeds: Sequence[int]) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        np.savez(folder / f"{seed}.npz", **Task(seed).generate(WEIGHTS))


def _judge(folder: Path, seeds: Sequence[int]) -> None:
    for seed in seeds:
        row = {}
        for kind in CLASSES:
            with np.load(folder / kind / f"{seed}.npz") as arrays:
                signals = measure_prompts(Task(seed), dict(arrays))
            row[kind] = {
                "margin_max": [each.margin for each in signals],
                "distance_max": [each.distance for each in signals],
            }
        (folder / f"{seed}.json").write_text(json.dumps(row))


if __name__ == "__main__":
    _deed, _folder, *_seeds = sys.argv[1:]
    {"generate": _generate, "judge": _judge}[_deed](Path(_folder), [int(each) for each in _seeds])
