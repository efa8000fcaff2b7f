"""
The data of each step, drawn from the job's seed and the step's number and nothing else.

Whoever runs a step gets the same bytes in the same order, so the order is nobody's to choose.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
DROPPED_SHARE = 0.05


def read_text(path: Path) -> Bytes:
    """Read a text file, gzipped or plain, as bytes."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    return np.frombuffer(data, np.uint8)


def draw_batch(text: Bytes, *, seed: int, step: int | str, size: int, length: int) -> Bytes:
    """Return `size` pieces of the text, (size, length), that (seed, step) stands for."""
    starts = []
    for item in range(size):
        digest = hashlib.sha256(f"{seed}:{step}:{item}".encode()).digest()
        starts.append(int.from_bytes(digest[:8], "big") % (len(text) - length))
    return np.stack([text[start : start + length] for start in starts])


def draw_probe(text: Bytes, *, seed: int, size: int, length: int) -> Bytes:
    """Return the batch on which every checkpoint's loss is measured."""
    return draw_batch(text, seed=seed, step="probe", size=size, length=length)


class Dropout:
    """Hides a few input bytes; its generator is part of the checkpoint."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def hide(self, batch: Bytes) -> Bytes:
        """Return the batch with 5 % of its bytes set to zero."""
        hidden = self.generator.random(batch.shape, dtype=np.float32) < DROPPED_SHARE
        return np.where(hidden, np.uint8(0), batch)

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the generator's state as a tensor."""
        state = self.generator.bit_generator.state["state"]
        words = [value >> shift & (2**64 - 1) for value in state.values() for shift in (0, 64)]
        whole = self.generator.bit_generator.state
        return {"pcg64": np.array([*words, whole["has_uint32"], whole["uinteger"]], np.uint64)}

    def load(self, tensors: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a saved state."""
        words = [int(word) for word in tensors["pcg64"]]
        self.generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": words[0] | words[1] << 64, "inc": words[2] | words[3] << 64},
            "has_uint32": words[4],
            "uinteger": words[5],
        }
