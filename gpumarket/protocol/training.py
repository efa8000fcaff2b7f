"""
Checkpointed training: a chain of segment states, and which segments are done again.

A training task leaves a checkpoint every so many steps. Each becomes a `SegmentState`, bound to
the one before, and is handed out while the task runs, so that no path through the weights can be
invented afterwards. The receipt carries the end of the chain; the seed then picks segments.
Source: Jia et al., Proof-of-Learning (arXiv 2103.05633); Fang et al. (arXiv 2208.03567) on why
the data order, the hyper-parameters and a relative tolerance must not be the provider's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.job import CheckpointPlan, JobSpec
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.signing import Document, encode_uint, keccak256
from gpumarket.protocol.units import U32, U64

SEGMENTS_MAX = 1_000
"""Segments in one task; their states travel in one message."""
CHUNK_BYTES = 1 << 20
"""A tensor is hashed in pieces of this size, so that one piece can be shown alone."""
WALK_MAX = Decimal("0.1")
"""How much of one update all tolerated differences of a task may add up to."""
_CHAIN_TAG = b"gpumarket.segments.v1"
_STATE_TAG = b"gpumarket.segment.v1"
_CHUNK_TAG = b"gpumarket.chunk.v1"
_TENSOR_TAG = b"gpumarket.tensor.v1"
_TENSORS_TAG = b"gpumarket.tensors.v1"
_DRAW_TAG = b"gpumarket.segment-draw.v1"

MeasureText = Annotated[str, Meta(pattern=r"^-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?\Z")]
"""A measured number as text, since documents hold no floats."""


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was read out of one checkpoint."""

    step: U64
    folder: Cid
    model_root: Hash32
    optimizer_root: Hash32
    rng_root: Hash32
    cursor: U64
    loss: MeasureText
    update_norm: MeasureText


