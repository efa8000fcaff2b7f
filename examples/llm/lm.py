"""
A byte-level transformer in numpy that writes on from prompts, and shows that it was this one.

    lm.py generate   the task: samples with the job's seed, leaves tokens and fingerprints
    lm.py replay     what a verifier runs: the same model over the tokens that somebody claims

The sampler is Gumbel-max: token = argmax(logits / temperature + g), and g comes from a generator
keyed with the seed and the prompt. So a seed has one right answer, and how far a claimed token is
from it (its margin) is a number. The fingerprint of a token is the hidden state that it was sampled
from, seen in four random directions: 8 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SYMBOLS, WIDTH, HEADS, LAYERS, CONTEXT = 128, 64, 4, 3, 128
TEMPERATURE = 0.8
DIRECTIONS = 4
SEED_OF_DIRECTIONS = 20_261_121
Numbers = npt.NDArray[Any]
Weights = Mapping[str, Numbers]


def list_shapes() -> dict[str, tuple[int, ...]]:
    """Name every weight with its shape."""
    shapes: dict[str, tuple[int, ...]] = {"symbols": (SYMBOLS, WIDTH), "places": (CONTEXT, WIDTH)}
    for layer in range(LAYERS):
        shapes[f"{layer}.qkv"] = (WIDTH, 3 * WIDTH)
        shapes[f"{layer}.mix"] = (WIDTH, WIDTH)
        shapes[f"{layer}.up"] = (WIDTH, 4 * WIDTH)
        shapes[f"{layer}.down"] = (4 * WIDTH, WIDTH)
    return shapes | {"head": (WIDTH, SYMBOLS)}


def load_weights(path: Path) -> dict[str, Numbers]:
    """Read float16 weights from a safetensors file as float32."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    weights = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        start, stop = entry["data_offsets"]
        flat = np.frombuffer(data[8 + size + start : 8 + size + stop], "<f2")
        weights[name] = flat.reshape(entry["shape"]).astype(np.float32)
    return weights


# ---- the model -----------------------------------------------------------------------------------


def _normalize(x: Numbers) -> Numbers:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)))


