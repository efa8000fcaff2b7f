"""
Write settlement.json: values and their hashes, computed by `gpumarket.protocol`.

    python tests/vectors/generate.py

pytest checks that the committed file is what this computes, forge that Solidity computes the
same (contracts/test/Vectors.t.sol). Nothing here is random, so the file changes only with the
protocol.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import rlp

from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.disputes import Acceptance, Claim, find_leaf_fault, split_slash
from gpumarket.protocol.juries import compute_jury_seed
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.openings import Place, PostedBatch, make_opening
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.sampling import compute_commitment_hash, compute_seed
from gpumarket.protocol.settlement import (
    Lane,
    PaymentLeaf,
    compute_fee_evidence,
    compute_sum_path,
    compute_sum_root,
    pack_lanes,
)
from gpumarket.protocol.signing import Document, Domain, PrivateKey, Signable, keccak256

VECTORS = Path(__file__).with_name("settlement.json")
DOMAIN = Domain(chain_id=31337, contract=bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3"))
U32_MAX, U64_MAX = 2**32 - 1, 2**64 - 1
TREE_SIZES = (1, 2, 3, 4, 5, 8, 9, 17)
BATCH_SHAPES = ((1,), (3,), (1, 2), (5, 1, 4), (2, 3, 1, 1, 8))
"""How many leaves are in each lane."""
POSTED_AT = 1_800_000_000
CHALLENGE_BOND = 5_000_000


class Note(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document that exists only here."""

    KIND: ClassVar[str] = "gpumarket.vector.v1"

    text: str


def main() -> None:
    """Write the vectors beside this file."""
    VECTORS.write_text(render_vectors())


def render_vectors() -> str:
    """Return the file's text: bytes as hex, integers as decimal strings."""
    vectors = {
        "domain": {
            "chainId": str(DOMAIN.chain_id),
            "verifyingContract": _hex(DOMAIN.contract),
            "separator": _hex(DOMAIN.compute_separator()),
        },
        "orders": [_describe_promise(order) for order in _make_orders()],
        "receipts": [_describe_promise(receipt) for receipt in _make_receipts()],
        "attestations": [_describe_promise(_make_attestation(verdict)) for verdict in Verdict],
        "assignments": [_describe_promise(_make_assignment(order)) for order in _make_orders()],
        "acceptances": [
            _describe_promise(_make_acceptance(receipt)) for receipt in _make_receipts()
        ],
        "claims": [_describe_promise(_make_claim(number)) for number in (0, U64_MAX)],
        "documents": [_describe_document(text) for text in ("", "a note", "naïve ✓")],
        "signatures": [_describe_signature(secret) for secret in (1, 0xA11CE)],
        "leaves": [_describe_leaf(leaf) for leaf in _make_leaves()],
        "trees": [_describe_tree(size) for size in TREE_SIZES],
        "seeds": [_describe_seed(0, b""), _describe_seed(U64_MAX, b"two nonces")],
        "jurySeeds": [_describe_jury_seed(1, 0), _describe_jury_seed(U64_MAX, 2)],
        "commitments": [_describe_commitment(0), _describe_commitment(U64_MAX)],
        "headers": [_describe_header(b""), _describe_header(b"extra data of a block")],
        "batches": [_describe_batch(counts) for counts in BATCH_SHAPES],
        "faults": _list_faults(),
        "slashes": [
            _describe_slash(taken, has_harmed=has_harmed, jurors=jurors)
            for taken in (0, 7, 8, 999, 200_000_000, 10**12, U64_MAX)
            for has_harmed in (False, True)
            for jurors in (0, 1, 5, 31)
        ],
    }
    return json.dumps(vectors, indent=1) + "\n"


def _make_orders() -> list[Order]:
    smallest = Order(
        requester=bytes(20),
        coordinator=bytes(20),
        job_hash=bytes(32),
        verify_hash=bytes(32),
        units=0,
        checks=0,
        max_unit_price=0,
        max_check_price=0,
        max_fee=0,
        settle_by=0,
        expiry=0,
        nonce=bytes(32),
    )
    usual = Order(
        requester=_address("requester"),
        coordinator=_address("coordinator"),
        provider=_address("provider"),
        job_hash=keccak256(b"job"),
        verify_hash=keccak256(b"verify"),
        units=12,
        checks=3,
        max_unit_price=1_500_000,
        max_check_price=1_600_000,
        max_fee=40_000,
        settle_by=1_800_000_000,
        expiry=1_800_086_400,
        nonce=keccak256(b"nonce"),
    )
    largest = Order(
        requester=b"\xff" * 20,
        coordinator=b"\xff" * 20,
        provider=b"\xff" * 20,
        job_hash=b"\xff" * 32,
        verify_hash=b"\xff" * 32,
        units=U32_MAX,
        checks=U32_MAX,
        max_unit_price=U64_MAX,
        max_check_price=U64_MAX,
        max_fee=U64_MAX,
        settle_by=U64_MAX,
        expiry=U64_MAX,
        nonce=b"\xff" * 32,
    )
    return [smallest, usual, largest]


