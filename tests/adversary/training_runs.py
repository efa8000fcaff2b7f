"""
Runs of the training example as a provider shows them and a verifier does them again.

`Run` is what a provider has: checkpoints and the states it signed. `Spoof`s make dishonest ones;
each says with the trainer's own means what a cheat would do. The trainer is numpy or PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gpumarket.comparing.checkpoints import decode_checkpoint_untrusted, measure_update
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.segments import judge_segments
from gpumarket.protocol.job import CheckpointPlan
from gpumarket.protocol.training import (
    SegmentAudit,
    SegmentState,
    check_chain,
    compute_chain_start,
    draw_segments,
    make_claim,
)
from gpumarket.testing.factories import make_address, make_cid, make_hash

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples/train/program"
TEXT = ROOT / "examples/train/text.txt.gz"
SEED = 11
SEGMENT_STEPS = 20
SEGMENTS = 6
PROVIDER, CLASS, OTHER_CLASS = make_address("provider"), make_hash("class"), make_hash("other")
ORDER, JOB = make_hash("order"), make_hash("job")

sys.path.insert(0, str(PROGRAM))  # the program's files find each other as in its container

from batches import read_text  # noqa: E402  the path is set just above
from checkpointing import Checkpoint as Checkpoint  # noqa: E402, PLC0414  as above; others import it from here
from train import TRAINERS  # noqa: E402  the path is set just above

Trainer = Any


def make_plan(**changes: Any) -> CheckpointPlan:
    fields: dict[str, Any] = {
        "path": "/ckpt",
        "steps": SEGMENT_STEPS * SEGMENTS,
        "interval_steps": SEGMENT_STEPS,
        "random_audits": 1,
    }
    return CheckpointPlan(**fields | changes)


def make_trainer(kind: str = "numpy", *, seed: int = SEED) -> Trainer:
    module, name = TRAINERS[kind]
    return getattr(__import__(module), name)(read_text(TEXT), seed=seed)


def train_segment(trainer: Trainer, steps: int = SEGMENT_STEPS) -> Checkpoint:
    for _ in range(steps):
        trainer.train()
    return trainer.save()


def train_honestly(kind: str = "numpy") -> list[Checkpoint]:
    """Return the checkpoints of an honest run, the beginning first."""
    trainer = make_trainer(kind)
    return [trainer.save(), *(train_segment(trainer) for _ in range(SEGMENTS))]


@dataclass
class Run:
    """A provider's checkpoints with what it says of them."""

    checkpoints: list[Checkpoint]
    kind: str = "numpy"
    plan: CheckpointPlan = field(default_factory=make_plan)
    repro_class: bytes = CLASS
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Words in a state that are not what the checkpoint gives, by segment."""

    def sign(self) -> tuple[SegmentState, ...]:
        states: list[SegmentState] = []
        chain = compute_chain_start(JOB, 0)
        for index, checkpoint in enumerate(self.checkpoints):
            read = decode(checkpoint)
            before = decode(self.checkpoints[index - 1]) if index else None
            model, optimizer, rng = read.compute_roots()
            state = SegmentState(
                order_hash=ORDER,
                unit=0,
                provider=PROVIDER,
                repro_class=self.repro_class,
                index=index,
                step_from=max(0, index - 1) * SEGMENT_STEPS,
                step_to=index * SEGMENT_STEPS,
                folder=make_cid(f"checkpoint {index}"),
                model_root=model,
                optimizer_root=optimizer,
                rng_root=rng,
                cursor=read.cursor,
                loss=read.loss,
                update_norm=measure_update(before, read),
                previous=chain,
            )
            states.append(msgspec.structs.replace(state, **self.said.get(index, {})))
            chain = states[-1].compute_chain()
        return tuple(states)

    def draw(self, *seeds: str) -> list[tuple[int, ...]]:
        """Return what each of several seeds would have done again."""
        states, receipt_hash = self.sign(), make_hash("receipt")
        return [
            draw_segments(states, plan=self.plan, seed=make_hash(seed), receipt_hash=receipt_hash)
            for seed in seeds
        ]

    def audit(self, *drawn: int, own_class: bytes = CLASS) -> Outcome:
        """Do segments again as a verifier does, and judge."""
        states = self.sign()
        check_chain(
            states,
            claim=make_claim(states[-1]),
            start=compute_chain_start(JOB, 0),
            plan=self.plan,
        )
        return judge_segments(
            SegmentAudit(states=states, drawn=drawn),
            own={index: decode(each) for index, each in self.replay(drawn).items()},
            theirs={index: decode(each) for index, each in enumerate(self.checkpoints)},
            own_class=own_class,
            provider=PROVIDER,
            tolerance=self.plan.tolerance,
        )

    def replay(self, drawn: Iterable[int]) -> dict[int, Checkpoint]:
        """Return what drawn segments end with when they are done from where they say they start."""
        ends: dict[int, Checkpoint] = {}
        for index in drawn:
            trainer = make_trainer(self.kind)
            if index == 1:
                ends[0] = trainer.save()
            else:
                trainer.load(self.checkpoints[index - 1])
            ends[index] = train_segment(trainer)
        return ends


def decode(checkpoint: Checkpoint) -> Any:
    """Read a checkpoint as the market does: from its files."""
    return decode_checkpoint_untrusted(checkpoint.encode())


# ---- cheats ----------------------------------------------------------------------------------

Spoof = Callable[[list[Checkpoint], int, str], Run]
"""Makes of honest checkpoints a run that cheats in one segment (and goes on honestly or not)."""


def _resume(kind: str, checkpoint: Checkpoint) -> Trainer:
    trainer = make_trainer(kind)
    trainer.load(checkpoint)
    return trainer


def _put(honest: list[Checkpoint], index: int, forged: Checkpoint, kind: str) -> Run:
    """Put a forged end of segment `index` and train honestly from there on."""
    step = index * SEGMENT_STEPS
    forged = replace(forged, step=step, cursor=honest[index].cursor)
    trainer = _resume(kind, forged)
    rest = [train_segment(trainer) for _ in range(index, SEGMENTS)]
    return Run([*honest[:index], forged, *rest], kind)


def keep_stale(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Show the checkpoint before once more, with the generator where it should be."""
    return _put(honest, index, replace(honest[index - 1], rng=honest[index].rng), kind)


