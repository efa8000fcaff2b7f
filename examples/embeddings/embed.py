"""
Embed lines of text with all-MiniLM-L6-v2, in numpy.

One task of the job: it reads lines [GPUMARKET_SPLIT_START, GPUMARKET_SPLIT_END) of the texts and
writes one float32 row of length 384 and norm 1 per line, plus a small summary.
No GPU is needed; that keeps the example runnable anywhere.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = NDArray[np.float32]

BATCH = 50
TOKENS_MAX = 256
LAYERS = 6
HEADS = 12
WIDTH = 384
LAYER_NORM_EPSILON = np.float32(1e-12)
MASKED = np.float32(-1e9)


class SentenceModel:
    """The BERT encoder of all-MiniLM-L6-v2 with mean pooling; inputs are lists of strings."""

    def __init__(self, folder: Path) -> None:
        self.weights: dict[str, Array] = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(TOKENS_MAX)
        self.tokenizer.enable_padding()

    def embed(self, texts: list[str]) -> Array:
        """Return the embeddings of `texts`, shape (len(texts), 384), each of length 1."""
        encodings = self.tokenizer.encode_batch(texts)
        tokens = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.float32)
        states = self.encode(tokens, mask)
        sums = (states * mask[..., None]).sum(axis=1)
        means = sums / mask.sum(axis=1, keepdims=True)
        unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def encode(self, tokens: NDArray[np.int64], mask: Array) -> Array:
        """Run the encoder: tokens (batch, length) to states (batch, length, 384)."""
        weights = self.weights
        states = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self.normalize(states, "embeddings.LayerNorm")
        bias = (1 - mask)[:, None, None, :] * MASKED
        for layer in range(LAYERS):
            states = self.apply_layer(states, bias, f"encoder.layer.{layer}")
        return states

    def apply_layer(self, states: Array, bias: Array, name: str) -> Array:
        """Apply one transformer layer: attention, then the two-layer perceptron."""
        attended = self.attend(states, bias, f"{name}.attention.self")
        attended = self.project(attended, f"{name}.attention.output.dense")
        states = self.normalize(states + attended, f"{name}.attention.output.LayerNorm")
        inner = gelu(self.project(states, f"{name}.intermediate.dense"))
        outer = self.project(inner, f"{name}.output.dense")
        return self.normalize(states + outer, f"{name}.output.LayerNorm")

    def attend(self, states: Array, bias: Array, name: str) -> Array:
        """Apply multi-head self-attention; `bias` hides the padding."""
        batch, length, width = states.shape
        size = width // HEADS
        query, key, value = (
            self.project(states, f"{name}.{part}")
            .reshape(batch, length, HEADS, size)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32(size**-0.5) + bias
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Array = scores @ value
        return mixed.transpose(0, 2, 1, 3).reshape(batch, length, width)

    def project(self, states: Array, name: str) -> Array:
        """Apply one linear layer."""
        product: Array = states @ self.weights[f"{name}.weight"].T
        return product + self.weights[f"{name}.bias"]

    def normalize(self, states: Array, name: str) -> Array:
        """Apply layer normalization over the last axis."""
        centered = states - states.mean(axis=-1, keepdims=True)
        variance = (centered * centered).mean(axis=-1, keepdims=True)
        scaled: Array = centered / np.sqrt(variance + LAYER_NORM_EPSILON)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """Apply the Gaussian error linear unit, exact to 2e-7 (Abramowitz and Stegun 7.1.26)."""
    magnitude = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * magnitude)
    series = np.float32(1.061405429) * t - np.float32(1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    erf = np.copysign(1 - series * t * np.exp(-magnitude * magnitude), x)
    result: Array = np.float32(0.5) * x * (1 + erf)
    return result


def read_lines(path: Path) -> list[str]:
    """Read a text file, gzipped or plain, as lines."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    return data.decode().splitlines()


def main() -> None:
    """Embed this task's lines and write `NAME.npy` and `NAME.json` to the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    lines = read_lines(arguments.texts)
    start = int(os.environ.get("GPUMARKET_SPLIT_START", "0"))
    end = min(int(os.environ.get("GPUMARKET_SPLIT_END", len(lines))), len(lines))
    chosen = lines[start:end]
    model = SentenceModel(arguments.model)
    embeddings = np.empty((len(chosen), WIDTH), dtype=np.float32)
    for first in range(0, len(chosen), BATCH):
        batch = chosen[first : first + BATCH]
        embeddings[first : first + len(batch)] = model.embed(batch)
        print(f"progress {first + len(batch)}/{len(chosen)}", flush=True)

    name = f"embeddings-{start:06d}-{end:06d}"
    np.save(arguments.out / f"{name}.npy", embeddings)
    summary = {"count": len(chosen), "dimensions": WIDTH, "start": start, "end": end}
    (arguments.out / f"{name}.json").write_text(json.dumps(summary, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