def _make_receipts() -> list[Receipt]:
    return [
        Receipt(
            order_hash=order.compute_struct_hash(),
            unit=order.units,
            provider=order.provider,
            result_hash=order.job_hash,
            price=order.max_unit_price,
            finished_at=order.settle_by,
        )
        for order in _make_orders()
    ]


def _make_leaves() -> list[PaymentLeaf]:
    return [
        PaymentLeaf(
            order_hash=receipt.order_hash,
            line=receipt.unit,
            evidence_hash=receipt.compute_struct_hash(),
            price=receipt.price,
        )
        for receipt in _make_receipts()
    ]


def _make_attestation(verdict: Verdict) -> Attestation:
    return Attestation(
        receipt_hash=_make_receipts()[1].compute_struct_hash(),
        verdict=int(verdict),
        evidence_hash=keccak256(b"evidence"),
        issued_at=1_800_000_000,
    )


def _make_assignment(order: Order) -> Assignment:
    return Assignment(
        order_hash=order.compute_struct_hash(),
        unit=order.units,
        provider=order.provider,
        max_price=order.max_unit_price,
        reserved_until=order.settle_by,
    )


def _make_acceptance(receipt: Receipt) -> Acceptance:
    return Acceptance(receipt_hash=receipt.compute_struct_hash())


def _make_claim(number: int) -> Claim:
    return Claim(payee=_address("payee"), to=_address("cold"), nonce=number, deadline=number)


def _describe_document(text: str) -> dict[str, str]:
    note = Note(text=text)
    return {
        "kind": note.KIND,
        "contentHash": _hex(compute_content_hash(note)),
        **_describe_hashes(note),
    }


def _describe_signature(secret: int) -> dict[str, str]:
    order = _make_orders()[1]
    signed = PrivateKey(secret.to_bytes(32, "big")).sign(order, DOMAIN)
    return {
        "digest": _hex(DOMAIN.compute_digest(order.compute_struct_hash())),
        "signature": _hex(signed.signature),
        "signer": _hex(signed.signer),
    }


def _describe_hashes(value: Signable) -> dict[str, str]:
    struct_hash = value.compute_struct_hash()
    return {"structHash": _hex(struct_hash), "digest": _hex(DOMAIN.compute_digest(struct_hash))}


def _describe_leaf(leaf: PaymentLeaf) -> dict[str, str]:
    return {**_describe_fields(leaf), "hash": _hex(leaf.compute_hash())}


def _describe_promise(value: Any) -> dict[str, str]:
    """Describe a signed struct: its fields, its hash and what is signed."""
    return {**_describe_fields(value), **_describe_hashes(value)}


def _describe_fields(value: msgspec.Struct) -> dict[str, str]:
    """Describe a struct's fields by their Solidity names."""
    described = {}
    for name in value.__struct_fields__:
        head, *rest = name.split("_")
        field = getattr(value, name)
        text = _hex(field) if isinstance(field, bytes) else str(field)
        described[head + "".join(part.title() for part in rest)] = text
    return described


def _describe_tree(size: int) -> dict[str, Any]:
    leaves = [(keccak256(f"leaf {i} of {size}".encode()), 10**i % 999_983) for i in range(size)]
    root, total = compute_sum_root(leaves)
    index = size * 2 // 3
    path = compute_sum_path(leaves, index)
    return {
        "leaves": [{"hash": _hex(leaf), "sum": str(amount)} for leaf, amount in leaves],
        "root": _hex(root),
        "sum": str(total),
        "index": str(index),
        "path": _describe_path(path),
    }


def _describe_path(path: tuple[tuple[bytes, int], ...]) -> list[dict[str, str]]:
    return [{"hash": _hex(sibling), "sum": str(amount)} for sibling, amount in path]


