"""What segments done again prove of a whole training task: the same for verifier and auditor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpumarket.comparing.checkpoints import Checkpoint, find_false_word, find_fault
from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.training import SegmentAudit, SegmentState

RULE = "segments"


def judge_segments(
    audit: SegmentAudit,
    *,
    own: Mapping[int, Checkpoint],
    theirs: Mapping[int, Checkpoint],
    own_class: Hash32,
    provider: Address,
    tolerance: str,
) -> Outcome:
    """
    Judge a task by its drawn segments.

    `own` has the end of each drawn segment as it came out here, and the beginning (0) when the
    first was drawn; `theirs` has their checkpoints at both ends. A fault in a segment that an
    earlier provider ran, whose lease was lost, proves nothing against `provider`, who could only
    go on from it: then nobody is paid and nobody blamed. Raises `InvalidInput` where a checkpoint
    is missing, or a number is of no segment.
    """
    check_numbers(audit)
    share, inherited = 0.0, ""
    for index in _list_ends(audit.drawn):
        state = audit.states[index]
        fault, distance = _judge_end(audit, index, own, theirs, own_class, tolerance)
        share = max(share, distance)
        if not fault:
            continue
        sentence = f"segment {index} of {len(audit.states) - 1}: {fault}"
        if state.provider == provider:
            return Outcome(Verdict.MISMATCH, RULE, sentence)
        inherited = inherited or f"{sentence}; it was run by an earlier provider"
    if inherited:
        return Outcome(Verdict.INCONCLUSIVE, RULE, inherited)
    numbers = ", ".join(str(index) for index in audit.drawn)
    largest = "equal byte by byte" if share == 0.0 else f"at most {share:.3g} of an update away"
    return Outcome(Verdict.MATCH, RULE, f"segments {numbers} of {len(audit.states) - 1}: {largest}")


def check_numbers(audit: SegmentAudit) -> None:
    """Raise `InvalidInput` where a drawn number is of no segment: a proof may say anything."""
    numbers = range(1, len(audit.states))
    if any(index not in numbers for index in audit.drawn):
        raise InvalidInput("segments were drawn that the chain does not have")


def list_needed(states: tuple[SegmentState, ...], drawn: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of the checkpoints that a comparison reads, ascending."""
    return tuple(
        sorted({end for index in drawn for end in (index - 1, index)} & {*range(len(states))})
    )


def _list_ends(drawn: tuple[int, ...]) -> Iterator[int]:
    if 1 in drawn:
        yield 0
    yield from drawn


def _judge_end(
    audit: SegmentAudit,
    index: int,
    own: Mapping[int, Checkpoint],
    theirs: Mapping[int, Checkpoint],
    own_class: Hash32,
    tolerance: str,
) -> tuple[str, float]:
    state = audit.states[index]
    before = None if index == 0 else _get(theirs, index - 1)
    ended = _get(theirs, index)
    fault = find_false_word(state, ended, before)
    if not fault and before is not None:
        fault = _find_other_start(audit.states[index - 1], before)
    if fault:
        return fault, float("inf")
    return find_fault(
        _get(own, index),
        ended,
        # The beginning has no update of its own: the first segment's is its measure.
        _get(theirs, 1) if before is None else before,
        is_same_class=state.repro_class == own_class,
        tolerance=tolerance,
    )


def _find_other_start(state: SegmentState, start: Checkpoint) -> str:
    roots = (state.model_root, state.optimizer_root, state.rng_root)
    is_same = start.compute_roots() == roots
    return "" if is_same else "it starts from another checkpoint than the one before ended with"


def _get(checkpoints: Mapping[int, Checkpoint], index: int) -> Checkpoint:
    if index not in checkpoints:
        raise InvalidInput(f"the checkpoint {index} is not there to be compared")
    return checkpoints[index]
