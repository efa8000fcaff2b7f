"""Multiproofs: what is shown is where it says, and nothing else can be shown with the same root."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.merkle import climb_multipath, compute_multipath, compute_root
from gpumarket.protocol.settlement import (
    climb_sum_multipath,
    compute_sum_multipath,
    compute_sum_root,
)
from gpumarket.protocol.signing import keccak256

Node = tuple[Hash32, int]

hashes = st.integers(0, 10**6).map(lambda number: keccak256(number.to_bytes(4, "big")))
leaves = st.lists(hashes, min_size=1, max_size=40, unique=True)
sums = st.lists(st.tuples(hashes, st.integers(0, 2**50)), min_size=1, max_size=40, unique=True)


def draw_places(data: st.DataObject, count: int, *, least: int = 0) -> list[int]:
    places = st.lists(st.integers(0, count - 1), min_size=least, max_size=count, unique=True)
    return sorted(data.draw(places))


@settings(max_examples=80)
@given(leaves, st.data())
def test_shown_leaves_give_the_root_and_each_hash_is_needed(
    items: list[Hash32], data: st.DataObject
) -> None:
    places = draw_places(data, len(items))
    path = compute_multipath(items, places)
    opened = [(place, items[place]) for place in places]
    root = compute_root(items)
    assert climb_multipath(opened, count=len(items), path=path) == root
    with pytest.raises(RemoteProtocolError, match=r"too long|by its root"):
        climb_multipath(opened, count=len(items), path=(*path, root))
    if path:
        with pytest.raises(RemoteProtocolError, match=r"too short|by its root"):
            climb_multipath(opened, count=len(items), path=path[:-1])
    if len(set(path)) > 1 and opened:
        assert climb_multipath(opened, count=len(items), path=path[::-1]) != root


@settings(max_examples=80)
@given(leaves, st.data())
def test_no_other_leaf_or_place_gives_the_root(items: list[Hash32], data: st.DataObject) -> None:
    places = draw_places(data, len(items), least=1)
    path = compute_multipath(items, places)
    opened = [(place, items[place]) for place in places]
    root = compute_root(items)
    victim = data.draw(st.integers(0, len(opened) - 1))
    place, leaf = opened[victim]
    other = [*opened[:victim], (place, keccak256(leaf)), *opened[victim + 1 :]]
    assert climb_multipath(other, count=len(items), path=path) != root
    for moved in {0, place ^ 1, len(items) - 1} - {each for each, _ in opened}:
        changed = sorted([*opened[:victim], (moved, leaf), *opened[victim + 1 :]])
        try:
            assert climb_multipath(changed, count=len(items), path=path) != root
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize("places", [(1, 1), (2, 1), (0, 4), (-1, 2)])
def test_doubled_falling_and_foreign_places_are_refused(places: tuple[int, int]) -> None:
    items = [keccak256(bytes([each])) for each in range(4)]
    pairs = [(place, items[place % 4]) for place in places]
    nodes: list[tuple[int, Node]] = [(place, (leaf, 1)) for place, leaf in pairs]
    with pytest.raises(RemoteProtocolError, match="out of its place"):
        climb_multipath(pairs, count=4, path=())
    with pytest.raises(RemoteProtocolError, match="out of its place"):
        climb_sum_multipath(nodes, count=4, path=())
    with pytest.raises(InvalidInput):
        compute_multipath(items, places)


def test_no_inner_node_passes_for_a_leaf() -> None:
    items = [keccak256(bytes([each])) for each in range(4)]
    inner = [keccak256(b"\x00" + each) for each in items]
    left = keccak256(b"\x01" + inner[0] + inner[1])
    right = keccak256(b"\x01" + inner[2] + inner[3])
    assert climb_multipath([(0, left)], count=2, path=(right,)) != compute_root(items)
    pairs = [(each, 1) for each in items]
    root = compute_sum_root(pairs)
    (upper,) = compute_sum_multipath(pairs, (0, 1))
    joined = compute_sum_root(pairs[:2])
    assert climb_sum_multipath([(0, joined)], count=2, path=(upper,)) == root
    # The count stands in the lane on chain, and a payment leaf's hash carries a tag of its own.


@settings(max_examples=80)
@given(sums, st.data())
def test_shown_payments_give_root_and_sum_and_no_other_amount_does(
    items: list[Node], data: st.DataObject
) -> None:
    places = draw_places(data, len(items))
    path = compute_sum_multipath(items, places)
    opened = [(place, items[place]) for place in places]
    top = compute_sum_root(items)
    assert climb_sum_multipath(opened, count=len(items), path=path) == top
    with pytest.raises(RemoteProtocolError, match="too long"):
        climb_sum_multipath(opened, count=len(items), path=(*path, top))
    if path:
        with pytest.raises(RemoteProtocolError, match="too short"):
            climb_sum_multipath(opened, count=len(items), path=path[:-1])
        name, amount = path[0]
        other = ((name, amount + 1), *path[1:])
        assert climb_sum_multipath(opened, count=len(items), path=other) != top
    if opened:
        place, (name, amount) = opened[0]
        richer = [(place, (name, amount + 1)), *opened[1:]]
        assert climb_sum_multipath(richer, count=len(items), path=path) != top


def test_a_sum_beyond_the_chain_s_bits_is_refused() -> None:
    name = keccak256(b"leaf")
    with pytest.raises(RemoteProtocolError, match="64 bits"):
        climb_sum_multipath([(0, (name, 2**63))], count=2, path=((name, 2**63),))
