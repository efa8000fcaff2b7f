"""
Train a small language model on bytes of a text, with checkpoints that can be checked.

    python3 train.py --text text.txt.gz --model numpy --out /ckpt/final

Seed, steps and checkpoints come from the environment (see checkpointing.py): the same environment
and checkpoint give the same bytes on the same kind of machine.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path
from typing import Any, Protocol

from batches import read_text
from checkpointing import Checkpoint, Plan

TRAINERS = {"numpy": ("numpy_lm", "NumpyTrainer"), "torch": ("torch_lm", "TorchTrainer")}


class Trainer(Protocol):
    """What the loop needs of a model."""

    step: int

    def train(self) -> None:
        """Do one step."""

    def save(self) -> Checkpoint:
        """Return everything that the next step depends on."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""


def run(trainer: Trainer, plan: Plan, *, pause: float = 0.0) -> None:
    """Train from where the plan begins to where it stops, with a checkpoint at both ends."""
    if plan.resume_from is None:
        report(trainer, plan)
    else:
        trainer.load(Checkpoint.read(plan.resume_from))
    while trainer.step < plan.stop_at:
        trainer.train()
        if trainer.step % plan.every == 0 or trainer.step == plan.steps:
            report(trainer, plan)
            time.sleep(pause)


def report(trainer: Trainer, plan: Plan) -> None:
    """Write a checkpoint and say so."""
    checkpoint = trainer.save()
    checkpoint.write(plan.checkpoints)
    print(f"step {checkpoint.step} loss {checkpoint.loss:.4f}")
    print(f"progress {checkpoint.step}/{plan.steps}", flush=True)


def make_trainer(kind: str, text: Path, *, seed: int) -> Any:
    """Return a trainer at its beginning; each kind is imported only when it is asked for."""
    module, name = TRAINERS[kind]
    return getattr(importlib.import_module(module), name)(read_text(text), seed=seed)


def main() -> None:
    """Train, and write the last weights to the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(TRAINERS), default="numpy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each checkpoint")
    arguments = parser.parse_args()
    plan = Plan.read()
    trainer = make_trainer(arguments.model, arguments.text, seed=plan.seed)
    run(trainer, plan, pause=arguments.pause)
    if trainer.step == plan.steps:
        trainer.save().write(arguments.out)


if __name__ == "__main__":
    main()
