"""
The model of examples/llm in PyTorch, in float32 or bfloat16, and the states that TOPLOC proves.

Run as a program it samples one task in the environment of a class and writes what it saw:

    python3 -m scripts.benchmarks.toploc_work SEED KIND FILE
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from scripts.benchmarks.llm_work import LM, ROOT, TOKENS, WEIGHTS, Task, Weights

KINDS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WORKER_SECONDS_MAX: Final = 300


class Model:
    """`Model` of examples/llm/lm.py, with all of its numbers of one kind."""

    def __init__(self, weights: Weights, batch: int, kind: str) -> None:
        self._kind = KINDS[kind]
        self._weights = {
            name: torch.from_numpy(np.asarray(tensor, np.float32)).to(self._kind)
            for name, tensor in weights.items()
        }
        layers = len([name for name in weights if name.endswith(".qkv")])
        shape = (layers, 2, batch, LM.HEADS, LM.CONTEXT, LM.WIDTH // LM.HEADS)
        self._memory = torch.zeros(shape, dtype=self._kind)
        self._length = 0

    def read(self, tokens: Any) -> tuple[Any, Any]:
        """Read tokens [batch, n] on; return hidden states [batch, n, width] and float32 logits."""
        start, stop = self._length, self._length + tokens.shape[1]
        numbers = torch.from_numpy(np.ascontiguousarray(tokens, np.int64))
        x = self._weights["symbols"][numbers] + self._weights["places"][start:stop]
        for layer in range(len(self._memory)):
            x = x + self._attend(layer, _normalize(x), start, stop)
            up = torch.relu(_normalize(x) @ self._weights[f"{layer}.up"])
            x = x + up @ self._weights[f"{layer}.down"]
        self._length = stop
        hidden = _normalize(x)
        logits = (hidden @ self._weights["head"]).float().numpy()
        return hidden.float().numpy(), logits

    def _attend(self, layer: int, x: Any, start: int, stop: int) -> Any:
        batch, count = x.shape[:2]
        qkv = (x @ self._weights[f"{layer}.qkv"]).reshape(batch, count, 3, LM.HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        keys, values = self._memory[layer]
        keys[:, :, start:stop], values[:, :, start:stop] = k, v
        scores = q @ keys[:, :, :stop].transpose(2, 3) / (LM.WIDTH // LM.HEADS) ** 0.5
        is_later = torch.arange(stop) > torch.arange(start, stop)[:, None]
        scores = torch.softmax(scores.masked_fill(is_later, -1e9), dim=-1)
        mixed = (scores @ values[:, :, :stop]).transpose(1, 2).reshape(batch, count, LM.WIDTH)
        return mixed @ self._weights[f"{layer}.mix"]


def _normalize(x: Any) -> Any:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def generate(task: Task, weights: Weights, kind: str) -> tuple[Any, Any]:
    """Sample; return tokens [prompts, 64] and the states [prompts, 64, width] they came from."""
    model = Model(weights, len(task.prompts), kind)
    noise = np.stack([LM.draw_gumbel(*seed, TOKENS) for seed in task.seeds])
    tokens = np.zeros((len(task.prompts), TOKENS), np.int32)
    hidden = np.zeros((len(task.prompts), TOKENS, LM.WIDTH), np.float32)
    states, logits = model.read(task.prompts)
    for place in range(TOKENS):
        hidden[:, place] = states[:, -1]
        tokens[:, place] = (logits[:, -1] / LM.TEMPERATURE + noise[:, place]).argmax(-1)
        if place + 1 < TOKENS:
            states, logits = model.read(tokens[:, place : place + 1])
    return tokens, hidden


def replay(task: Task, tokens: Any, kind: str, *, weights: Weights = WEIGHTS) -> Any:
    """Return the states [prompts, 64, width] of one pass of a model over tokens."""
    read = np.hstack([task.prompts, tokens[:, :-1]])
    return Model(weights, len(tokens), kind).read(read)[0][:, -TOKENS:]


def generate_elsewhere(task: Task, kind: str, environment: Mapping[str, str]) -> tuple[Any, Any]:
    """Sample honestly in a process whose environment emulates a machine of another class."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "states.npz"
        subprocess.run(
            [sys.executable, "-m", "scripts.benchmarks.toploc_work", str(task.seed), kind, file],
            env={**os.environ, **environment},
            cwd=ROOT,
            check=True,
            timeout=WORKER_SECONDS_MAX,
        )
        with np.load(file) as found:
            return found["tokens"], found["hidden"]


if __name__ == "__main__":
    _seed, _kind, _file = sys.argv[1:]
    _tokens, _hidden = generate(Task(int(_seed)), WEIGHTS, _kind)
    np.savez(_file, tokens=_tokens, hidden=_hidden)