def _describe_seed(sequence: int, nonces: bytes) -> dict[str, str]:
    root, mix_hash = keccak256(b"receipts"), keccak256(b"mix")
    seed = compute_seed(
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        committer=_address("coordinator"),
        sequence=sequence,
        root=root,
        mix_hash=mix_hash,
        nonces=nonces,
    )
    return {
        "committer": _hex(_address("coordinator")),
        "seq": str(sequence),
        "root": _hex(root),
        "mixHash": _hex(mix_hash),
        "nonces": _hex(nonces),
        "seed": _hex(seed),
    }


def _describe_jury_seed(case: int, level: int) -> dict[str, str]:
    jury, mix_hash = _address("jury"), keccak256(b"mix")
    seed = compute_jury_seed(
        chain_id=DOMAIN.chain_id, jury=jury, case=case, level=level, mix_hash=mix_hash
    )
    return {
        "jury": _hex(jury),
        "case": str(case),
        "level": str(level),
        "mixHash": _hex(mix_hash),
        "seed": _hex(seed),
    }


def _describe_commitment(block: int) -> dict[str, str]:
    """Describe what the contract keeps of a commitment before and after its seed is fixed."""
    root, nonce_hash, data_hash = (keccak256(name) for name in (b"root", b"nonces", b"data"))
    seed = keccak256(b"seed")
    unseeded = compute_commitment_hash(
        root=root, nonce_hash=nonce_hash, data_hash=data_hash, block=block
    )
    seeded = compute_commitment_hash(
        root=root, nonce_hash=nonce_hash, data_hash=data_hash, block=block, seed=seed
    )
    return {
        "root": _hex(root),
        "nonceHash": _hex(nonce_hash),
        "dataHash": _hex(data_hash),
        "blockNumber": str(block),
        "seed": _hex(seed),
        "unseeded": _hex(unseeded),
        "seeded": _hex(seeded),
    }


def _describe_header(extra_data: bytes) -> dict[str, str]:
    """Describe a header with the 21 fields of Prague."""
    mix_hash = keccak256(b"mix" + extra_data)
    number, gas_limit, gas_used, timestamp, base_fee = 1234, 30_000_000, 21_000, 1_800_000_000, 7
    before: list[bytes | int] = [keccak256(b"parent"), keccak256(b"ommers"), bytes(20)]
    before += [keccak256(name) for name in (b"state", b"transactions", b"receipts")]
    before += [bytes(256), 0, number, gas_limit, gas_used, timestamp, extra_data]
    after: list[bytes | int] = [
        bytes(8),
        base_fee,
        keccak256(b"withdrawals"),
        0,
        0,
        keccak256(b"beacon"),
    ]
    header = rlp.encode([*before, mix_hash, *after, keccak256(b"requests")])
    return {"rlp": _hex(header), "hash": _hex(keccak256(header)), "mixHash": _hex(mix_hash)}


def _describe_batch(counts: tuple[int, ...]) -> dict[str, Any]:
    """Describe a batch: its lanes and leaves, what the contract keeps, and every opening."""
    lanes = tuple(_make_lane(number, count) for number, count in enumerate(counts))
    packed = pack_lanes(lanes)
    batch = PostedBatch(
        coordinator=_address("coordinator"),
        sequence=0,
        posted_at=POSTED_AT,
        data_hash=keccak256(b"document"),
        root=packed.root,
        requesters=packed.requesters,
        payees=packed.payees,
        lanes=packed.lanes,
    )
    return {
        "postedAt": str(batch.posted_at),
        "dataHash": _hex(batch.data_hash),
        "root": _hex(batch.root),
        "requesters": [_hex(party) for party in batch.requesters],
        "payees": [_hex(party) for party in batch.payees],
        "lanes": _hex(batch.lanes),
        "commitment": _hex(batch.compute_hash()),
        "openings": [
            _describe_opening(lanes, number, index)
            for number, count in enumerate(counts)
            for index in range(1 << (count - 1).bit_length())
        ],
    }


def _make_lane(number: int, count: int) -> Lane:
    # Two lanes share a requester, and each payee is paid in the order of nobody's name.
    return Lane(
        requester=_address(f"requester {number // 2}"),
        payee=_address(f"payee {number}"),
        leaves=tuple(
            PaymentLeaf(
                order_hash=keccak256(f"order {number}".encode()),
                line=index,
                evidence_hash=keccak256(f"evidence {number} {index}".encode()),
                # Free lines and free lanes are lines and lanes.
                price=1_000 * number * index,
            )
            for index in range(count)
        ),
    )


