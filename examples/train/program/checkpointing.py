"""
Checkpoints as the market reads them, and what it tells a training program.

A checkpoint is a folder `step-00000040` in GPUMARKET_CHECKPOINT_DIR with four files:

    model.safetensors        the weights
    optimizer.safetensors    what the optimizer remembers
    rng.safetensors          the state of every random generator
    progress.json            {"cursor": items taken, "loss": "2.5", "step": 40}

It is written under another name and renamed when it is whole: what has the name is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

Tensors = dict[str, NDArray[np.generic]]
PARTS = ("model", "optimizer", "rng")


@dataclass(frozen=True)
class Plan:
    """What to do, as the environment says it."""

    seed: int
    steps: int
    """Of the whole task; the learning rate follows it."""
    stop_at: int
    """Where this run ends: at the last step, or earlier when one segment is done again."""
    every: int
    checkpoints: Path
    resume_from: Path | None

    @staticmethod
    def read(env: Mapping[str, str] = os.environ) -> Plan:
        """Read the plan; raises KeyError for a variable that is missing."""
        resume = env.get("GPUMARKET_RESUME_FROM", "")
        return Plan(
            seed=int(env["GPUMARKET_SEED"]),
            steps=int(env["GPUMARKET_STEPS"]),
            stop_at=int(env["GPUMARKET_STOP_AT"]),
            every=int(env["GPUMARKET_CHECKPOINT_STEPS"]),
            checkpoints=Path(env["GPUMARKET_CHECKPOINT_DIR"]),
            resume_from=Path(resume) if resume else None,
        )


@dataclass
class Checkpoint:
    """Everything that the next step depends on."""

    step: int
    cursor: int
    loss: float
    """On the probe batch."""
    model: Tensors
    optimizer: Tensors
    rng: Tensors

    def write(self, folder: Path) -> Path:
        """Write it below `folder`, whole or not at all; return where it is."""
        target = folder / f"step-{self.step:08d}"
        aside = folder / f".{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, data in self.encode().items():
            (aside / name).write_bytes(data)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        return target

    def encode(self) -> dict[str, bytes]:
        """Return the files by name."""
        files = {}
        for part in PARTS:
            tensors = {
                name: np.ascontiguousarray(value) for name, value in getattr(self, part).items()
            }
            files[f"{part}.safetensors"] = save(tensors)
        # Nine digits tell any two float32 apart.
        progress = {"cursor": self.cursor, "loss": f"{self.loss:.9g}", "step": self.step}
        files["progress.json"] = json.dumps(progress, sort_keys=True).encode()
        return files

    @staticmethod
    def read(folder: Path) -> Checkpoint:
        """Read what `write` wrote."""
        progress = json.loads((folder / "progress.json").read_text())
        parts = {part: load_file(folder / f"{part}.safetensors") for part in PARTS}
        return Checkpoint(
            step=progress["step"],
            cursor=progress["cursor"],
            loss=float(progress["loss"]),
            **parts,
        )
