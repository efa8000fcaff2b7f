"""Python computes what stands in tests/vectors, the very files that forge holds Solidity to."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.disputes import (
    Acceptance,
    Claim,
    LeafFault,
    find_leaf_fault,
    split_slash,
)
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.juries import compute_jury_seed
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.openings import LeafOpening, Place, PostedBatch, open_leaf
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.sampling import compute_commitment_hash, compute_seed
from gpumarket.protocol.settlement import (
    LANE_BYTES,
    PaymentLeaf,
    climb_sum_path,
    compute_sum_path,
    compute_sum_root,
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
        "domain", "orders", "receipts", "attestations", "assignments", "acceptances", "claims",
        "documents", "signatures", "leaves", "trees", "seeds", "jurySeeds", "commitments",
        "headers", "batches", "faults", "slashes",
    }  # fmt: skip
    assert all(VECTORS.values())


def test_the_separator_agrees() -> None:
    assert DOMAIN.compute_separator() == get_bytes(VECTORS["domain"], "separator")


@pytest.mark.parametrize(
    ("kind", "entry"),
    [(Order, entry) for entry in VECTORS["orders"]]
    + [(Receipt, entry) for entry in VECTORS["receipts"]]
    + [(Attestation, entry) for entry in VECTORS["attestations"]]
    + [(Assignment, entry) for entry in VECTORS["assignments"]]
    + [(Acceptance, entry) for entry in VECTORS["acceptances"]]
    + [(Claim, entry) for entry in VECTORS["claims"]],
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
    leaf = read(PaymentLeaf, entry)
    assert leaf.compute_hash() == get_bytes(entry, "hash")


def read_path(entry: dict[str, Any]) -> tuple[tuple[bytes, int], ...]:
    return tuple((get_bytes(node, "hash"), int(node["sum"])) for node in entry["path"])


@pytest.mark.parametrize("entry", VECTORS["trees"])
def test_trees_agree(entry: dict[str, Any]) -> None:
    leaves = [(get_bytes(leaf, "hash"), int(leaf["sum"])) for leaf in entry["leaves"]]
    path = read_path(entry)
    root, index = (get_bytes(entry, "root"), int(entry["sum"])), int(entry["index"])
    assert compute_sum_root(leaves) == root
    assert compute_sum_path(leaves, index) == path
    assert climb_sum_path(leaves[index], index, path) == root


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


@pytest.mark.parametrize("entry", VECTORS["jurySeeds"])
def test_jury_seeds_agree(entry: dict[str, str]) -> None:
    seed = compute_jury_seed(
        chain_id=DOMAIN.chain_id,
        jury=get_bytes(entry, "jury"),
        case=int(entry["case"]),
        level=int(entry["level"]),
        mix_hash=get_bytes(entry, "mixHash"),
    )
    assert seed == get_bytes(entry, "seed")


@pytest.mark.parametrize("entry", VECTORS["commitments"])
def test_commitments_agree(entry: dict[str, str]) -> None:
    hash_with = partial(
        compute_commitment_hash,
        root=get_bytes(entry, "root"),
        nonce_hash=get_bytes(entry, "nonceHash"),
        data_hash=get_bytes(entry, "dataHash"),
        block=int(entry["blockNumber"]),
    )
    assert hash_with() == get_bytes(entry, "unseeded")
    assert hash_with(seed=get_bytes(entry, "seed")) == get_bytes(entry, "seeded")


def read_batch(entry: dict[str, Any]) -> PostedBatch:
    return PostedBatch(
        coordinator=bytes(20),
        sequence=0,
        posted_at=int(entry["postedAt"]),
        data_hash=get_bytes(entry, "dataHash"),
        root=get_bytes(entry, "root"),
        requesters=tuple(bytes.fromhex(each[2:]) for each in entry["requesters"]),
        payees=tuple(bytes.fromhex(each[2:]) for each in entry["payees"]),
        lanes=get_bytes(entry, "lanes"),
    )


@pytest.mark.parametrize("entry", VECTORS["batches"])
def test_batches_and_their_openings_agree(entry: dict[str, Any]) -> None:
    batch, stored = read_batch(entry), get_bytes(entry, "commitment")
    assert batch.compute_hash() == stored
    assert len(batch.lanes) == LANE_BYTES * len(batch.list_lanes())
    for each in entry["openings"]:
        opening = LeafOpening(
            lane=int(each["lane"]),
            index=int(each["index"]),
            leaf=read(PaymentLeaf, each),
            path=read_path(each),
        )
        place = open_leaf(batch, opening, stored=stored)
        parties = (get_bytes(each, "requester"), get_bytes(each, "payee"))
        assert (place.requester, place.payee) == parties
        assert place.lane_amount == int(each["laneAmount"])


def test_padding_is_opened_too() -> None:
    openings = [each for entry in VECTORS["batches"] for each in entry["openings"]]
    assert sum(int(each["orderHash"], 16) == 0 for each in openings) > 3


@pytest.mark.parametrize("entry", VECTORS["faults"])
def test_faults_agree(entry: dict[str, str]) -> None:
    zeros = {"sequence": "0", "lane": "0", "index": "0", "laneAmount": "0"}
    order = read(Order, VECTORS["orders"][1])
    fault = find_leaf_fault(read(Place, zeros | entry), read(PaymentLeaf, entry), order)
    assert fault == int(entry["fault"])


def test_every_fault_has_a_vector() -> None:
    assert {int(entry["fault"]) for entry in VECTORS["faults"]} == set(LeafFault)


@pytest.mark.parametrize("entry", VECTORS["slashes"])
def test_slashes_agree_and_burn_half(entry: dict[str, str]) -> None:
    taken, jurors = int(entry["taken"]), int(entry["jurors"])
    split = split_slash(
        taken,
        challenge_bond=int(entry["challengeBond"]),
        has_harmed=entry["harmed"] == "1",
        jurors=jurors,
    )
    assert split.to_reporter == int(entry["toReporter"])
    assert split.to_harmed == int(entry["toHarmed"])
    assert split.to_each_juror == int(entry["toEachJuror"])
    assert split.burnt == int(entry["burnt"])
    assert split.to_reporter + split.to_harmed + split.to_jurors + split.burnt == taken
    assert split.to_jurors == jurors * split.to_each_juror
    assert 2 * split.burnt >= taken
