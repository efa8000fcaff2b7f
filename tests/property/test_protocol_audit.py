"""No single change anywhere in a proof passes the audit: every byte of it is held by something."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import libipld
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.testing.proofs import make_chain_evidence, make_settled_job

Path = tuple[str | int, ...]

PROOF, FACTS = make_settled_job()
EVIDENCE = make_chain_evidence(FACTS)
PLAIN: Any = libipld.decode_dag_cbor(encode_proof(PROOF))


def walk(value: Any, path: Path = ()) -> Iterator[Path]:
    """Name every place in a plain tree."""
    yield path
    items = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else items:
        yield from walk(item, (*path, key))


def get(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


PLACES = [path for path in walk(PLAIN) if path]
VALUES = [path for path in PLACES if not isinstance(get(PLAIN, path), dict | list)]
ITEMS = [path for path in PLACES if isinstance(path[-1], int)]
KEYS = [path for path in PLACES if isinstance(path[-1], str)]


def is_caught(changed: Any) -> bool:
    """Tell whether a changed tree is refused as a document or not passed by the audit."""
    try:
        proof = decode_proof_untrusted(libipld.encode_dag_cbor(changed))
    except RemoteProtocolError:
        return True
    return check_proof(proof, EVIDENCE).verdict is not AuditVerdict.PASS


def change_value(value: Any, data: st.DataObject) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return data.draw(st.integers(0, 2**63 - 1).filter(lambda other: other != value))
    if isinstance(value, bytes):
        if not value:
            return b"\x00"
        position = data.draw(st.integers(0, len(value) - 1))
        flipped = value[position] ^ data.draw(st.integers(1, 255))
        return value[:position] + bytes([flipped]) + value[position + 1 :]
    if isinstance(value, str):
        return data.draw(st.text(max_size=60).filter(lambda other: other != value))
    return 0


def edit(path: Path) -> tuple[Any, Any]:
    """Return a copy of the tree and the container that holds the last key of `path`."""
    tree = copy.deepcopy(PLAIN)
    return tree, get(tree, path[:-1])


def test_the_unchanged_tree_passes() -> None:
    assert not is_caught(copy.deepcopy(PLAIN))
    assert min(len(VALUES), len(ITEMS), len(KEYS)) > 30


def test_no_value_can_be_changed_in_its_last_bit() -> None:
    assert len(VALUES) > 300
    for path in VALUES:
        tree, holder = edit(path)
        value = holder[path[-1]]
        if isinstance(value, bytes):
            holder[path[-1]] = value[:-1] + bytes([value[-1] ^ 1]) if value else b"\x01"
        elif isinstance(value, str):
            holder[path[-1]] = value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
        else:
            holder[path[-1]] = not value if isinstance(value, bool) else (value or 0) ^ 1
        assert is_caught(tree), path


@settings(max_examples=150)
@given(st.sampled_from(VALUES), st.data())
def test_no_changed_value_passes(path: Path, data: st.DataObject) -> None:
    tree, holder = edit(path)
    holder[path[-1]] = change_value(holder[path[-1]], data)
    assert is_caught(tree), path


@settings(max_examples=80)
@given(st.sampled_from(ITEMS), st.sampled_from(("drop", "double", "move")))
def test_no_list_with_an_item_dropped_doubled_or_moved_passes(path: Path, how: str) -> None:
    tree, holder = edit(path)
    at = path[-1]
    assert isinstance(at, int)
    if how == "drop":
        del holder[at]
    elif how == "double":
        holder.insert(at, holder[at])
    else:
        holder.append(holder.pop(at))
    assert tree == PLAIN or is_caught(tree), (path, how)


@settings(max_examples=60)
@given(st.sampled_from(KEYS), st.booleans())
def test_no_document_with_a_key_too_few_or_too_many_passes(path: Path, is_dropped: bool) -> None:
    tree, holder = edit(path)
    if is_dropped:
        del holder[path[-1]]
    else:
        holder["extra"] = 0
    assert is_caught(tree), path


@settings(max_examples=60)
@given(st.sampled_from(PLACES), st.sampled_from(PLACES))
def test_no_exchange_of_two_parts_passes(first: Path, second: Path) -> None:
    if first[: len(second)] == second or second[: len(first)] == first:
        return
    tree = copy.deepcopy(PLAIN)
    one, two = get(PLAIN, first), get(PLAIN, second)
    if one == two or first[:-1] == second[:-1]:
        return
    get(tree, first[:-1])[first[-1]] = copy.deepcopy(two)
    get(tree, second[:-1])[second[-1]] = copy.deepcopy(one)
    assert is_caught(tree), (first, second)
