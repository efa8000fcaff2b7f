"""
Cheap ways to seem to have trained: each makes of an honest run one that cheats in one segment.

Each says with the trainer's own means what a cheat would do, whatever the framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from scripts.benchmarks.training_lab import SEGMENT_STEPS, SEGMENTS, Checkpoint, Lab

Run = list[Checkpoint]
Spoof = Callable[[Lab, Run, int], Run]
"""Takes a lab, an honest run and a segment."""


def go_on(lab: Lab, honest: Run, index: int, forged: Checkpoint) -> Run:
    """Put a forged end of segment `index` and train honestly from there on."""
    shown = [*honest[:index]]
    shown.append(replace(forged, step=index * SEGMENT_STEPS, cursor=honest[index].cursor))
    for _ in range(index, SEGMENTS):
        shown.append(lab.train(shown[-1]))
    return shown


def keep_stale(lab: Lab, honest: Run, index: int) -> Run:
    """Show the checkpoint before once more, with the generator where it should be."""
    return go_on(lab, honest, index, replace(honest[index - 1], rng=honest[index].rng))


def move_infinitesimally(lab: Lab, honest: Run, index: int) -> Run:
    """Move the weights by next to nothing (Fang et al.), so that absolute distances are small."""
    before = honest[index - 1]
    rng = np.random.default_rng(1)
    model = {
        name: (value + 1e-6 * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in before.model.items()
    }
    return go_on(lab, honest, index, replace(before, model=model, rng=honest[index].rng))


def skip_a_step(lab: Lab, honest: Run, index: int) -> Run:
    """Do nineteen steps of twenty."""
    forged = lab.train(honest[index - 1], SEGMENT_STEPS - 1)
    return go_on(lab, honest, index, replace(forged, rng=honest[index].rng))


def lower_the_rate(lab: Lab, honest: Run, index: int) -> Run:
    """Learn one percent slower."""
    return go_on(lab, honest, index, lab.train(honest[index - 1], rate=0.99))


def shrink_the_batch(lab: Lab, honest: Run, index: int) -> Run:
    """Take half of each batch."""
    forged = lab.train(honest[index - 1], batch=0.5)
    return go_on(lab, honest, index, replace(forged, rng=honest[index].rng))


def round_to_bfloat16(lab: Lab, honest: Run, index: int) -> Run:
    """Keep the weights in half the bits while training."""
    return go_on(lab, honest, index, lab.train(honest[index - 1], is_rounded=True))


def interpolate(lab: Lab, honest: Run, index: int) -> Run:
    """Put the mean of two checkpoints between them instead of training there."""
    before, after = honest[index - 1], honest[min(index + 1, SEGMENTS)]
    parts: dict[str, Any] = {
        part: {
            name: ((value + getattr(after, part)[name]) / 2).astype(value.dtype)
            for name, value in getattr(before, part).items()
        }
        for part in ("model", "optimizer")
    }
    return go_on(lab, honest, index, replace(honest[index], **parts))


def reorder_the_data(lab: Lab, honest: Run, index: int) -> Run:
    """Take the segment's own batches in another order (adversarial data, Zhang et al.)."""
    return go_on(lab, honest, index, lab.train(honest[index - 1], is_reversed=True))


def forge_the_loss(lab: Lab, honest: Run, index: int) -> Run:
    """Train honestly and say that it went one percent better."""
    forged = replace(honest[index], loss=0.99 * honest[index].loss)
    return [*honest[:index], forged, *honest[index + 1 :]]


def teleport(lab: Lab, honest: Run, index: int) -> Run:
    """Jump to weights from elsewhere in one segment, and train honestly from there on."""
    elsewhere = lab.train(None, 10 * SEGMENT_STEPS, seed=lab.seed + 1)
    return go_on(lab, honest, index, replace(elsewhere, rng=honest[index].rng))


def walk(lab: Lab, honest: Run, *, share: float) -> Run:
    """Shift every segment's end the same way by a part of its update; `share` is that part."""
    direction = {
        name: np.sign(np.random.default_rng(2).standard_normal(value.shape))
        for name, value in honest[0].model.items()
    }
    size = sum(value.size for value in direction.values()) ** 0.5
    shown = [honest[0]]
    for _ in range(SEGMENTS):
        after = lab.train(shown[-1])
        length = share * compute_distance(shown[-1], after) / size
        shifted = {
            name: (value + length * direction[name]).astype(value.dtype)
            for name, value in after.model.items()
        }
        # No step, but the loss of what is shown.
        shown.append(lab.train(replace(after, model=shifted), 0))
    return shown


def compute_distance(a: Checkpoint, b: Checkpoint) -> float:
    """Return the Euclidean distance of two models."""
    gaps = [np.asarray(a.model[name], np.float64) - b.model[name] for name in a.model]
    return float(np.sqrt(sum(float((gap * gap).sum()) for gap in gaps)))


def list_updates(run: Run) -> list[float]:
    """Return how far the model moved in each segment."""
    return [compute_distance(a, b) for a, b in pairwise(run)]


SPOOFS: Mapping[str, Spoof] = MappingProxyType(
    {
        "stale checkpoint": keep_stale,
        "infinitesimal update": move_infinitesimally,
        "one step of twenty skipped": skip_a_step,
        "learning rate one percent lower": lower_the_rate,
        "half the batch": shrink_the_batch,
        "bfloat16 weights": round_to_bfloat16,
        "interpolated checkpoint": interpolate,
        "other order of the data": reorder_the_data,
        "forged loss": forge_the_loss,
        "teleport": teleport,
    }
)
"""Cheats that are found whenever the segment they are in is done again."""
