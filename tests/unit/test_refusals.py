"""Every error of the contracts becomes a sentence, with the code of a page that exists."""

from __future__ import annotations

from typing import Any

import pytest

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain_errors import (
    ContractRefusal,
    ContractRefused,
    decode_refusal,
    index_errors,
)
from gpumarket.adapters.refusals import ROWS, explain_refusal
from gpumarket.protocol.catalog import find_entry

CONTRACTS = ("Settlement", "Disputes", "Jury")
SAMPLES: dict[str, Any] = {
    "address": bytes(range(20)),
    "bytes32": b"provider".ljust(32, b"\0"),
    "string": "x",
}


def list_errors() -> dict[str, list[dict[str, Any]]]:
    return {
        entry["name"]: entry["inputs"]
        for name in CONTRACTS
        for entry in load_artifact(name)["abi"]
        if entry["type"] == "error"
    }


@pytest.mark.parametrize("name", sorted(list_errors()))
def test_every_error_of_the_contracts_has_words_and_a_page(name: str) -> None:
    args = {item["name"]: SAMPLES.get(item["type"], 1) for item in list_errors()[name]}
    words = explain_refusal(name, args)
    assert words is not None
    assert find_entry(words.code) is not None
    assert words.text != name, "the row asks for values that the error does not have"
    assert "{" not in words.text + words.why


def test_no_row_outlives_its_error() -> None:
    assert set(ROWS) == set(list_errors())


def test_an_unknown_error_stays_itself() -> None:
    assert explain_refusal("Unheard", {}) is None
    refused = ContractRefused(ContractRefusal("Unheard", {"x": 1}), money="nothing was moved")
    assert refused.message == "the contract refuses: Unheard(x=1)"


def test_values_of_another_error_are_not_trusted() -> None:
    words = explain_refusal("StillLocked", {"until": 5})
    assert words is not None
    assert (words.text, words.why) == ("StillLocked", "")


@pytest.mark.parametrize(
    ("name", "args", "code", "text"),
    [
        (
            "InsufficientBalance",
            {"account": b"\x11" * 20, "needed": 2_500_000, "actual": 1},
            "GM-3011",
            f"0x{'11' * 20} has 0.000001 USDC, 2.500000 USDC is needed",
        ),
        (
            "StillLocked",
            {"unlockAt": 1_800_000_000, "actual": 1_799_999_999},
            "GM-3013",
            "the money is locked until 2027-01-15 08:00:00 UTC",
        ),
        (
            "FaultyLeaf",
            {"fault": 5},
            "GM-3030",
            "the order does not allow this payment: the price is above what was signed",
        ),
        (
            "WrongVerdict",
            {"expected": 1, "actual": 3},
            "GM-3030",
            "the verdict is INCONCLUSIVE, not MATCH",
        ),
        (
            "WrongRole",
            {"expected": 2, "actual": 0},
            "GM-3037",
            "this key is nobody, a verifier is needed",
        ),
        (
            "Expired",
            {"deadline": 2**256 - 1, "actual": 5},
            "GM-3032",
            f"what was signed was valid until {2**256 - 1}",
        ),
    ],
)
def test_a_person_reads_amounts_times_and_names(
    name: str, args: dict[str, Any], code: str, text: str
) -> None:
    words = explain_refusal(name, args)
    assert words is not None
    assert (words.code, words.text) == (code, text)


def test_revert_data_becomes_the_sentence_with_code_money_and_the_error_itself() -> None:
    errors = index_errors(*(load_artifact(name)["abi"] for name in CONTRACTS))
    selector = next(key for key, entry in errors.items() if entry["name"] == "BondTooSmall")
    data = selector + (10**9).to_bytes(32, "big").hex() + (1).to_bytes(32, "big").hex()
    refusal = decode_refusal(data, errors)
    assert refusal is not None
    refused = ContractRefused(refusal, money="nothing was moved")
    assert refused.code == "GM-3036"
    assert refused.message == (
        "the contract refuses: a bond of 0.000001 USDC is too small to post batches"
    )
    assert refused.why == (
        "at least 1000.000000 USDC, without what is being taken out "
        "(BondTooSmall(minimum=1000000000, actual=1))"
    )
    assert refused.money == "nothing was moved"