class SegmentState(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What stands after one segment; number 0 is the beginning, before any step.

    Task, position and provider are inside, so a state cannot be moved, copied or left out.
    """

    KIND: ClassVar[str] = "gpumarket.segment.v1"

    order_hash: Hash32
    unit: U32
    provider: Address
    """Who ran this segment; after a lost provider another one continues the chain."""
    repro_class: Hash32
    index: U32
    step_from: U64
    step_to: U64
    folder: Cid
    """The checkpoint on IPFS."""
    model_root: Hash32
    optimizer_root: Hash32
    rng_root: Hash32
    cursor: U64
    """How many items of the data were taken."""
    loss: MeasureText
    """The program's loss on its fixed probe batch."""
    update_norm: MeasureText
    """Euclidean length of what the segment changed in the model; 0 at the beginning."""
    previous: Hash32
    """The chain before this state."""

    def compute_chain(self) -> Hash32:
        """Return the chain with this state at its end."""
        return keccak256(_STATE_TAG + self.previous + encode_document(self))


class TrainingClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a result says of its checkpoints: how many segments, and where the chain ends."""

    chain: Hash32
    segments: U32


class SegmentStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A segment to do again: where it begins, and not how it ended."""

    index: U32
    step_to: U64
    folder: Cid | None
    """The checkpoint it begins with; None for the first, which begins with the job's own seed."""


class SegmentAudit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verdict on a training task rests on: the whole chain and the segments done again."""

    states: Annotated[tuple[SegmentState, ...], Meta(max_length=SEGMENTS_MAX + 1)]
    drawn: Annotated[tuple[U32, ...], Meta(max_length=SEGMENTS_MAX)]


# ---- the plan ------------------------------------------------------------------------------


def count_segments(plan: CheckpointPlan) -> int:
    """Return how many segments a task of this plan has; the last may be shorter."""
    return -(-plan.steps // plan.interval_steps)


def make_training_env(plan: CheckpointPlan, *, stop_at: int, resume_path: str) -> dict[str, str]:
    """Build the variables that a training task gets beside every task's own."""
    return {
        "GPUMARKET_STEPS": str(plan.steps),
        "GPUMARKET_STOP_AT": str(stop_at),
        "GPUMARKET_CHECKPOINT_STEPS": str(plan.interval_steps),
        "GPUMARKET_CHECKPOINT_DIR": plan.path,
        "GPUMARKET_RESUME_FROM": resume_path,
    }


def find_step(plan: CheckpointPlan, index: int) -> int:
    """Return the step at which the checkpoint `index` is taken."""
    return min(index * plan.interval_steps, plan.steps)


def check_plan(plan: CheckpointPlan) -> None:
    """
    Raise `InvalidInput` for a plan that cannot be carried out or would prove nothing.

    A provider may be off by the tolerance in every segment, always in the direction it likes: all
    segments together must stay below a tenth of one honest update.
    """
    segments = count_segments(plan)
    if segments > SEGMENTS_MAX:
        raise InvalidInput(
            f"checkpoint: {segments} segments, a task has at most {SEGMENTS_MAX}",
            why=f"{plan.steps} steps with a checkpoint every {plan.interval_steps}",
        )
    walk = segments * Decimal(plan.tolerance)
    if walk > WALK_MAX:
        raise InvalidInput(
            f"checkpoint: {segments} segments with tolerance {plan.tolerance} add up to {walk}",
            why=f"at most {WALK_MAX} of one update may pass unseen in a whole task",
        )


# ---- the chain -----------------------------------------------------------------------------


def compute_chain_start(job_hash: Hash32, unit: int) -> Hash32:
    """Return the chain before any state; the job's hash fixes seed, data and first weights."""
    return keccak256(_CHAIN_TAG + job_hash + encode_uint(unit))


def make_state(
    facts: CheckpointFacts,
    *,
    before: SegmentState | None,
    start: Hash32,
    step_from: int,
    **place: Any,
) -> SegmentState:
    """
    Return the state that continues a chain with one more checkpoint.

    `place` is the task and who ran the segment where: order_hash, unit, provider, repro_class.
    """
    return SegmentState(
        index=0 if before is None else before.index + 1,
        step_from=step_from,
        step_to=facts.step,
        folder=facts.folder,
        model_root=facts.model_root,
        optimizer_root=facts.optimizer_root,
        rng_root=facts.rng_root,
        cursor=facts.cursor,
        loss=facts.loss,
        update_norm=facts.update_norm,
        previous=start if before is None else before.compute_chain(),
        **place,
    )


def check_next_state(
    state: SegmentState, *, before: SegmentState | None, start: Hash32, plan: CheckpointPlan
) -> None:
    """Raise `RemoteProtocolError` unless `state` continues the chain that ends with `before`."""
    index = 0 if before is None else before.index + 1
    chain = start if before is None else before.compute_chain()
    expected = {
        "index": (state.index, index),
        "chain": (state.previous, chain),
        "first step": (state.step_from, find_step(plan, max(0, index - 1))),
        "last step": (state.step_to, find_step(plan, index)),
    }
    if before is not None:
        expected["task"] = ((state.order_hash, state.unit), (before.order_hash, before.unit))
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise RemoteProtocolError(f"segment {state.index} does not continue: its {what}")
    if index > count_segments(plan):
        raise RemoteProtocolError("there are more segments than the plan has")
    # "-0.0" and the like would sort below honest norms.
    if state.update_norm.startswith("-"):
        raise RemoteProtocolError("the length of an update is negative")


def check_chain(
    states: Sequence[SegmentState],
    *,
    claim: TrainingClaim,
    start: Hash32,
    plan: CheckpointPlan,
) -> None:
    """Raise `RemoteProtocolError` unless `states` are the whole chain that was claimed."""
    before: SegmentState | None = None
    for state in states:
        check_next_state(state, before=before, start=start, plan=plan)
        before = state
    if before is None or before.index != count_segments(plan):
        raise RemoteProtocolError("the chain does not reach the last step")
    if make_claim(before) != claim:
        raise RemoteProtocolError("the chain does not end where the result says")


def make_claim(last: SegmentState) -> TrainingClaim:
    """Return what a result says when its chain ends with `last`."""
    return TrainingClaim(chain=last.compute_chain(), segments=last.index)


# ---- what is done again --------------------------------------------------------------------


def draw_segments(
    states: Sequence[SegmentState],
    *,
    plan: CheckpointPlan,
    seed: Hash32,
    receipt_hash: Hash32,
    is_full: bool = False,
) -> tuple[int, ...]:
    """
    Return the numbers of the segments that are done again, ascending.

    `states` is a whole chain. Always the first and the last; the `top_audits` largest updates and
    as many largest jumps of the loss, ties to the earlier; and `random_audits` of the others,
    every choice of them equally likely. Everything but the seed was fixed with the receipt.
    """
    numbers = range(1, len(states))
    if is_full:
        return tuple(numbers)
    norms = {index: Decimal(states[index].update_norm) for index in numbers}
    losses = [Decimal(state.loss) for state in states]
    jumps = {index: abs(losses[index] - losses[index - 1]) for index in numbers}
    drawn = {*numbers[:1], *numbers[-1:]}
    for measure in (norms, jumps):
        drawn |= set(_rank(measure)[: plan.top_audits])
    tickets = {
        index: keccak256(_DRAW_TAG + seed + receipt_hash + encode_uint(index))
        for index in numbers
        if index not in drawn
    }
    drawn |= set(sorted(tickets, key=tickets.__getitem__)[: plan.random_audits])
    return tuple(sorted(drawn))


def check_audit(
    audit: SegmentAudit | None,
    *,
    claim: TrainingClaim | None,
    spec: JobSpec,
    unit: int,
    seed: Hash32,
    receipt_hash: Hash32,
) -> None:
    """Raise `RemoteProtocolError` unless a verdict rests on its chain and the seed's draw."""
    plan = spec.checkpoint
    if plan is None:
        if audit is not None or claim is not None:
            raise RemoteProtocolError("segments of a task that has none")
        return
    if audit is None or claim is None:
        raise RemoteProtocolError("a training task was checked without its segments")
    start = compute_chain_start(spec.compute_hash(), unit)
    check_chain(audit.states, claim=claim, start=start, plan=plan)
    is_full = spec.verify.mode == "full"
    drawn = draw_segments(
        audit.states, plan=plan, seed=seed, receipt_hash=receipt_hash, is_full=is_full
    )
    if audit.drawn != drawn:
        raise RemoteProtocolError("other segments were done again than the seed draws")


def make_starts(
    states: Sequence[SegmentState], drawn: Iterable[int], plan: CheckpointPlan
) -> tuple[SegmentStart, ...]:
    """Say where drawn segments begin, and nothing of where they ended."""
    return tuple(
        SegmentStart(
            index=index,
            step_to=find_step(plan, index),
            folder=None if index == 1 else states[index - 1].folder,
        )
        for index in drawn
    )


def _rank(measure: Mapping[int, Decimal]) -> list[int]:
    return sorted(measure, key=lambda index: (-measure[index], index))


# ---- the weights ---------------------------------------------------------------------------


def compute_tensor_leaf(
    name: str, *, dtype: str, shape: Sequence[int], data: bytes | memoryview
) -> Hash32:
    """Hash one tensor: what it is, and the Merkle root over its bytes in pieces of 1 MiB."""
    chunks = list_chunk_hashes(data)
    header = encode_document([name, dtype, list(shape), len(data), len(chunks)])
    return keccak256(_TENSOR_TAG + keccak256(header) + compute_root(chunks))


def list_chunk_hashes(data: bytes | memoryview) -> list[Hash32]:
    """Hash a tensor's bytes piece by piece, in order: the leaves of its tree."""
    view = memoryview(data)
    return [
        keccak256(_CHUNK_TAG + bytes(view[start : start + CHUNK_BYTES]))
        for start in range(0, len(view), CHUNK_BYTES)
    ]


def compute_tensors_root(leaves: Mapping[str, Hash32]) -> Hash32:
    """Return the root over all tensors of a file, by sorted name, with their number."""
    ordered = [leaves[name] for name in sorted(leaves)]
    return keccak256(_TENSORS_TAG + encode_uint(len(ordered)) + compute_root(ordered))
