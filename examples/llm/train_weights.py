"""
Write model.safetensors: the weights of the small transformer in lm.py, trained with numpy alone.

    python3 train_weights.py ../train/text.txt.gz --seconds 110

The same sizes and the same arithmetic as in lm.py, with derivatives by hand. It stops by the clock,
so another machine makes other weights: what counts is the file, whose CID is in the signed job.
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from lm import CONTEXT, HEADS, LAYERS, WIDTH, Numbers, list_shapes

BATCH = 16
RATE = 4e-3
EPSILON = np.float32(1e-5)
SCALE = np.float32((WIDTH // HEADS) ** -0.5)
Tensors = dict[str, Numbers]


def make_weights(random: np.random.Generator) -> Tensors:
    """Draw the weights that training starts from."""
    return {
        name: (random.normal(size=shape) * (0.5 * shape[0] ** -0.5)).astype(np.float32)
        for name, shape in list_shapes().items()
    }


def _normalize(x: Numbers) -> tuple[Numbers, Numbers]:
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
    return x * scale, scale


def _unnormalize(gradient: Numbers, normal: Numbers, scale: Numbers) -> Numbers:
    along = (gradient * normal).mean(-1, keepdims=True)
    return np.asarray(scale * (gradient - normal * along))


def _attend(qkv: Numbers) -> tuple[Numbers, tuple[Numbers, ...]]:
    batch, length, _ = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(2, 3) * SCALE
    scores[..., np.triu(np.ones((length, length), bool), 1)] = -1e9
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = (shares @ v).swapaxes(1, 2).reshape(batch, length, WIDTH)
    return mixed, (q, k, v, shares)


def _unattend(gradient: Numbers, kept: tuple[Numbers, ...]) -> Numbers:
    q, k, v, shares = kept
    batch, _, length, size = q.shape
    mixed = gradient.reshape(batch, length, HEADS, size).swapaxes(1, 2)
    d_shares = mixed @ v.swapaxes(2, 3)
    d_scores = shares * (d_shares - (d_shares * shares).sum(-1, keepdims=True)) * SCALE
    parts = d_scores @ k, d_scores.swapaxes(2, 3) @ q, shares.swapaxes(2, 3) @ mixed
    return np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(batch, length, 3 * WIDTH)


def _multiply_back(x: Numbers, gradient: Numbers) -> Numbers:
    return np.asarray(x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1]))


def compute_gradients(weights: Tensors, window: Numbers) -> tuple[float, Tensors]:
    """Return the loss in nats a byte over tokens [batch, n + 1], and its derivatives."""
    tokens, wanted = window[:, :-1], window[:, 1:]
    batch, length = tokens.shape
    x = weights["symbols"][tokens] + weights["places"][:length]
    kept = []
    for layer in range(LAYERS):
        first, scale = _normalize(x)
        mixed, inner = _attend(first @ weights[f"{layer}.qkv"])
        x = x + mixed @ weights[f"{layer}.mix"]
        second, other = _normalize(x)
        up = np.maximum(second @ weights[f"{layer}.up"], 0)
        x = x + up @ weights[f"{layer}.down"]
        kept.append((first, scale, mixed, inner, second, other, up))
    hidden, last = _normalize(x)
    logits = hidden @ weights["head"]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    at = np.arange(batch)[:, None], np.arange(length), wanted
    loss = float(-np.log(shares[at] + 1e-30).mean())
    shares[at] -= 1
    shares /= batch * length
    gradients = {"head": _multiply_back(hidden, shares)}
    d = _unnormalize(shares @ weights["head"].T, hidden, last)
    for layer in reversed(range(LAYERS)):
        first, scale, mixed, inner, second, other, up = kept[layer]
        gradients[f"{layer}.down"] = _multiply_back(up, d)
        d_up = (d @ weights[f"{layer}.down"].T) * (up > 0)
        gradients[f"{layer}.up"] = _multiply_back(second, d_up)
        d = d + _unnormalize(d_up @ weights[f"{layer}.up"].T, second, other)
        gradients[f"{layer}.mix"] = _multiply_back(mixed, d)
        d_qkv = _unattend(d @ weights[f"{layer}.mix"].T, inner)
        gradients[f"{layer}.qkv"] = _multiply_back(first, d_qkv)
        d = d + _unnormalize(d_qkv @ weights[f"{layer}.qkv"].T, first, scale)
    gradients["symbols"] = np.zeros_like(weights["symbols"])
    np.add.at(gradients["symbols"], tokens, d)
    gradients["places"] = np.zeros_like(weights["places"])
    gradients["places"][:length] = d.sum(0)
    return loss, gradients


def save(weights: Tensors, path: Path) -> None:
    """Write the weights as float16 in the safetensors format."""
    header: dict[str, Any] = {}
    body = b""
    for name, tensor in weights.items():
        data = tensor.astype("<f2").tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": place}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main() -> None:
    """Train with Adam until the time is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=110)
    arguments = parser.parse_args()
    text = np.frombuffer(gzip.decompress(arguments.text.read_bytes()), np.uint8)
    random = np.random.default_rng(1)
    weights = make_weights(random)
    means = {name: np.zeros_like(tensor) for name, tensor in weights.items()}
    squares = {name: np.zeros_like(tensor) for name, tensor in weights.items()}
    started, step, spent = time.monotonic(), 0, 0.0
    while spent < 1:
        at = random.integers(0, len(text) - CONTEXT - 1, (BATCH, 1)) + np.arange(CONTEXT + 1)
        loss, gradients = compute_gradients(weights, text[at])
        step += 1
        rate = RATE * min(1.0, step / 50) * (1 - spent)
        rate *= (1 - 0.98**step) ** 0.5 / (1 - 0.9**step)
        for name, gradient in gradients.items():
            means[name] += 0.1 * (gradient - means[name])
            squares[name] += 0.02 * (gradient * gradient - squares[name])
            weights[name] -= rate * means[name] / (np.sqrt(squares[name]) + 1e-8)
        spent = (time.monotonic() - started) / arguments.seconds
        if step % 50 == 0 or spent >= 1:
            print(f"step {step}: {loss:.3f} nats a byte", flush=True)
    save(weights, Path(__file__).parent / "model.safetensors")


if __name__ == "__main__":
    main()
