"""
How far honest segments of training are from each other, and cheats from honest ones.

Each number is the tolerance (`tau`) that would let it pass: the distance of two ends of a segment
as a part of the segment's own update, model and optimizer, or of the loss. The work is the example
with numpy, and with PyTorch where its image is built; classes are emulated by environments.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
from collections.abc import Iterator

import numpy as np

from gpumarket.protocol.job import CheckpointPlan
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks import Figures
from scripts.benchmarks.figures import compute_quantile
from scripts.benchmarks.training_lab import SEED, SEGMENTS, Lab, find_needed_tolerance, open_lab
from scripts.benchmarks.training_spoofs import SPOOFS, compute_distance, list_updates, walk
from scripts.images.built import TORCH_IMAGE_MISSING, find_torch_image, load_image

FORGED = 3
"""The segment that is forged; the others are honest."""
TOLERANCE = float(CheckpointPlan(path="/ckpt", steps=1, interval_steps=1).tolerance)
WALKED = "walk at 0.9 of the tolerance: all of it, in parts of the largest update"


def run(rounds: int) -> Figures:
    """Measure so many seeds; print and return least, median and most of each row."""
    print(f"software     numpy {np.__version__} here, Python {platform.python_version()}")
    found: dict[str, list[float]] = {}
    torch_image = find_torch_image()
    images = {"numpy": "", **({"torch": load_image(torch_image)} if torch_image else {})}
    if torch_image is None:
        print(f"no torch     {TORCH_IMAGE_MISSING}")
    for round_ in range(rounds):
        for model, image in images.items():
            for name, value in measure_seed(model, image, SEED + 100 * round_):
                found.setdefault(f"{model}: {name}", []).append(value)
    print(f"{'tolerance that would be needed':<72} {'least':>9} {'median':>9} {'most':>9}")
    figures = {}
    for name, values in found.items():
        row = {"least": min(values), "median": compute_quantile(values, 0.5), "most": max(values)}
        figures[name] = {**row, "n": len(values)}
        print(f"{name:<72} " + " ".join(f"{value:9.2e}" for value in row.values()))
    return figures


def measure_seed(model: str, image: str, seed: int) -> Iterator[tuple[str, float]]:
    """Give what honest runs of each class, and each cheat, are away from what is done again."""
    with contextlib.ExitStack() as stack:
        labs = {
            name: stack.enter_context(open_lab(model, env, image=image, seed=seed))
            for name, env in {"same class": CLASSES["native"], **CLASSES}.items()
        }
        own = labs.pop("native")
        for name, lab in labs.items():
            yield from measure_honest(name, own, lab)
        yield from measure_cheats(own)


def measure_honest(name: str, own: Lab, other: Lab) -> Iterator[tuple[str, float]]:
    """Do each segment of another class's run again in the own class, as a verifier does."""
    run = other.train_honestly()
    for start, end in itertools.pairwise(run):
        yield f"honest, {name}", find_needed_tolerance(own.train(start), end, start=start)


def measure_cheats(lab: Lab) -> Iterator[tuple[str, float]]:
    """Do the forged segment of each cheat again, and walk as far as the tolerance lets."""
    honest = lab.train_honestly()
    for name, spoof in SPOOFS.items():
        shown = spoof(lab, honest, FORGED)
        start, end = shown[FORGED - 1], shown[FORGED]
        yield name, find_needed_tolerance(honest[FORGED], end, start=start)
    walked = walk(lab, honest, share=0.9 * TOLERANCE)
    for start, end in itertools.pairwise(walked):
        needed = find_needed_tolerance(lab.train(start), end, start=start)
        yield "walk at 0.9 of the tolerance", needed
    yield WALKED, compute_distance(walked[SEGMENTS], honest[SEGMENTS]) / max(list_updates(honest))