def move_infinitesimally(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Move the weights by next to nothing (Fang et al.), so that absolute distances are small."""
    before = honest[index - 1]
    rng = np.random.default_rng(1)
    model = {
        name: (value + 1e-6 * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in before.model.items()
    }
    return _put(honest, index, replace(before, model=model, rng=honest[index].rng), kind)


def skip_a_step(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Do nineteen steps of twenty."""
    trainer = _resume(kind, honest[index - 1])
    forged = train_segment(trainer, SEGMENT_STEPS - 1)
    return _put(honest, index, replace(forged, rng=honest[index].rng), kind)


def lower_the_rate(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Learn one percent slower."""
    trainer = _resume(kind, honest[index - 1])
    trainer.recipe = replace(trainer.recipe, learning_rate=0.99 * trainer.recipe.learning_rate)
    return _put(honest, index, train_segment(trainer), kind)


def shrink_the_batch(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Take half of each batch."""
    trainer = _resume(kind, honest[index - 1])
    trainer.recipe = replace(trainer.recipe, batch=trainer.recipe.batch // 2)
    return _put(honest, index, replace(train_segment(trainer), rng=honest[index].rng), kind)


def round_to_bfloat16(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Keep the weights in half the bits while training."""
    trainer = _resume(kind, honest[index - 1])
    for _ in range(SEGMENT_STEPS):
        trainer.train()
        checkpoint = trainer.save()
        trainer.load(replace(checkpoint, model=_round(checkpoint.model)))
    return _put(honest, index, trainer.save(), kind)


def _round(model: dict[str, Any]) -> dict[str, Any]:
    words = {name: np.ascontiguousarray(value).view(np.uint32) for name, value in model.items()}
    return {
        name: ((word + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
        for name, word in words.items()
    }


def interpolate(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Put the mean of two checkpoints between them instead of training there."""
    before, after = honest[index - 1], honest[min(index + 1, SEGMENTS)]
    parts = {
        part: {
            name: (value + getattr(after, part)[name]) / 2
            for name, value in getattr(before, part).items()
        }
        for part in ("model", "optimizer")
    }
    parts = {
        part: {
            name: value.astype(getattr(before, part)[name].dtype) for name, value in tensors.items()
        }
        for part, tensors in parts.items()
    }
    return _put(honest, index, replace(honest[index], **parts), kind)


def reorder_the_data(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Take the segment's own batches in another order (adversarial data, Zhang et al.)."""
    trainer = _resume(kind, honest[index - 1])
    draw, first = trainer.draw, (index - 1) * SEGMENT_STEPS
    trainer.draw = lambda step: draw(2 * first + SEGMENT_STEPS - 1 - step)
    return _put(honest, index, train_segment(trainer), kind)


def forge_the_loss(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Train honestly and say that it went one percent better."""
    forged = replace(honest[index], loss=0.99 * honest[index].loss)
    return Run([*honest[:index], forged, *honest[index + 1 :]], kind)


def teleport(honest: list[Checkpoint], index: int, kind: str) -> Run:
    """Jump to weights from elsewhere in one segment, and train honestly from there on."""
    elsewhere = make_trainer(kind, seed=SEED + 1)
    train_segment(elsewhere, 10 * SEGMENT_STEPS)
    forged = replace(elsewhere.save(), rng=honest[index].rng)
    return _put(honest, index, forged, kind)


def walk(honest: list[Checkpoint], kind: str, *, share: float) -> Run:
    """Shift every segment's end the same way by a part of its update; `share` is that part."""
    trainer = make_trainer(kind)
    direction = {
        name: np.sign(np.random.default_rng(2).standard_normal(value.shape))
        for name, value in honest[0].model.items()
    }
    size = sum(value.size for value in direction.values()) ** 0.5
    shown = [trainer.save()]
    for _ in range(SEGMENTS):
        before = shown[-1]
        after = train_segment(trainer)
        length = share * compute_distance(before, after) / size
        shifted = {
            name: (value + length * direction[name]).astype(value.dtype)
            for name, value in after.model.items()
        }
        trainer.load(replace(after, model=shifted))
        shown.append(trainer.save())
    return Run(shown, kind)


def compute_distance(a: Checkpoint, b: Checkpoint) -> float:
    """Return the Euclidean distance of two models."""
    gaps = [np.asarray(a.model[name], np.float64) - b.model[name] for name in a.model]
    return float(np.sqrt(sum(float((gap * gap).sum()) for gap in gaps)))


REJECTED: dict[str, Spoof] = {
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
"""Cheats that are found whenever the segment they are in is done again."""
