"""A run of the training example as a provider shows it and a verifier does it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gpumarket.comparing.checkpoints import measure_update
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
from scripts.benchmarks.training_lab import SEGMENT_STEPS, SEGMENTS, Checkpoint, Lab, decode

PROVIDER, CLASS, OTHER_CLASS = make_address("provider"), make_hash("class"), make_hash("other")
ORDER, JOB = make_hash("order"), make_hash("job")


def make_plan(**changes: Any) -> CheckpointPlan:
    fields: dict[str, Any] = {
        "path": "/ckpt",
        "steps": SEGMENT_STEPS * SEGMENTS,
        "interval_steps": SEGMENT_STEPS,
        "random_audits": 1,
    }
    return CheckpointPlan(**fields | changes)


@dataclass
class Run:
    """A provider's checkpoints with what it says of them."""

    lab: Lab
    checkpoints: list[Checkpoint]
    plan: CheckpointPlan = field(default_factory=make_plan)
    repro_class: bytes = CLASS
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Words in a state that are not what the checkpoint gives, by segment."""
    replayed: dict[int, Checkpoint] = field(default_factory=dict)

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
        ends = sorted({0, *drawn} if 1 in drawn else {*drawn})
        for index in ends:
            if index not in self.replayed:
                start = self.checkpoints[index - 1] if index > 1 else None
                steps = SEGMENT_STEPS if index else 0
                self.replayed[index] = self.lab.train(start, steps)
        return {index: self.replayed[index] for index in ends}
