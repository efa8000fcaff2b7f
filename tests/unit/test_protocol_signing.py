"""Promises: our digests are those of EIP-712, and only the one honest signature counts."""

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.keccak import hash_keccak
from gpumarket.protocol.order import CancelOrder, Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import (
    Document,
    Domain,
    PrivateKey,
    Signed,
    recover_signer,
    verify,
)
from gpumarket.testing import factories
from gpumarket.testing.factories import DOMAIN, change, make_address, make_hash, make_key, sign

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ORDER_FIELDS = {
    "requester": "address", "coordinator": "address", "provider": "address",
    "jobHash": "bytes32", "verifyHash": "bytes32", "units": "uint32", "checks": "uint32",
    "maxUnitPrice": "uint64", "maxCheckPrice": "uint64", "maxFee": "uint64",
    "settleBy": "uint64", "expiry": "uint64", "nonce": "uint256",
}  # fmt: skip
RECEIPT_FIELDS = {
    "orderHash": "bytes32", "unit": "uint32", "provider": "address", "resultHash": "bytes32",
    "price": "uint64", "finishedAt": "uint64",
}  # fmt: skip
ATTESTATION_FIELDS = {
    "receiptHash": "bytes32", "verdict": "uint8", "evidenceHash": "bytes32", "issuedAt": "uint64",
}  # fmt: skip
DOCUMENT_FIELDS = {"kind": "string", "contentHash": "bytes32"}
PROMISES: dict[str, tuple[Any, dict[str, str]]] = {
    "Order": (factories.make_order(max_fee=7), ORDER_FIELDS),
    "Receipt": (factories.make_receipt(), RECEIPT_FIELDS),
    "Attestation": (factories.make_attestation(), ATTESTATION_FIELDS),
    "Document": (factories.make_offer(), DOCUMENT_FIELDS),
}


def snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name)


def describe(name: str, value: Any, fields: dict[str, str]) -> dict[str, Any]:
    """Write a promise as wallets do."""
    if isinstance(value, Document):
        message: dict[str, Any] = {"kind": value.KIND, "contentHash": compute_content_hash(value)}
    else:
        message = {field: getattr(value, snake(field)) for field in fields}
    for field, kind in fields.items():
        if kind == "address":
            message[field] = "0x" + message[field].hex()
        if kind == "uint256":
            message[field] = int.from_bytes(message[field], "big")
    domain = {"name": "string", "version": "string", "chainId": "uint256"}
    domain |= {"verifyingContract": "address"}
    return {
        "types": {
            "EIP712Domain": [{"name": key, "type": kind} for key, kind in domain.items()],
            name: [{"name": key, "type": kind} for key, kind in fields.items()],
        },
        "primaryType": name,
        "domain": {
            "name": "gpumarket",
            "version": "1",
            "chainId": DOMAIN.chain_id,
            "verifyingContract": "0x" + DOMAIN.contract.hex(),
        },
        "message": message,
    }


@pytest.mark.parametrize("name", PROMISES)
def test_a_wallet_signs_the_same_digest_and_the_same_bytes(name: str) -> None:
    value, fields = PROMISES[name]
    signable = encode_typed_data(full_message=describe(name, value, fields))
    secret = b"\x07" * 32
    theirs = Account.sign_message(signable, secret)
    ours = PrivateKey(secret).sign(value, DOMAIN)
    assert bytes(theirs.signature) == ours.signature
    assert Account.recover_message(signable, signature=ours.signature).lower() == (
        "0x" + ours.signer.hex()
    )


def test_an_honest_signature_verifies_and_keeps_its_value() -> None:
    signed = sign(factories.make_order(), "requester")
    verified = verify(signed, DOMAIN)
    assert (verified.body, verified.signer) == (signed.body, make_address("requester"))
    assert verified.as_signed() == signed


def get_digest(value: Any) -> bytes:
    return DOMAIN.compute_digest(value.compute_struct_hash())


def test_the_malleable_twin_of_a_signature_is_refused() -> None:
    order = factories.make_order()
    signature = sign(order, "requester").signature
    s = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    assert recover_signer(get_digest(order), signature) == make_address("requester")
    assert recover_signer(get_digest(order), twin) is None


@pytest.mark.parametrize(
    "signature",
    [
        bytes(65),
        bytes(64) + b"\x1b",
        bytes(31) + b"\x01" + bytes(32) + b"\x1b",
        b"\xff" * 32 + bytes(31) + b"\x01\x1b",
        b"",
        b"\x01" * 64,
        b"\x01" * 66,
    ],
    ids=["zero", "zero r and s", "zero s", "r beyond the curve", "empty", "short", "long"],
)
def test_a_malformed_signature_is_nobodys(signature: bytes) -> None:
    assert recover_signer(make_hash("digest"), signature) is None
    order = Signed(body=factories.make_order(), signer=bytes(20), signature=signature)
    with pytest.raises(RemoteProtocolError):
        verify(order, DOMAIN)


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_v_is_27_or_28_and_nothing_else(v: int) -> None:
    order = factories.make_order()
    signature = sign(order, "requester").signature[:64] + bytes([v])
    assert recover_signer(get_digest(order), signature) is None


@pytest.mark.parametrize(
    "domain",
    [Domain(chain_id=1, contract=DOMAIN.contract), Domain(chain_id=31337, contract=b"\x01" * 20)],
    ids=["another chain", "another contract"],
)
def test_a_promise_counts_under_its_own_domain_only(domain: Domain) -> None:
    with pytest.raises(RemoteProtocolError):
        verify(sign(factories.make_order(), "requester"), domain)


class Other(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same content as a cancellation, of another kind."""

    KIND = "gpumarket.other.v1"

    order_hash: bytes


def test_a_signature_of_one_kind_of_document_does_not_serve_another() -> None:
    content = make_hash("order")
    signed = sign(CancelOrder(order_hash=content), "requester")
    other = Other(order_hash=content)
    assert compute_content_hash(other) == compute_content_hash(signed.body)
    with pytest.raises(RemoteProtocolError):
        verify(Signed(body=other, signer=signed.signer, signature=signed.signature), DOMAIN)


@pytest.mark.parametrize("field", Order.__struct_fields__)
def test_every_field_of_an_order_is_signed(field: str) -> None:
    assert_is_signed(factories.make_order(), field)


@pytest.mark.parametrize("field", Receipt.__struct_fields__)
def test_every_field_of_a_receipt_is_signed(field: str) -> None:
    assert_is_signed(factories.make_receipt(), field)


def assert_is_signed(value: Any, field: str) -> None:
    before = getattr(value, field)
    after = before + 1 if isinstance(before, int) else bytes([before[0] ^ 1]) + before[1:]
    assert change(value, **{field: after}).compute_struct_hash() != value.compute_struct_hash()


def test_a_key_shows_its_address_and_never_its_bytes() -> None:
    key = make_key("requester")
    assert key.address == make_address("requester")
    secret = key._key.secret
    assert secret not in repr(key).encode()
    assert secret.hex() not in repr(vars(key))


@pytest.mark.parametrize("size", [0, 1, 31, 32, 64, 65, 135, 136, 137, 272, 10_000])
def test_a_second_library_hashes_alike(size: int) -> None:
    data = bytes(each % 251 for each in range(size))
    assert hash_keccak(data) == keccak(data)
