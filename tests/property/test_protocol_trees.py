"""Trees: each leaf is provable where it stands, and nothing else is provable anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_HASH, Hash32
from gpumarket.protocol.merkle import compute_path, compute_root, has_leaf
from gpumarket.protocol.settlement import (
    LANE_BYTES,
    LANES_MAX,
    Lane,
    PaymentLeaf,
    climb_sum_path,
    compute_leaf_path,
    compute_sum_path,
    compute_sum_root,
    make_lanes,
    pack_lanes,
)
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import change

hashes = st.integers(0, 10**6).map(lambda number: keccak256(number.to_bytes(4, "big")))
leaves = st.lists(hashes, min_size=1, max_size=33, unique=True)
sums = st.lists(st.tuples(hashes, st.integers(0, 2**50)), min_size=1, max_size=33, unique=True)
addresses = st.binary(min_size=20, max_size=20)


@settings(max_examples=60)
@given(leaves, st.data())
def test_a_leaf_is_provable_at_its_own_index_only(items: list[Hash32], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    root, path, count = compute_root(items), compute_path(items, index), len(items)
    assert has_leaf(root, items[index], index=index, count=count, path=path)
    for other in range(-1, count + 2):
        found = has_leaf(root, items[index], index=other, count=count, path=path)
        assert found == (other == index)
    for other_leaf in [*(each for each in items if each != items[index]), root, ZERO_HASH]:
        assert not has_leaf(root, other_leaf, index=index, count=count, path=path)
    assert not has_leaf(root, items[index], index=index, count=count, path=(*path, ZERO_HASH))
    assert not path or not has_leaf(root, items[index], index=index, count=count, path=path[:-1])


def test_two_lists_with_one_root_are_one_list() -> None:
    items = [keccak256(bytes([each])) for each in range(5)]
    lists = [items[:size] for size in range(6)] + [[*items[:3], items[2]], items[::-1]]
    assert len({compute_root(each) for each in lists}) == len(lists)


def test_no_inner_node_passes_for_a_leaf() -> None:
    items = [keccak256(bytes([each])) for each in range(4)]
    inner = [keccak256(b"\x00" + each) for each in items]
    pair = keccak256(b"\x01" + inner[2] + inner[3])
    node = keccak256(b"\x01" + inner[0] + inner[1])
    assert not has_leaf(compute_root(items), node, index=0, count=2, path=(pair,))


def test_a_path_needs_a_leaf_and_a_lane_needs_one() -> None:
    assert compute_root([]) == ZERO_HASH
    for index in (-1, 1):
        with pytest.raises(InvalidInput):
            compute_path([ZERO_HASH], index)
    with pytest.raises(InvalidInput):
        compute_sum_root([])


@settings(max_examples=60)
@given(sums, st.data())
def test_a_sum_leaf_is_provable_with_its_own_amount_and_index_only(
    items: list[tuple[Hash32, int]], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    root = compute_sum_root(items)
    path = compute_sum_path(items, index)
    assert root[1] == sum(amount for _, amount in items)
    assert climb_sum_path(items[index], index, path) == root
    for other in range(1 << len(path)):
        is_own = other == index
        assert (climb_sum_path(items[index], other, path) == root) == is_own
    name, amount = items[index]
    assert climb_sum_path((name, amount + 1), index, path) != root
    assert climb_sum_path((keccak256(name), amount), index, path) != root


@settings(max_examples=60)
@given(st.data())
def test_lanes_pay_every_line_once_and_lose_nothing(data: st.DataObject) -> None:
    parties = data.draw(st.lists(addresses, min_size=2, max_size=5, unique=True))
    names = st.tuples(st.sampled_from([b"a" * 32, b"b" * 32]), st.integers(0, 20))
    drawn = data.draw(st.lists(names, min_size=1, max_size=20, unique=True))
    payments = [
        (
            data.draw(st.sampled_from(parties)),
            data.draw(st.sampled_from(parties)),
            PaymentLeaf(order_hash=order, line=line, evidence_hash=ZERO_HASH, price=line + 1),
        )
        for order, line in drawn
    ]
    lanes = make_lanes(payments)
    assert lanes == make_lanes(data.draw(st.permutations(payments)))
    assert sum(lane.amount for lane in lanes) == sum(leaf.price for _, _, leaf in payments)
    paid = [(leaf.order_hash, leaf.line) for lane in lanes for leaf in lane.leaves]
    assert sorted(paid) == sorted(drawn)
    assert len({(lane.requester, lane.payee) for lane in lanes}) == len(lanes)
    requesters, payees, packed, root = pack_lanes(lanes)
    assert len(packed) == LANE_BYTES * len(lanes)
    assert requesters == tuple(sorted(set(requesters))) and payees == tuple(sorted(set(payees)))
    place = data.draw(st.integers(0, len(lanes) - 1))
    index = data.draw(st.integers(0, len(lanes[place].leaves) - 1))
    leaf, path = lanes[place].leaves[index], compute_leaf_path(lanes, place, index)
    depth = (len(lanes[place].leaves) - 1).bit_length()
    node = climb_sum_path((leaf.compute_hash(), leaf.price), index, path[:depth])
    assert node == (lanes[place].compute_root(), lanes[place].amount)
    total = sum(lane.amount for lane in lanes)
    assert climb_sum_path(node, place, path[depth:]) == (root, total)
    with pytest.raises(InvalidInput, match="pays twice"):
        make_lanes([*payments, payments[0]])


def test_a_batch_and_a_lane_have_their_limits() -> None:
    def pay(line: int, price: int) -> tuple[Lane, ...]:
        leaf = PaymentLeaf(order_hash=ZERO_HASH, line=line, evidence_hash=ZERO_HASH, price=price)
        return make_lanes([(bytes(20), bytes(20), leaf)])

    half = 2**63
    pack_lanes(pay(0, half) + pay(1, half - 1))
    with pytest.raises(InvalidInput, match="64 bits"):
        pack_lanes(pay(0, half) + pay(1, half))
    with pytest.raises(InvalidInput, match="64 bits"):
        pack_lanes([change(pay(0, half)[0], leaves=pay(0, half)[0].leaves * 2)])
    with pytest.raises(InvalidInput, match="at least one"):
        pack_lanes([])
    lane = pay(0, half // LANES_MAX)
    pack_lanes(lane * LANES_MAX)
    with pytest.raises(InvalidInput, match="do not fit"):
        pack_lanes(lane * (LANES_MAX + 1))