def _describe_opening(lanes: tuple[Lane, ...], lane: int, index: int) -> dict[str, Any]:
    opening = make_opening(lanes, lane, index)
    return {
        "lane": str(lane),
        "index": str(index),
        "requester": _hex(lanes[lane].requester),
        "payee": _hex(lanes[lane].payee),
        "laneAmount": str(lanes[lane].amount),
        **_describe_leaf(opening.leaf),
        "path": _describe_path(opening.path),
    }


def _list_faults() -> list[dict[str, str]]:
    """Describe every fault, each side of each bound, and which fault comes first."""
    order = _make_orders()[1]
    order_hash = order.compute_struct_hash()
    fee = {"line": order.fee_line, "evidence_hash": compute_fee_evidence(order_hash)}
    fee_to = {"payee": order.coordinator}
    check_cap, unit_cap = order.max_check_price, order.max_unit_price
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({}, {"price": unit_cap}),
        ({}, {"price": unit_cap + 1}),
        ({}, {"line": order.units - 1, "price": unit_cap}),
        ({"payee": _address("verifier")}, {"line": order.units, "price": check_cap}),
        ({"payee": _address("verifier")}, {"line": order.units, "price": check_cap + 1}),
        ({"payee": _address("verifier")}, {"line": order.fee_line - 1, "price": check_cap}),
        (fee_to, {**fee, "price": order.max_fee}),
        (fee_to, {**fee, "price": order.max_fee + 1}),
        ({}, fee),
        (fee_to, {**fee, "evidence_hash": order_hash}),
        (fee_to, {**fee, "line": order.fee_line + 1}),
        (fee_to, {**fee, "line": U32_MAX}),
        ({"requester": _address("x")}, {}),
        ({"coordinator": _address("x")}, {}),
        ({"payee": _address("x")}, {}),
        ({"posted_at": order.settle_by}, {}),
        ({"posted_at": order.settle_by + 1}, {}),
        ({"posted_at": order.settle_by + 1, "payee": _address("x")}, {"price": U64_MAX}),
        ({"posted_at": order.settle_by + 1}, {"price": U64_MAX}),
        ({"posted_at": order.settle_by + 1}, fee),
        ({"requester": _address("x"), "coordinator": _address("x")}, {"line": U32_MAX}),
        ({"coordinator": _address("x")}, {"line": U32_MAX}),
    ]
    return [_describe_fault(order, place, leaf) for place, leaf in cases]


def _describe_fault(order: Order, place: dict[str, Any], leaf: dict[str, Any]) -> dict[str, str]:
    usual_place: dict[str, Any] = {
        "coordinator": order.coordinator,
        "sequence": 0,
        "posted_at": order.settle_by - 1,
        "lane": 0,
        "index": 0,
        "requester": order.requester,
        "payee": order.provider,
        "lane_amount": U64_MAX,
    }
    usual_leaf: dict[str, Any] = {
        "order_hash": order.compute_struct_hash(),
        "line": 0,
        "evidence_hash": keccak256(b"receipt"),
        "price": 1,
    }
    at, paid = Place(**(usual_place | place)), PaymentLeaf(**(usual_leaf | leaf))
    return {
        "coordinator": _hex(at.coordinator),
        "postedAt": str(at.posted_at),
        "requester": _hex(at.requester),
        "payee": _hex(at.payee),
        **_describe_leaf(paid),
        "fault": str(int(find_leaf_fault(at, paid, order))),
    }


def _describe_slash(taken: int, *, has_harmed: bool, jurors: int) -> dict[str, str]:
    split = split_slash(taken, challenge_bond=CHALLENGE_BOND, has_harmed=has_harmed, jurors=jurors)
    return {
        "taken": str(taken),
        "challengeBond": str(CHALLENGE_BOND),
        "harmed": str(int(has_harmed)),
        "jurors": str(jurors),
        "toReporter": str(split.to_reporter),
        "toHarmed": str(split.to_harmed),
        "toEachJuror": str(split.to_each_juror),
        "burnt": str(split.burnt),
    }


def _address(name: str) -> bytes:
    return keccak256(name.encode())[12:]


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


if __name__ == "__main__":
    main()
