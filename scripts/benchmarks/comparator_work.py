"""
The work whose noise `comparators.py` measures: one process, one class, one seed, perhaps a cheat.

Usage: python -m scripts.benchmarks.comparator_work SEED FOLDER CHEAT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

INPUTS, HIDDEN, OUTPUTS = 256, 512, 64
BATCH, STEPS = 96, 20
RATE: Final = 0.05
Weights = dict[str, Any]


def make_start(seed: int) -> Weights:
    """Draw the weights that the segment starts from."""
    draw = np.random.Generator(np.random.Philox(seed))
    shapes = {"first": (INPUTS, HIDDEN), "second": (HIDDEN, OUTPUTS)}
    return {
        name: (draw.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in shapes.items()
    }


def step(weights: Weights, batch: tuple[Any, Any], rate: float, precision: Any) -> Weights:
    """Do one step of gradient descent on the squared error of a two-layer network."""
    x, wanted = (part.astype(precision).astype(np.float32) for part in batch)
    first, second = (weights[name].astype(precision).astype(np.float32) for name in weights)
    hidden = np.tanh(x @ first)
    error = (hidden @ second - wanted) / np.float32(len(x))
    back = (error @ second.T) * (1 - hidden * hidden)
    return {
        "first": weights["first"] - np.float32(rate) * (x.T @ back),
        "second": weights["second"] - np.float32(rate) * (hidden.T @ error),
    }


def round_to_bfloat16(values: Any) -> Any:
    """Keep the upper half of each float32, rounded to the nearest."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return (rounded << np.uint32(16)).view(np.float32)


def _round_to_int8(values: Any) -> Any:
    scale = np.max(np.abs(values), axis=0) / np.float32(127)
    return np.rint(values / scale).astype(np.int8).astype(np.float32) * scale


def train(start: Weights, seed: int, cheat: str) -> Weights:
    """Run the segment, honestly or with a cheat."""
    draw = np.random.Generator(np.random.Philox(seed + 10_000))
    weights = start
    rate = RATE * 0.99 if cheat == "learning rate 1 % lower" else RATE
    precision = np.float16 if cheat == "matrices in float16" else np.float32
    for number in range(STEPS):
        x = draw.standard_normal((BATCH, INPUTS)).astype(np.float32)
        wanted = np.sin(x[:, :OUTPUTS]).astype(np.float32)
        if cheat == "nothing done" or (cheat == "1 of 20 steps skipped" and number == 9):
            continue
        if cheat == "one sample of each batch left out":
            x, wanted = x[1:], wanted[1:]
        weights = step(weights, (x, wanted), rate, precision)
        if cheat == "weights kept in bfloat16":
            weights = {name: round_to_bfloat16(values) for name, values in weights.items()}
    return weights


def infer(weights: Weights, seed: int, cheat: str) -> Any:
    """Run a batch through the weights; the cheats of training that are none here change nothing."""
    draw = np.random.Generator(np.random.Philox(seed + 20_000))
    x = draw.standard_normal((400, INPUTS)).astype(np.float32)
    if cheat == "weights kept in bfloat16":
        weights = {name: round_to_bfloat16(values) for name, values in weights.items()}
    if cheat == "matrices in float16":
        x, weights = (
            x.astype(np.float16).astype(np.float32),
            {name: v.astype(np.float16).astype(np.float32) for name, v in weights.items()},
        )
    if cheat == "weights in int8":
        weights = {name: _round_to_int8(values) for name, values in weights.items()}
    return np.tanh(x @ weights["first"]) @ weights["second"]


def main(seed: int, folder: Path, cheat: str) -> None:
    """Write start, end and one batch of inference from the honest start."""
    folder.mkdir()
    start = make_start(seed)
    save_file(start, folder / "start.safetensors")
    save_file(train(start, seed, cheat), folder / "end.safetensors")
    save_file({"y": infer(start, seed, cheat)}, folder / "inference.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
