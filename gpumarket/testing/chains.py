"""Chains of a training task's segment states, for tests that need no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import CheckpointPlan
from gpumarket.protocol.training import (
    CheckpointFacts,
    SegmentState,
    count_segments,
    find_step,
    make_state,
)
from gpumarket.testing.factories import make_address, make_cid, make_hash


def make_plan(**changes: Any) -> CheckpointPlan:
    """Return a plan of five segments, of which one is done again beside those always drawn."""
    values: dict[str, Any] = {
        "path": "/ckpt",
        "steps": 50,
        "interval_steps": 10,
        "random_audits": 1,
    }
    return CheckpointPlan(**(values | changes))


def make_facts(plan: CheckpointPlan, index: int, **changes: Any) -> CheckpointFacts:
    """Return what is read out of the checkpoint `index` of a plan."""
    values: dict[str, Any] = {
        "step": find_step(plan, index),
        "folder": make_cid(f"checkpoint {index}"),
        "model_root": make_hash(f"model {index}"),
        "optimizer_root": make_hash(f"optimizer {index}"),
        "rng_root": make_hash(f"rng {index}"),
        "cursor": index,
        "loss": f"{1 + index / 8}",
        "update_norm": "0",
    }
    return CheckpointFacts(**(values | changes))


def make_states(
    plan: CheckpointPlan, *, start: Hash32, norms: Sequence[int] = (0,), **place: Any
) -> tuple[SegmentState, ...]:
    """
    Return a whole chain; `norms` are the lengths of its updates, over again where they are fewer.

    `place` is what `make_state` takes; a named provider's unit 0 where it is not said.
    """
    place = {
        "order_hash": make_hash("order"),
        "unit": 0,
        "provider": make_address("provider"),
        "repro_class": make_hash("class"),
    } | place
    states: list[SegmentState] = []
    for index in range(count_segments(plan) + 1):
        norm = norms[index % len(norms)] if index else 0
        states.append(
            make_state(
                make_facts(plan, index, update_norm=str(norm)),
                before=states[-1] if states else None,
                start=start,
                step_from=find_step(plan, max(0, index - 1)),
                **place,
            )
        )
    return tuple(states)
