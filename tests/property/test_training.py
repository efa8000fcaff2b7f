"""Chains of segment states: what continues one, what is drawn, what cannot be swapped."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.job import CheckpointPlan
from gpumarket.protocol.merkle import compute_path, compute_root, has_leaf
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.training import (
    CHUNK_BYTES,
    SegmentState,
    TrainingClaim,
    check_chain,
    check_plan,
    compute_chain_start,
    compute_tensor_leaf,
    compute_tensors_root,
    count_segments,
    draw_segments,
    list_chunk_hashes,
    make_claim,
    make_starts,
)
from gpumarket.testing.chains import make_states
from gpumarket.testing.factories import make_address, make_cid, make_hash

START = compute_chain_start(make_hash("job"), 0)
PLANS = st.builds(
    CheckpointPlan,
    path=st.just("/ckpt"),
    steps=st.integers(1, 400),
    interval_steps=st.integers(5, 100),
    random_audits=st.integers(0, 5),
    top_audits=st.integers(0, 3),
)
SEEDS = st.binary(min_size=32, max_size=32)
NORMS = st.lists(st.integers(0, 50), min_size=100, max_size=100)


def make_chain(plan: CheckpointPlan, norms: list[int] | None = None) -> tuple[SegmentState, ...]:
    return make_states(plan, start=START, norms=norms or (0,))


def check(states: tuple[SegmentState, ...], plan: CheckpointPlan, claim: TrainingClaim) -> None:
    check_chain(states, claim=claim, start=START, plan=plan)


@given(PLANS)
def test_a_whole_chain_is_what_its_claim_says(plan):
    states = make_chain(plan)
    check(states, plan, make_claim(states[-1]))
    assert states[-1].step_to == plan.steps
    assert all(a.step_to == b.step_from for a, b in pairwise(states))


@given(PLANS, st.data())
def test_no_state_can_be_changed_dropped_swapped_or_repeated(plan, data):
    states = make_chain(plan)
    claim = make_claim(states[-1])
    at = data.draw(st.integers(0, len(states) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                {"loss": "0.5"},
                {"update_norm": "77"},
                {"model_root": make_hash("forged")},
                {"folder": make_cid("forged")},
                {"provider": make_address("thief")},
                {"order_hash": make_hash("other order")},
                {"unit": 1},
                {"cursor": 10**6},
                {"index": at + 1},
                {"step_to": states[at].step_to + 1},
                {"previous": make_hash("nowhere")},
            ]
        )
    )
    forged = (
        *states[:at],
        msgspec.structs.replace(states[at], **changed),
        *states[at + 1 :],
    )
    swapped = (*states[:at], *reversed(states[at : at + 2]), *states[at + 2 :])
    for other in (
        forged,
        (*states[:at], *states[at + 1 :]),
        (*states[: at + 1], *states[at:]),
        states[:-1],
        (*states, states[-1]),
        *([swapped] if swapped != states else []),
    ):
        with pytest.raises(RemoteProtocolError):
            check(other, plan, claim)


@given(PLANS)
def test_the_end_of_one_chain_cannot_be_put_onto_the_beginning_of_another(plan):
    states = make_chain(plan)
    honest = [msgspec.structs.replace(state, loss="9") for state in states]
    # Every state after the first keeps its own bytes, and so its place behind the old first one.
    with pytest.raises(RemoteProtocolError):
        check((honest[0], *states[1:]), plan, make_claim(states[-1]))


def test_a_chain_belongs_to_one_job_and_one_task():
    plan = CheckpointPlan(path="/c", steps=10, interval_steps=5)
    states = make_chain(plan)
    for start in (compute_chain_start(make_hash("job"), 1), compute_chain_start(make_hash("x"), 0)):
        with pytest.raises(RemoteProtocolError):
            check_chain(states, claim=make_claim(states[-1]), start=start, plan=plan)


# ---- the draw --------------------------------------------------------------------------------


@given(PLANS, NORMS, SEEDS)
def test_first_last_and_largest_are_always_drawn_and_as_many_others_as_planned(plan, norms, seed):
    states = make_chain(plan, norms)
    drawn = draw_segments(states, plan=plan, seed=seed, receipt_hash=make_hash("receipt"))
    segments = len(states) - 1
    assert list(drawn) == sorted(set(drawn))
    assert {1, segments} <= set(drawn) <= set(range(1, segments + 1))
    if plan.top_audits:
        largest = max(states[1:], key=lambda s: (Decimal(s.update_norm), -s.index))
        assert largest.index in drawn
    assert len(drawn) >= min(segments, 2 * (segments > 1) + plan.random_audits)
    assert len(drawn) <= 2 + 2 * plan.top_audits + plan.random_audits


@given(PLANS, SEEDS)
def test_all_are_drawn_for_a_full_replay(plan, seed):
    states = make_chain(plan)
    drawn = draw_segments(
        states, plan=plan, seed=seed, receipt_hash=make_hash("receipt"), is_full=True
    )
    assert drawn == tuple(range(1, len(states)))


def test_every_other_segment_is_drawn_equally_often():
    plan = CheckpointPlan(path="/c", steps=100, interval_steps=10, random_audits=3, top_audits=0)
    states = make_chain(plan)
    counts = dict.fromkeys(range(2, 10), 0)
    for number in range(2_000):
        drawn = draw_segments(
            states, plan=plan, seed=make_hash(str(number)), receipt_hash=make_hash("receipt")
        )
        for index in set(drawn) - {1, 10}:
            counts[index] += 1
    expected = 2_000 * 3 / 8
    # Four standard deviations of a binomial with p = 3/8.
    assert all(abs(count - expected) < 4 * 21.7 for count in counts.values()), counts


def test_starts_say_where_segments_begin_and_not_where_they_ended():
    plan = CheckpointPlan(path="/c", steps=50, interval_steps=10)
    states = make_chain(plan)
    first, later = make_starts(states, (1, 4), plan)
    assert (first.folder, first.step_to) == (None, 10)
    assert (later.folder, later.step_to) == (states[3].folder, 40)
    assert states[4].folder not in (first.folder, later.folder)


@given(PLANS, st.integers(1, 4_000))
def test_a_plan_is_taken_only_if_its_tolerances_stay_below_a_tenth(plan, millionths):
    plan = msgspec.structs.replace(plan, tolerance=f"{millionths}e-6")
    if count_segments(plan) * millionths > 100_000:
        with pytest.raises(InvalidInput, match="add up to"):
            check_plan(plan)
    else:
        check_plan(plan)


# ---- weights ---------------------------------------------------------------------------------


@given(st.integers(0, 3 * CHUNK_BYTES), st.data())
def test_one_piece_of_a_tensor_can_be_shown_alone(size, data):
    tensor = size.to_bytes(4, "big") * (size // 4) + bytes(size % 4)
    chunks = list_chunk_hashes(tensor)
    assert len(chunks) == -(-size // CHUNK_BYTES)
    if not chunks:
        return
    index = data.draw(st.integers(0, len(chunks) - 1))
    path = compute_path(chunks, index)
    root = compute_root(chunks)
    assert has_leaf(root, chunks[index], index=index, count=len(chunks), path=path)
    # An inner node or the root itself is no piece: leaves and nodes have other tags.
    assert not has_leaf(root, root, index=0, count=1, path=())


@given(st.binary(max_size=64), st.sampled_from(["F32", "I32"]), st.permutations([2, 4, 8]))
def test_a_tensors_hash_binds_name_kind_shape_and_bytes(data, dtype, shape):
    def leaf(name="a", kind=dtype, sizes=shape, body=data):
        return compute_tensor_leaf(name, dtype=kind, shape=sizes, data=body)

    others = [
        leaf(name="b"),
        leaf(kind="F16"),
        leaf(sizes=[*shape, 1]),
        leaf(sizes=shape[:-1]),
        leaf(body=data + b"\0"),
    ]
    assert leaf() not in others
    assert len(set(others)) == len(others)


@given(st.dictionaries(st.text(max_size=5), SEEDS, min_size=1, max_size=9), st.data())
def test_the_root_of_a_file_binds_which_tensors_there_are(leaves, data):
    root = compute_tensors_root(leaves)
    assert root == compute_tensors_root(dict(reversed(leaves.items())))
    dropped = data.draw(st.sampled_from(sorted(leaves)))
    fewer = {name: leaf for name, leaf in leaves.items() if name != dropped}
    assert compute_tensors_root(fewer) != root
    assert compute_tensors_root({**leaves, "another name": keccak256(b"")}) != root