class Model:
    """The transformer, with the keys and values of what it has read."""

    def __init__(self, weights: Weights, batch: int) -> None:
        self._weights = weights
        self._layers = len([name for name in weights if name.endswith(".qkv")])
        shape = (self._layers, 2, batch, HEADS, CONTEXT, WIDTH // HEADS)
        self._memory = np.zeros(shape, np.float32)
        self._length = 0

    def read(self, tokens: Numbers) -> tuple[Numbers, Numbers]:
        """Read tokens [batch, n] on; return hidden states [batch, n, WIDTH] and logits."""
        start, stop = self._length, self._length + tokens.shape[1]
        x = self._weights["symbols"][tokens] + self._weights["places"][start:stop]
        for layer in range(self._layers):
            x = x + self._attend(layer, _normalize(x), start, stop)
            up = np.maximum(_normalize(x) @ self._weights[f"{layer}.up"], np.float32(0))
            x = x + up @ self._weights[f"{layer}.down"]
        self._length = stop
        hidden = _normalize(x)
        return hidden, hidden @ self._weights["head"]

    def _attend(self, layer: int, x: Numbers, start: int, stop: int) -> Numbers:
        batch, count = x.shape[:2]
        qkv = (x @ self._weights[f"{layer}.qkv"]).reshape(batch, count, 3, HEADS, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        keys, values = self._memory[layer]
        keys[:, :, start:stop], values[:, :, start:stop] = k, v
        scores = q @ keys[:, :, :stop].swapaxes(2, 3) / np.float32((WIDTH // HEADS) ** 0.5)
        is_later = np.arange(stop) > np.arange(start, stop)[:, None]
        scores = np.where(is_later, np.float32(-1e9), scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ values[:, :, :stop]).swapaxes(1, 2).reshape(batch, count, WIDTH)
        return np.asarray(mixed @ self._weights[f"{layer}.mix"])


# ---- sampling and what shows it ------------------------------------------------------------------


def draw_gumbel(seed: int, prompt: int, count: int) -> Numbers:
    """Return the noise [count, SYMBOLS] that decides the tokens written on from one prompt."""
    generator = np.random.Generator(np.random.Philox(key=[seed, prompt]))
    uniform = (generator.integers(0, 2**32, (count, SYMBOLS)) + 0.5) / 2**32
    return np.asarray(-np.log(-np.log(uniform)))


def compute_fingerprints(hidden: Numbers) -> Numbers:
    """Return hidden states [..., WIDTH] in four directions, as float16 [..., 4]."""
    directions = np.random.Generator(np.random.Philox(key=SEED_OF_DIRECTIONS)).choice(
        [-1.0, 1.0], (WIDTH, DIRECTIONS)
    )
    return (hidden @ directions.astype(np.float32) / np.float32(WIDTH**0.5)).astype(np.float16)


def generate(
    weights: Weights, prompts: Numbers, *, seeds: list[tuple[int, int]], count: int
) -> dict[str, Numbers]:
    """
    Write `count` tokens on from each prompt [batch, n], sampled by its seed.

    Returns tokens [batch, count] and the fingerprints of the states that they were sampled from.
    """
    model = Model(weights, len(prompts))
    noise = np.stack([draw_gumbel(*seed, count) for seed in seeds])
    tokens = np.zeros((len(prompts), count), np.int32)
    hidden = np.zeros((len(prompts), count, WIDTH), np.float32)
    states, logits = model.read(prompts)
    for place in range(count):
        hidden[:, place] = states[:, -1]
        tokens[:, place] = (logits[:, -1] / TEMPERATURE + noise[:, place]).argmax(-1)
        if place + 1 < count:
            states, logits = model.read(tokens[:, place : place + 1])
    return {"tokens.npy": tokens, "fingerprints.npy": compute_fingerprints(hidden)}


def replay(
    weights: Weights, prompts: Numbers, tokens: Numbers, *, seeds: list[tuple[int, int]]
) -> dict[str, Numbers]:
    """
    Read claimed tokens [batch, count] after their prompts, all at once.

    Returns the fingerprints of the states that each must have been sampled from, and its margin:
    the best score less its own, infinite for what is no token of the model.
    """
    count = tokens.shape[1]
    is_token = (tokens >= 0) & (tokens < SYMBOLS)
    known = np.where(is_token, tokens, 0)
    hidden, logits = Model(weights, len(prompts)).read(np.hstack([prompts, known[:, :-1]]))
    hidden, logits = hidden[:, -count:], logits[:, -count:]
    noise = np.stack([draw_gumbel(*seed, count) for seed in seeds])
    scores = logits / TEMPERATURE + noise
    own = np.take_along_axis(scores, known[:, :, None], axis=2)[:, :, 0]
    margins = np.where(is_token, scores.max(-1) - own, np.inf)
    return {"margins.npy": margins, "fingerprints.npy": compute_fingerprints(hidden)}


# ---- files ---------------------------------------------------------------------------------------


def save(arrays: Mapping[str, Numbers], tokens: Numbers, folder: Path) -> None:
    """Write arrays, and the texts that the tokens are."""
    for name, array in arrays.items():
        np.save(folder / name, array)
    texts = [bytes(np.clip(row, 0, SYMBOLS - 1).tolist()).decode("ascii") for row in tokens]
    (folder / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")


def read_prompts(path: Path) -> tuple[Numbers, list[tuple[int, int]]]:
    """Return this task's prompts [batch, n] of equal length, and the seed of each."""
    lines = path.read_bytes().splitlines()
    start = int(os.environ.get("GPUMARKET_SPLIT_START", "0"))
    stop = int(os.environ.get("GPUMARKET_SPLIT_END", str(len(lines))))
    seed = int(os.environ["GPUMARKET_SEED"])
    prompts = np.array([list(line) for line in lines[start:stop]], np.int32)
    return prompts, [(seed, number) for number in range(start, stop)]


def main() -> None:
    """Generate, or replay what lies at /theirs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("generate", "replay"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--theirs", type=Path, default=Path("/theirs"))
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    weights = load_weights(arguments.model)
    prompts, seeds = read_prompts(arguments.prompts)
    if arguments.command == "generate":
        arrays = generate(weights, prompts, seeds=seeds, count=arguments.tokens)
        save(arrays, arrays["tokens.npy"], arguments.out)
        return
    tokens = np.load(arguments.theirs / "tokens.npy", allow_pickle=False)
    save(replay(weights, prompts, tokens, seeds=seeds), tokens, arguments.out)


if __name__ == "__main__":
    main()
