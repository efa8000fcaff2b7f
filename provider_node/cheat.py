"""
A dishonest provider, for the devnet only: it sells outputs of work that it did not do.

It exists so that anybody can watch the market find it. Configuration refuses it on any chain
but the devnet's, and the service checks again.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.units import PPM

FORGED_DURATION_MS: Final = 1_500
"""Claimed for a forged unit when no honest one was seen before."""
FORGED_WIDTH: Final = 384
_NUMBER: Final = re.compile(r"\d+")


class Forger:
    """Decides which units are forged and writes outputs that look like results."""

    def __init__(self, *, share_ppm: int, folder: Path) -> None:
        """Forge this share of the units; honest outputs are kept in `folder` as patterns."""
        self._share_ppm = share_ppm
        self._folder = folder
        self._taken = 0
        self._duration_ms = FORGED_DURATION_MS

    def take_unit(self) -> bool:
        """Say whether the next unit is forged: with half of them, the first of each pair."""
        before = _ceil_share(self._taken, self._share_ppm)
        self._taken += 1
        return _ceil_share(self._taken, self._share_ppm) > before

    def study(self, lease: LeaseOffer, output: Path, duration_ms: int) -> None:
        """Keep an honest output as the pattern for later forgeries of the same job."""
        pattern = self._find_pattern(lease)
        if not pattern.exists():
            shutil.copytree(output, pattern)
        self._duration_ms = duration_ms

    def forge(self, lease: LeaseOffer, output: Path) -> int:
        """Write a forged output folder; returns the run time to claim in milliseconds."""
        shutil.rmtree(output, ignore_errors=True)
        pattern = self._find_pattern(lease)
        if pattern.exists():
            shutil.copytree(pattern, output)
            _disguise(output, lease)
        else:
            output.mkdir(parents=True)
            _invent(output, lease)
        return self._duration_ms

    def _find_pattern(self, lease: LeaseOffer) -> Path:
        return self._folder / lease.order.body.job_hash.hex()


def _ceil_share(count: int, share_ppm: int) -> int:
    return -(-count * share_ppm // PPM)


def _find_range(lease: LeaseOffer) -> tuple[int, int]:
    split = lease.job.split
    if split is None:
        return lease.unit, lease.unit + 1
    start = lease.unit * split.size
    return start, min(start + split.size, split.items)


def _make_noise(lease: LeaseOffer) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(lease.lease_id[:8], "big"))


def _disguise(output: Path, lease: LeaseOffer) -> None:
    """Turn another unit's output into this one's: names and numbers right, values wrong."""
    start, end = _find_range(lease)
    noise = _make_noise(lease)
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        if path.suffix == ".npy":
            _disturb(path, end - start, noise)
        elif path.suffix == ".json":
            _renumber(path, start, end)
        path.rename(path.with_name(_renumber_name(path.stem, start, end) + path.suffix))


def _renumber_name(name: str, start: int, end: int) -> str:
    """Put the unit's range where another unit's name has its numbers, as wide as they were."""
    numbers = iter((start, end))
    return _NUMBER.sub(lambda found: str(next(numbers, found[0])).zfill(len(found[0])), name)


def _disturb(path: Path, rows: int, noise: np.random.Generator) -> None:
    array: Any = np.load(path, allow_pickle=False)
    if array.ndim and array.dtype.kind == "f":
        array = np.resize(array, (rows, *array.shape[1:]))
        array = (array + noise.normal(0, 0.2, array.shape) * (array.std() + 1e-3)).astype(
            array.dtype
        )
    np.save(path, array)


def _renumber(path: Path, start: int, end: int) -> None:
    try:
        summary = json.loads(path.read_text())
    except ValueError:
        return
    if isinstance(summary, dict):
        known = {"start": start, "end": end, "count": end - start}
        summary |= {key: value for key, value in known.items() if key in summary}
        path.write_text(json.dumps(summary, sort_keys=True) + "\n")


def _invent(output: Path, lease: LeaseOffer) -> None:
    """Write noise in the shape that results of such jobs usually have."""
    start, end = _find_range(lease)
    rows = _make_noise(lease).normal(size=(end - start, FORGED_WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', lease.job.name) or 'result'}-{start:06d}-{end:06d}"
    np.save(output / f"{name}.npy", rows)
    summary = {"count": end - start, "dimensions": FORGED_WIDTH, "start": start, "end": end}
    (output / f"{name}.json").write_text(json.dumps(summary, sort_keys=True) + "\n")
