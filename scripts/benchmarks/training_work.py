"""
Stints of the training example, done wherever its framework is: here, or inside a job's image.

Usage: training_work.py PROGRAM_FOLDER TEXT MODEL

One JSON line in is a stint, one line out is the checkpoint that it ended with. Needs only what the
example needs. What a stint may change is what a cheat of training changes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stint:
    """Some steps of training, from a checkpoint or from the beginning."""

    seed: int
    steps: int
    start: str = ""
    """Folder of a checkpoint, as the worker sees it; empty for the beginning."""
    rate: float = 1.0
    """Of the learning rate that was ordered."""
    batch: float = 1.0
    """Of the size that was ordered."""
    is_reversed: bool = False
    """Takes the same batches, the last one first."""
    is_rounded: bool = False
    """Keeps the weights in bfloat16."""


def do_stint(trainer: Any, stint: Stint) -> Any:
    """Train as a stint says; return the checkpoint at its end."""
    if stint.start:
        trainer.load(_read(Path(stint.start)))
    trainer.recipe = replace(
        trainer.recipe,
        learning_rate=stint.rate * trainer.recipe.learning_rate,
        batch=int(stint.batch * trainer.recipe.batch),
    )
    if stint.is_reversed:
        draw, ends = trainer.draw, 2 * trainer.step + stint.steps - 1
        trainer.draw = lambda step: draw(ends - step)
    for _ in range(stint.steps):
        trainer.train()
        if stint.is_rounded:
            checkpoint = trainer.save()
            trainer.load(replace(checkpoint, model=_round(checkpoint.model)))
    return trainer.save()


def _read(folder: Path) -> Any:
    from checkpointing import Checkpoint

    return Checkpoint.read(folder)


def _round(model: dict[str, Any]) -> dict[str, Any]:
    words = {name: np.ascontiguousarray(value).view(np.uint32) for name, value in model.items()}
    return {
        name: ((word + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
        for name, word in words.items()
    }


def main() -> None:
    """Do stints until there are no more lines."""
    program, text, model = sys.argv[1:4]
    sys.path.insert(0, program)
    from train import make_trainer

    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order.pop("folder"))
        stint = Stint(**order)
        trainer = make_trainer(model, Path(text), seed=stint.seed)
        print(do_stint(trainer, stint).write(folder), flush=True)


if __name__ == "__main__":
    main()
