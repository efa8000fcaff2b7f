"""State proofs: tries of our own making are read rightly, and hostile bytes only ever refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.rlp_reading import decode_rlp_untrusted, encode_rlp
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.state_proof import (
    EMPTY_ROOT,
    read_slots_untrusted,
    read_trie_untrusted,
    select_nodes,
)

Item = Any


def encode_item(item: Item) -> bytes:
    """Encode RLP with lists in lists, straight from the yellow paper."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return encode_length(len(item), 0x80) + item
    content = b"".join(map(encode_item, item))
    return encode_length(len(content), 0xC0) + content


def encode_length(size: int, base: int) -> bytes:
    if size < 56:
        return bytes([base + size])
    field = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([base + 55 + len(field)]) + field


def encode_path(path: list[int], *, is_leaf: bool) -> bytes:
    flag = 2 * is_leaf + len(path) % 2
    nibbles = [flag, *([] if len(path) % 2 else [0]), *path]
    return bytes(a * 16 + b for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))


def build(entries: dict[tuple[int, ...], bytes], nodes: dict[Hash32, bytes]) -> Item:
    """Build the node over these rest-paths by the definition, and keep what is hashed."""
    if not entries:
        return b""
    if len(entries) == 1:
        ((path, value),) = entries.items()
        return keep([encode_path(list(path), is_leaf=True), value], nodes)
    shared = 0
    paths = list(entries)
    while len({path[shared] for path in paths}) == 1:
        shared += 1
    if shared:
        rest = build({path[shared:]: value for path, value in entries.items()}, nodes)
        return keep([encode_path(list(paths[0][:shared]), is_leaf=False), rest], nodes)
    children = [
        build({p[1:]: v for p, v in entries.items() if p[0] == nibble}, nodes)
        for nibble in range(16)
    ]
    return keep([*children, b""], nodes)


def keep(node: Item, nodes: dict[Hash32, bytes]) -> Item:
    raw = encode_item(node)
    if len(raw) < 32:
        return node
    nodes[keccak256(raw)] = raw
    return keccak256(raw)


def make_trie(entries: dict[bytes, bytes]) -> tuple[Hash32, dict[Hash32, bytes]]:
    nodes: dict[Hash32, bytes] = {}
    paths = {tuple(n for b in key for n in (b >> 4, b & 15)): v for key, v in entries.items()}
    if not paths:
        return EMPTY_ROOT, nodes
    top = build(paths, nodes)
    if isinstance(top, list):
        raw = encode_item(top)
        nodes[keccak256(raw)] = raw
        return keccak256(raw), nodes
    return top, nodes


slots = st.integers(0, 2**16).map(lambda number: number.to_bytes(32, "big"))
storages = st.dictionaries(slots, st.integers(1, 2**256 - 1), max_size=25)


def prove(storage: dict[bytes, int], wanted: list[bytes]) -> tuple[Hash32, tuple[bytes, ...]]:
    values = {
        keccak256(slot): encode_item(word.to_bytes((word.bit_length() + 7) // 8, "big"))
        for slot, word in storage.items()
    }
    root, nodes = make_trie(values)
    return root, select_nodes(root, [keccak256(slot) for slot in wanted], nodes.values())


@settings(max_examples=60)
@given(storages, st.data())
def test_words_that_are_there_and_words_that_are_not_are_proven(
    storage: dict[bytes, int], data: st.DataObject
) -> None:
    known = st.sampled_from(sorted(storage)) if storage else slots
    wanted = data.draw(st.lists(known | slots, min_size=1, max_size=8))
    root, nodes = prove(storage, wanted)
    found = read_slots_untrusted(root, wanted, nodes)
    assert list(found) == [storage.get(slot, 0) for slot in wanted]
    for worse in (
        (*nodes, nodes[-1] if nodes else b"\x80"),
        nodes[:-1] if nodes else (b"\x80",),
        (nodes[0][:-1] + bytes([nodes[0][-1] ^ 1]), *nodes[1:]) if nodes else (b"",),
    ):
        with pytest.raises(RemoteProtocolError):
            read_slots_untrusted(root, wanted, worse)
    if len(nodes) > 1:
        with pytest.raises(RemoteProtocolError):
            read_slots_untrusted(root, wanted, nodes[::-1])


@settings(max_examples=60)
@given(st.dictionaries(st.binary(min_size=2, max_size=2), st.binary(min_size=1, max_size=5)))
def test_small_nodes_stand_in_their_parents(entries: dict[bytes, bytes]) -> None:
    root, nodes = make_trie(entries)
    keys = [*entries, b"zz", b"\x00\x00"]
    picked = select_nodes(root, keys, nodes.values())
    assert read_trie_untrusted(root, keys, picked) == [entries.get(key) for key in keys]


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_hostile_rlp_is_refused_or_the_one_spelling(raw: bytes) -> None:
    try:
        item = decode_rlp_untrusted(raw)
    except RemoteProtocolError:
        return
    assert encode_item(item) == raw


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=4), st.binary(min_size=32, max_size=32))
def test_hostile_nodes_are_refused(nodes: list[bytes], key: bytes) -> None:
    for root in (keccak256(nodes[0]) if nodes else key, EMPTY_ROOT, key):
        try:
            (value,) = read_trie_untrusted(root, [key], nodes)
        except RemoteProtocolError:
            continue
        assert value is None or isinstance(value, bytes)


@given(st.lists(st.binary(max_size=70), max_size=6))
def test_a_flat_list_is_written_as_the_paper_says(items: list[bytes]) -> None:
    assert encode_rlp(items) == encode_item(items)
    assert decode_rlp_untrusted(encode_rlp(items)) == items


def test_long_nests_and_bad_lengths_are_refused() -> None:
    for raw in (b"\xc1" * 9 + b"\x80", b"\xb8\x01a", b"\x81\x05", b"\xb9\x00\x40" + b"a" * 64):
        with pytest.raises(RemoteProtocolError):
            decode_rlp_untrusted(raw)
