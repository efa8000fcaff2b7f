"""Approvals: whose word counts for a receipt, and that what a provider keeps stays and is right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.approvals import FOLDER_NAME, ApprovalFolder
from gpumarket.protocol.approvals import (
    Approval,
    Approvals,
    check_approval,
    decode_approvals_untrusted,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.codec import to_dag_json
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.signing import Domain
from gpumarket.testing.factories import (
    DOMAIN,
    change,
    make_address,
    make_attestation,
    make_hash,
    make_order,
    make_receipt,
    sign,
)

ORDER = make_order()
RECEIPT = sign(make_receipt(), "provider-1")
NAME = RECEIPT.body.compute_struct_hash()
ACCEPTANCE = sign(Acceptance(receipt_hash=NAME), "requester")
MATCH = sign(make_attestation(receipt_hash=NAME), "verifier-1")
ACCEPTED = Approval(receipt=RECEIPT, acceptance=ACCEPTANCE)
ATTESTED = Approval(receipt=RECEIPT, attestation=MATCH)
OTHER = make_receipt(unit=1)
MARKET_2 = Domain(chain_id=31337, contract=make_address("another contract"))
SPOILED: dict[str, Any] = {
    "a receipt of another order": {
        "receipt": sign(change(OTHER, order_hash=make_hash("x")), "provider-1")
    },
    "another provider's name": {"receipt": sign(RECEIPT.body, "provider-2")},
    "a receipt that nobody signed": {"receipt": change(RECEIPT, signature=bytes(65))},
    "nobody's word": {"acceptance": None},
    "a stranger's acceptance": {"acceptance": sign(ACCEPTANCE.body, "bob")},
    "a forged acceptance": {"acceptance": change(ACCEPTANCE, signature=bytes(65))},
    "an acceptance elsewhere": {"acceptance": sign(ACCEPTANCE.body, "requester", domain=MARKET_2)},
    "an acceptance of another receipt": {
        "acceptance": sign(Acceptance(receipt_hash=OTHER.compute_struct_hash()), "requester")
    },
    "a mismatch": {
        "attestation": sign(change(MATCH.body, verdict=int(Verdict.MISMATCH)), "verifier-1")
    },
    "a match of another receipt": {
        "attestation": sign(change(MATCH.body, receipt_hash=make_hash("x")), "verifier-1")
    },
    "a provider's own match": {"attestation": sign(MATCH.body, "provider-1")},
    "a forged match": {"attestation": change(MATCH, signature=bytes(65))},
}


def test_a_requesters_and_a_verifiers_word_count() -> None:
    for approval in (ACCEPTED, ATTESTED, ACCEPTED.merge(ATTESTED)):
        check_approval(approval, order=ORDER, domain=DOMAIN)


@pytest.mark.parametrize("name", SPOILED)
def test_no_other_word_counts_nor_lands_on_disk(name: str, tmp_path: Path) -> None:
    spoiled = change(ACCEPTED, **SPOILED[name])
    with pytest.raises(RemoteProtocolError):
        check_approval(spoiled, order=ORDER, domain=DOMAIN)
    folder = ApprovalFolder(tmp_path, domain=DOMAIN)
    with pytest.raises(RemoteProtocolError):
        folder.keep(spoiled, ORDER)
    assert not (tmp_path / FOLDER_NAME).exists()
    # Nor does it count where somebody else has put it there.
    (tmp_path / FOLDER_NAME).mkdir()
    path = tmp_path / FOLDER_NAME / f"{spoiled.receipt_hash.hex()}.json"
    path.write_text(to_dag_json(spoiled))
    assert folder.find(spoiled.receipt_hash, ORDER) is None


def test_what_is_kept_is_found_again_and_kept_once(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path, domain=DOMAIN)
    assert folder.find(NAME, ORDER) is None
    assert folder.keep(ATTESTED, ORDER)
    assert not folder.keep(ATTESTED, ORDER)
    assert folder.keep(ACCEPTED, ORDER)
    later = sign(make_attestation(receipt_hash=NAME, issued_at=1), "verifier-2")
    assert not folder.keep(Approval(receipt=RECEIPT, attestation=later), ORDER)
    again = ApprovalFolder(tmp_path, domain=DOMAIN)
    assert again.find(NAME, ORDER) == ACCEPTED.merge(ATTESTED)
    assert again.find(OTHER.compute_struct_hash(), ORDER) is None
    assert len(list((tmp_path / FOLDER_NAME).iterdir())) == 1


def test_a_file_under_another_receipts_name_is_not_taken(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path, domain=DOMAIN)
    folder.keep(ACCEPTED, ORDER)
    name = OTHER.compute_struct_hash()
    (tmp_path / FOLDER_NAME / f"{NAME.hex()}.json").rename(
        tmp_path / FOLDER_NAME / f"{name.hex()}.json"
    )
    assert folder.find(name, ORDER) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 40, b"x" * 50_000])
def test_noise_is_no_approval(content: bytes, tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path, domain=DOMAIN)
    folder.keep(ATTESTED, ORDER)
    (tmp_path / FOLDER_NAME / f"{NAME.hex()}.json").write_bytes(content)
    assert folder.find(NAME, ORDER) is None
    assert folder.keep(ACCEPTED, ORDER)
    assert folder.find(NAME, ORDER) == ACCEPTED
    with pytest.raises(RemoteProtocolError):
        decode_approvals_untrusted(content)


def test_what_no_order_can_need_any_more_is_swept(tmp_path: Path) -> None:
    folder = ApprovalFolder(tmp_path, domain=DOMAIN)
    assert folder.sweep(before=1e12) == 0
    second = sign(OTHER, "provider-1")
    name = OTHER.compute_struct_hash()
    word = sign(Acceptance(receipt_hash=name), "requester")
    folder.keep(ACCEPTED, ORDER)
    folder.keep(Approval(receipt=second, acceptance=word), ORDER)
    os.utime(tmp_path / FOLDER_NAME / f"{NAME.hex()}.json", (1_000, 1_000))
    assert folder.sweep(before=2_000) == 1
    assert folder.find(NAME, ORDER) is None
    assert folder.find(name, ORDER) is not None


def test_a_file_of_approvals_comes_back_as_it_was() -> None:
    said = Approvals(order=ORDER, approvals=(ACCEPTED, ATTESTED))
    assert decode_approvals_untrusted(to_dag_json(said).encode()) == said
