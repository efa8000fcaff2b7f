"""Openings: each leaf of a batch opens where it stands, and nothing else opens anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_HASH
from gpumarket.protocol.openings import (
    EMPTY_LEAF,
    LeafOpening,
    Place,
    PostedBatch,
    Reason,
    WouldRefuse,
    compute_width,
    locate,
    make_opening,
    open_leaf,
)
from gpumarket.protocol.settlement import Lane, PaymentLeaf, pack_lanes
from gpumarket.testing.factories import change, make_address, make_hash

names = st.integers(0, 50).map(lambda number: make_hash(f"name {number}"))
leaves = st.builds(
    PaymentLeaf,
    order_hash=names,
    line=st.integers(0, 2**32 - 1),
    evidence_hash=names,
    price=st.integers(0, 2**32),
)
lanes = st.builds(
    Lane,
    requester=st.sampled_from([make_address(name) for name in ("alice", "bob")]),
    payee=st.sampled_from([make_address(f"payee {number}") for number in range(4)]),
    leaves=st.lists(leaves, min_size=1, max_size=9).map(tuple),
)
batches = st.lists(lanes, min_size=1, max_size=6).map(tuple)


def post(drawn: tuple[Lane, ...]) -> PostedBatch:
    packed = pack_lanes(drawn)
    return PostedBatch(
        coordinator=make_address("coordinator"),
        sequence=3,
        posted_at=1_800_000_000,
        data_hash=make_hash("document"),
        root=packed.root,
        requesters=packed.requesters,
        payees=packed.payees,
        lanes=packed.lanes,
    )


def refuse(batch: PostedBatch, opening: LeafOpening, *, stored: bytes | None = None) -> Reason:
    with pytest.raises(WouldRefuse) as refusal:
        open_leaf(batch, opening, stored=batch.compute_hash() if stored is None else stored)
    assert refusal.value.reason.value in refusal.value.message
    return refusal.value.reason


@settings(max_examples=60)
@given(batches, st.data())
def test_every_index_opens_as_what_stands_there(
    drawn: tuple[Lane, ...], data: st.DataObject
) -> None:
    batch = post(drawn)
    number = data.draw(st.integers(0, len(drawn) - 1))
    lane = drawn[number]
    for index in range(compute_width(len(lane.leaves))):
        opening = make_opening(drawn, number, index)
        is_padding = index >= len(lane.leaves)
        assert opening.leaf == (EMPTY_LEAF if is_padding else lane.leaves[index])
        place = open_leaf(batch, opening, stored=batch.compute_hash())
        assert place == locate(batch, number, index, stored=batch.compute_hash())
        assert place == Place(
            coordinator=batch.coordinator,
            sequence=3,
            posted_at=1_800_000_000,
            lane=number,
            index=index,
            requester=lane.requester,
            payee=lane.payee,
            lane_amount=lane.amount,
        )


@settings(max_examples=60)
@given(batches, st.data())
def test_nothing_changed_opens(drawn: tuple[Lane, ...], data: st.DataObject) -> None:
    batch = post(drawn)
    number = data.draw(st.integers(0, len(drawn) - 1))
    index = data.draw(st.integers(0, len(drawn[number].leaves) - 1))
    opening = make_opening(drawn, number, index)
    width = compute_width(len(drawn[number].leaves))
    leaf = opening.leaf
    for lie in ({"price": leaf.price + 1}, {"line": leaf.line ^ 1}, {"order_hash": ZERO_HASH}):
        lied = change(opening, leaf=change(leaf, **lie))
        assert lied == opening or refuse(batch, lied) is Reason.BAD_OPENING
    lied = change(opening, index=width)
    assert refuse(batch, lied) is Reason.BAD_INDEX
    lied = change(opening, lane=len(drawn))
    assert refuse(batch, lied) is Reason.BAD_INDEX
    for path in ((*opening.path, (ZERO_HASH, 0)), opening.path[1:]):
        if len(path) != len(opening.path):
            assert refuse(batch, change(opening, path=path)) is Reason.BAD_PATH_LENGTH
    if opening.path:
        place = data.draw(st.integers(0, len(opening.path) - 1))
        name, amount = opening.path[place]
        for node in ((make_hash("x"), amount), (name, amount + 1)):
            path = (*opening.path[:place], node, *opening.path[place + 1 :])
            assert refuse(batch, change(opening, path=path)) is Reason.BAD_OPENING


@settings(max_examples=30)
@given(batches, leaves)
def test_padding_opens_as_nothing_else(drawn: tuple[Lane, ...], leaf: PaymentLeaf) -> None:
    batch = post(drawn)
    for number, lane in enumerate(drawn):
        for index in range(len(lane.leaves), compute_width(len(lane.leaves))):
            opening = change(make_opening(drawn, number, index), leaf=leaf)
            assert refuse(batch, opening) is Reason.BAD_INDEX


@settings(max_examples=30)
@given(batches)
def test_another_batch_than_the_one_posted_is_not_opened(drawn: tuple[Lane, ...]) -> None:
    batch, opening = post(drawn), make_opening(drawn, 0, 0)
    assert refuse(batch, opening, stored=ZERO_HASH) is Reason.UNKNOWN_BATCH
    for lie in (
        {"posted_at": 1},
        {"data_hash": ZERO_HASH},
        {"root": ZERO_HASH},
        {"requesters": (*batch.requesters, bytes(20))},
        {"payees": (*batch.payees, bytes(20))},
        {"lanes": batch.lanes + bytes(1)},
    ):
        lied = change(batch, **lie)
        assert refuse(lied, opening, stored=batch.compute_hash()) is Reason.UNKNOWN_BATCH


@settings(max_examples=30)
@given(batches)
def test_only_what_a_challenge_can_name_is_opened(drawn: tuple[Lane, ...]) -> None:
    for number, index in ((len(drawn), 0), (-1, 0), (0, -1)):
        with pytest.raises(InvalidInput):
            make_opening(drawn, number, index)
    with pytest.raises(InvalidInput):
        make_opening(drawn, 0, compute_width(len(drawn[0].leaves)))
