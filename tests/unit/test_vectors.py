"""Python computes what stands in tests/vectors, the very files that forge holds Solidity to."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.settlement import (
    LANE_BYTES,
    PaymentLeaf,
    compute_sum_path,
    compute_sum_root,
    has_sum_leaf,
)
from gpumarket.protocol.signing import Domain, keccak256, recover_signer

FOLDER = Path(__file__).resolve().parents[1] / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "settlement.json").read_text())


def get_bytes(entry: dict[str, Any], key: str) -> bytes:
    return bytes.fromhex(entry[key][2:])


DOMAIN = Domain(
    chain_id=int(VECTORS["domain"]["chainId"]),
    contract=get_bytes(VECTORS["domain"], "verifyingContract"),
)


def read(kind: Any, entry: dict[str, str]) -> Any:
    """Build a promise from a vector: its fields by their Solidity names."""
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        head, *rest = name.split("_")
        text = entry[head + "".join(part.title() for part in rest)]
        values[name] = bytes.fromhex(text[2:]) if text.startswith("0x") else int(text)
    return kind(**values)


def test_the_file_is_what_the_generator_writes_today(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate_vectors", FOLDER / "generate.py")
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    # msgspec looks a struct's annotations up in its module, by name.
    monkeypatch.setitem(sys.modules, spec.name, generator)
    spec.loader.exec_module(generator)
    assert generator.render_vectors() == (FOLDER / "settlement.json").read_text()


def test_every_kind_of_vector_is_checked_here_and_none_is_empty() -> None:
    assert set(VECTORS) == {
        "domain", "orders", "receipts", "attestations", "documents", "signatures", "leaves",
        "trees", "seeds", "headers", "batches",
    }  # fmt: skip
    assert all(VECTORS.values())


def test_the_separator_agrees() -> None:
    assert DOMAIN.compute_separator() == get_bytes(VECTORS["domain"], "separator")


@pytest.mark.parametrize(
    ("kind", "entry"),
    [(Order, entry) for entry in VECTORS["orders"]]
    + [(Receipt, entry) for entry in VECTORS["receipts"]]
    + [(Attestation, entry) for entry in VECTORS["attestations"]],
)
def test_struct_hashes_and_digests_agree(kind: Any, entry: dict[str, str]) -> None:
    struct_hash = read(kind, entry).compute_struct_hash()
    assert struct_hash == get_bytes(entry, "structHash")
    assert DOMAIN.compute_digest(struct_hash) == get_bytes(entry, "digest")


@pytest.mark.parametrize("entry", VECTORS["documents"])
def test_documents_agree(entry: dict[str, str]) -> None:
    type_hash = keccak256(b"Document(string kind,bytes32 contentHash)")
    kind_hash = keccak256(entry["kind"].encode())
    struct_hash = keccak256(type_hash + kind_hash + get_bytes(entry, "contentHash"))
    assert struct_hash == get_bytes(entry, "structHash")
    assert DOMAIN.compute_digest(struct_hash) == get_bytes(entry, "digest")


@pytest.mark.parametrize("entry", VECTORS["signatures"])
def test_signers_agree(entry: dict[str, str]) -> None:
    signer = recover_signer(get_bytes(entry, "digest"), get_bytes(entry, "signature"))
    assert signer == get_bytes(entry, "signer")


@pytest.mark.parametrize("entry", VECTORS["leaves"])
def test_leaves_agree(entry: dict[str, str]) -> None:
    leaf = PaymentLeaf(
        order_hash=get_bytes(entry, "orderHash"),
        line=int(entry["unit"]),
        evidence_hash=get_bytes(entry, "receiptHash"),
        price=int(entry["price"]),
    )
    assert leaf.compute_hash() == get_bytes(entry, "hash")


@pytest.mark.parametrize("entry", VECTORS["trees"])
def test_trees_agree(entry: dict[str, Any]) -> None:
    leaves = [(get_bytes(leaf, "hash"), int(leaf["sum"])) for leaf in entry["leaves"]]
    path = [(get_bytes(node, "hash"), int(node["sum"])) for node in entry["path"]]
    root, index = (get_bytes(entry, "root"), int(entry["sum"])), int(entry["index"])
    assert compute_sum_root(leaves) == root
    assert list(compute_sum_path(leaves, index)) == path
    assert has_sum_leaf(root, leaves[index], index=index, count=len(leaves), path=path)


@pytest.mark.parametrize("entry", VECTORS["seeds"])
def test_seeds_agree(entry: dict[str, str]) -> None:
    seed = compute_seed(
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        committer=get_bytes(entry, "committer"),
        sequence=int(entry["seq"]),
        root=get_bytes(entry, "root"),
        mix_hash=get_bytes(entry, "mixHash"),
        nonces=get_bytes(entry, "nonces"),
    )
    assert seed == get_bytes(entry, "seed")


@pytest.mark.parametrize("entry", VECTORS["headers"])
def test_headers_agree(entry: dict[str, str]) -> None:
    header = decode_header_untrusted(get_bytes(entry, "rlp"))
    assert header.block_hash == get_bytes(entry, "hash")
    assert header.mix_hash == get_bytes(entry, "mixHash")


@pytest.mark.parametrize("entry", VECTORS["batches"])
def test_the_lanes_of_batches_have_16_bytes_each(entry: dict[str, Any]) -> None:
    lanes, size = get_bytes(entry, "lanes"), LANE_BYTES
    count = len(lanes) // size
    assert count * size == len(lanes) and count >= len(entry["requesters"])
    for start in range(0, len(lanes), size):
        assert int.from_bytes(lanes[start : start + 2], "big") < len(entry["requesters"])
        assert int.from_bytes(lanes[start + 2 : start + 4], "big") < len(entry["payees"])
