"""
Providers of text, honest and not, with the model of examples/llm; what each leaves as its output.

Every cheat earns the price of the signed model: by computing less (a rounded, shortened or other
model, with or without fingerprints that the true model makes of the finished text) or by choosing
(another seed, the best of many, one word replaced).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLE: Final = ROOT / "examples/llm"
TOKENS: Final = 64
TRIES: Final = 8
Output = dict[str, bytes]
Weights = Mapping[str, Any]


def _load_program() -> Any:
    spec = importlib.util.spec_from_file_location("gpumarket_example_lm", EXAMPLE / "lm.py")
    if spec is None or spec.loader is None:
        raise ImportError("examples/llm/lm.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LM: Final = _load_program()
WEIGHTS: Final[Weights] = LM.load_weights(EXAMPLE / "model.safetensors")


class Task:
    """The prompts of one task, by the seed of its job."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        lines = (EXAMPLE / "prompts.txt").read_bytes().splitlines()
        self.prompts = np.array([list(line) for line in lines], np.int32)
        self.seeds = [(seed, number) for number in range(len(lines))]

    def generate(self, weights: Weights, *, seed: int | None = None) -> dict[str, Any]:
        """Sample with some weights, and with another seed if one is given."""
        seeds = [(self.seed if seed is None else seed, number) for _, number in self.seeds]
        found: dict[str, Any] = LM.generate(weights, self.prompts, seeds=seeds, count=TOKENS)
        return found

    def replay(self, tokens: Any) -> dict[str, Any]:
        """Do what a verifier does with claimed tokens."""
        found: dict[str, Any] = LM.replay(WEIGHTS, self.prompts, tokens, seeds=self.seeds)
        return found

    def dress(self, tokens: Any) -> dict[str, Any]:
        """Put the fingerprints beside tokens that the true model makes of them in one pass."""
        return {
            "tokens.npy": tokens,
            "fingerprints.npy": self.replay(tokens)["fingerprints.npy"],
        }


def pack(arrays: Mapping[str, Any], tokens: Any) -> Output:
    """Write an output as the program does, and return its files."""
    with tempfile.TemporaryDirectory() as name:
        LM.save(arrays, tokens, Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def generate_elsewhere(seed: int, environment: Mapping[str, str]) -> Output:
    """Run the program itself in an environment that emulates a machine of another class."""
    plain = {key: value for key, value in os.environ.items() if "GPUMARKET" not in key}
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(
            [
                *(sys.executable, EXAMPLE / "lm.py", "generate"),
                *("--model", EXAMPLE / "model.safetensors", "--prompts", EXAMPLE / "prompts.txt"),
                *("--out", name, "--tokens", str(TOKENS)),
            ],
            env={**plain, "OPENBLAS_NUM_THREADS": "1", "GPUMARKET_SEED": str(seed), **environment},
            check=True,
            timeout=120,
        )
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


# ---- cheats --------------------------------------------------------------------------------------


def round_weights(weights: Weights, bits: int) -> dict[str, Any]:
    """Round each column of each weight to `bits` bits, as weight-only quantization does."""
    rounded = {}
    for name, tensor in weights.items():
        step = np.abs(tensor).max(0, keepdims=True) / (2 ** (bits - 1) - 1)
        rounded[name] = (np.round(tensor / step) * step).astype(np.float32)
    return rounded


def drop_layers(weights: Weights, kept: int) -> dict[str, Any]:
    """Leave out all layers from `kept` on."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name[0].isdigit() or int(name[0]) < kept
    }


def _choose_best(task: Task) -> dict[str, Any]:
    """Sample with many seeds and keep, of each prompt, what the model finds likeliest."""
    tries = [task.generate(WEIGHTS, seed=task.seed + offset) for offset in range(TRIES)]
    tokens = np.stack([found["tokens.npy"] for found in tries])
    likely = np.stack([_score(task, found) for found in tokens]).argmax(0)
    rows = np.arange(len(likely))
    prints = np.stack([found["fingerprints.npy"] for found in tries])
    return {"tokens.npy": tokens[likely, rows], "fingerprints.npy": prints[likely, rows]}


def _score(task: Task, tokens: Any) -> Any:
    _, logits = LM.Model(WEIGHTS, len(tokens)).read(np.hstack([task.prompts, tokens[:, :-1]]))
    logits = logits[:, -TOKENS:]
    chosen = np.take_along_axis(logits, tokens[:, :, None], axis=2)[:, :, 0]
    return (chosen - np.log(np.exp(logits).sum(-1))).sum(-1)


def _replace_one(task: Task) -> dict[str, Any]:
    """Sample honestly, but write one token of each prompt as another, and on from there."""
    tokens = task.generate(WEIGHTS)["tokens.npy"]
    middle = TOKENS // 2
    changed = np.hstack([tokens[:, :middle], np.full((len(tokens), 1), ord("~"), np.int32)])
    after = np.hstack([task.prompts, changed])
    model = LM.Model(WEIGHTS, len(tokens))
    _, logits = model.read(after)
    noise = np.stack([LM.draw_gumbel(*seed, TOKENS) for seed in task.seeds])
    for place in range(middle + 1, TOKENS):
        found = (logits[:, -1] / LM.TEMPERATURE + noise[:, place]).argmax(-1).astype(np.int32)
        changed = np.hstack([changed, found[:, None]])
        _, logits = model.read(found[:, None])
    return task.dress(changed)


Cheat = Callable[[Task], dict[str, Any]]
CHEATS: Final[Mapping[str, Cheat]] = {
    "weights in int8": lambda task: task.generate(round_weights(WEIGHTS, 8)),
    "weights in int4": lambda task: task.generate(round_weights(WEIGHTS, 4)),
    "last layer dropped": lambda task: task.generate(drop_layers(WEIGHTS, LM.LAYERS - 1)),
    "other model, true prefill": lambda task: task.dress(
        task.generate(drop_layers(WEIGHTS, 1))["tokens.npy"]
    ),
    "int4, true prefill": lambda task: task.dress(
        task.generate(round_weights(WEIGHTS, 4))["tokens.npy"]
    ),
    "another seed": lambda task: task.generate(WEIGHTS, seed=task.seed + 1),
    f"best of {TRIES} seeds": _choose_best,
    "one token replaced": _replace_one,
}
"""Each must be rejected by the two signals, whatever the class."""
HIDDEN_CHEATS: Final[Mapping[str, Cheat]] = {
    "int8, true prefill": lambda task: task.dress(
        task.generate(round_weights(WEIGHTS, 8))["tokens.npy"]
    ),
}
"""Gives nearly the signed model's tokens: only the rule's exactness within a class sees it."""
