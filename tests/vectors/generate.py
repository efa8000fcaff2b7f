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

import rlp

from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.settlement import PaymentLeaf, compute_sum_path, compute_sum_root
from gpumarket.protocol.signing import Document, Domain, PrivateKey, Signable, keccak256

VECTORS = Path(__file__).with_name("settlement.json")
DOMAIN = Domain(chain_id=31337, contract=bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3"))
U32_MAX, U64_MAX = 2**32 - 1, 2**64 - 1
TREE_SIZES = (1, 2, 3, 4, 5, 8, 9, 17)


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
        "orders": [_describe_order(order) for order in _make_orders()],
        "receipts": [_describe_receipt(receipt) for receipt in _make_receipts()],
        "attestations": [_describe_attestation(verdict) for verdict in Verdict],
        "documents": [_describe_document(text) for text in ("", "a note", "naïve ✓")],
        "signatures": [_describe_signature(secret) for secret in (1, 0xA11CE)],
        "leaves": [_describe_leaf(leaf) for leaf in _make_leaves()],
        "trees": [_describe_tree(size) for size in TREE_SIZES],
        "seeds": [_describe_seed(0, b""), _describe_seed(U64_MAX, b"two nonces")],
        "headers": [_describe_header(b""), _describe_header(b"extra data of a block")],
        "batches": [_describe_batch(1), _describe_batch(3)],
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


def _describe_order(order: Order) -> dict[str, str]:
    return {
        "requester": _hex(order.requester),
        "coordinator": _hex(order.coordinator),
        "provider": _hex(order.provider),
        "jobHash": _hex(order.job_hash),
        "verifyHash": _hex(order.verify_hash),
        "units": str(order.units),
        "checks": str(order.checks),
        "maxUnitPrice": str(order.max_unit_price),
        "maxCheckPrice": str(order.max_check_price),
        "maxFee": str(order.max_fee),
        "settleBy": str(order.settle_by),
        "expiry": str(order.expiry),
        "nonce": _hex(order.nonce),
        **_describe_hashes(order),
    }


def _describe_receipt(receipt: Receipt) -> dict[str, str]:
    return {
        "orderHash": _hex(receipt.order_hash),
        "unit": str(receipt.unit),
        "provider": _hex(receipt.provider),
        "resultHash": _hex(receipt.result_hash),
        "price": str(receipt.price),
        "finishedAt": str(receipt.finished_at),
        **_describe_hashes(receipt),
    }


def _describe_attestation(verdict: Verdict) -> dict[str, str]:
    attestation = Attestation(
        receipt_hash=_make_receipts()[1].compute_struct_hash(),
        verdict=int(verdict),
        evidence_hash=keccak256(b"evidence"),
        issued_at=1_800_000_000,
    )
    return {
        "receiptHash": _hex(attestation.receipt_hash),
        "verdict": str(attestation.verdict),
        "evidenceHash": _hex(attestation.evidence_hash),
        "issuedAt": str(attestation.issued_at),
        **_describe_hashes(attestation),
    }


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
    return {
        "orderHash": _hex(leaf.order_hash),
        "unit": str(leaf.line),
        "receiptHash": _hex(leaf.evidence_hash),
        "price": str(leaf.price),
        "hash": _hex(leaf.compute_hash()),
    }


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
        "path": [{"hash": _hex(sibling), "sum": str(amount)} for sibling, amount in path],
    }


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


def _describe_batch(count: int) -> dict[str, Any]:
    """Describe a batch: how lanes are packed, and the commitment that the contract stores."""
    requesters = [_address(f"requester {i}") for i in range(count)]
    payees = [_address(f"payee {i}") for i in range(count)]
    lanes = b""
    for i in range(count):
        lanes += i.to_bytes(2, "big") + (count - 1 - i).to_bytes(2, "big")
        lanes += (i + 1).to_bytes(4, "big") + (10**6 * i).to_bytes(8, "big")
    posted_at, data_hash, root = 1_800_000_000, keccak256(b"document"), keccak256(b"root")
    # abi.encode(uint64, bytes32, bytes32, address[], address[], bytes)
    list_words = 1 + count
    encoded = _word(posted_at) + data_hash + root
    encoded += _word(32 * 6) + _word(32 * (6 + list_words)) + _word(32 * (6 + 2 * list_words))
    for parties in (requesters, payees):
        encoded += _word(count) + b"".join(bytes(12) + party for party in parties)
    encoded += _word(len(lanes)) + lanes + bytes(-len(lanes) % 32)
    return {
        "postedAt": str(posted_at),
        "dataHash": _hex(data_hash),
        "root": _hex(root),
        "requesters": [_hex(party) for party in requesters],
        "payees": [_hex(party) for party in payees],
        "lanes": _hex(lanes),
        "commitment": _hex(keccak256(encoded)),
    }


def _address(name: str) -> bytes:
    return keccak256(name.encode())[12:]


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


if __name__ == "__main__":
    main()
