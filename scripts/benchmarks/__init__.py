"""The benchmarks that `scripts/bench` runs: each beside its opponent, in one interleaved run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Final, cast

Figures = Mapping[str, float | int | Mapping[str, float | int]]
"""What a benchmark found, by name; ratios are ours / the opponent's."""

BENCHMARKS: Final = {
    "comparators": "honest noise between machines against the mildest cheats, for each tolerance",
    "detection": "forgeries found by sampling, against theory and against other markets' rules",
    "hardware": "hardware challenges: honest devices beside impostors, and each class's bounds",
    "llm": "the rule llm: honest machines of other classes against other models and other seeds",
    "render": "the rule image: frames of honest machines of other classes against cheats",
    "training": "honest segments of training in each class against cheats, with numpy and PyTorch",
    "gas": "gas of settlement a job, against one token transfer a job",
    "proof": "a proof file of 10,000 tasks: bytes, audit time against sha256, changes it lets pass",
    "job-path": "a job from its submission to its signed result, against plain `docker run`",
}


def load_benchmark(name: str) -> Callable[[int], Figures]:
    """Import a benchmark by its name; it takes the number of rounds and prints what it finds."""
    module = importlib.import_module(f"scripts.benchmarks.{name.replace('-', '_')}")
    return cast(Callable[[int], Figures], module.run)
