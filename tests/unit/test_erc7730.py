"""What a wallet shows before it signs: ERC-7730 descriptors, held to the ABI and signed types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.artifacts import load_artifact

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "contracts" / "erc7730"
CONTRACTS = ("Settlement", "Disputes", "Jury")
FILES = (*(f"calldata-{name}" for name in CONTRACTS), "eip712-gpumarket")
JUDGES_ONLY = {"take", "give", "holdForJury", "endHold"}
"""Calls that the contracts make to each other and refuse from anybody else."""

MONEY = {
    "amount", "price", "maxUnitPrice", "maxCheckPrice", "maxFee", "maxPrice", "laneAmount", "sums",
}  # fmt: skip
DATES = {
    "deadline", "notAfter", "settleBy", "expiry", "finishedAt", "issuedAt", "reservedUntil",
    "postedAt",
}  # fmt: skip
COUNTS = {
    "id", "seq", "lane", "index", "line", "unit", "units", "checks", "seat", "eligible",
    "blockNumber", "nonce", "v",
}  # fmt: skip
"""Every number is money, a date, a verdict or one of these; a new one must be put somewhere."""
TOKEN = {"token": "$.metadata.constants.token"}


@cache
def load(name: str) -> dict[str, Any]:
    descriptor: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return descriptor


def write_type(item: dict[str, Any]) -> str:
    """Return `type name` as ERC-7730 keys want it: tuples in brackets, no space but this one."""
    kind = item["type"]
    if kind.startswith("tuple"):
        kind = f"({','.join(write_type(part) for part in item['components'])}){kind[5:]}"
    return f"{kind} {item['name']}"


def list_leaves(items: list[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and type of each value that is no struct, with `.[]` where an array is."""
    for item in items:
        kind = item["type"]
        path = prefix + item["name"] + (".[]" if kind.endswith("[]") else "")
        if kind.startswith("tuple"):
            yield from list_leaves(item["components"], f"{path}.")
        else:
            yield path, kind.removesuffix("[]")


def list_expected(name: str) -> dict[str, list[tuple[str, str]]]:
    """Return what a descriptor must describe: its keys, and the paths and types under each."""
    if name == "eip712-gpumarket":
        source = (ROOT / "contracts/src/libraries/Hashing.sol").read_text()
        types = re.findall(r'_TYPEHASH\s*=\s*keccak256\(\s*"([^"]+)"', source)
        assert len(types) == 7, "a signed type was added or taken away"
        return {
            text: [
                (field.split()[1], field.split()[0]) for field in text[:-1].split("(")[1].split(",")
            ]
            for text in types
        }
    entries = load_artifact(name.removeprefix("calldata-"))["abi"]
    return {
        f"{entry['name']}({','.join(write_type(item) for item in entry['inputs'])})": list(
            list_leaves(entry["inputs"])
        )
        for entry in entries
        if entry["type"] == "function"
        and entry["stateMutability"] not in ("view", "pure")
        and entry["name"] not in JUDGES_ONLY
    }


@pytest.mark.parametrize("name", FILES)
def test_every_call_and_type_is_described_and_nothing_else(name: str) -> None:
    assert set(load(name)["display"]["formats"]) == set(list_expected(name))


@pytest.mark.parametrize("name", FILES)
def test_every_field_is_described_once(name: str) -> None:
    formats = load(name)["display"]["formats"]
    for key, leaves in list_expected(name).items():
        paths = [field["path"] for field in formats[key]["fields"]]
        assert paths == [path for path, _ in leaves], key


@pytest.mark.parametrize("name", FILES)
def test_every_field_is_shown_as_what_it_is(name: str) -> None:
    display = load(name)["display"]
    for key, leaves in list_expected(name).items():
        for (path, kind), field in zip(leaves, display["formats"][key]["fields"], strict=True):
            word = path.removesuffix(".[]").split(".")[-1]
            shown = find_definition(display, field)
            where = f"{key}: {path}"
            assert shown["label"], where
            if kind == "address":
                assert shown["format"] == "addressName", where
            elif word == "verdict":
                assert shown["format"] == "enum", where
            elif word in MONEY:
                assert (shown["format"], shown["params"]) == ("tokenAmount", TOKEN), where
            elif word in DATES:
                expected = ("date", {"encoding": "timestamp"})
                assert (shown["format"], shown["params"]) == expected, where
            else:
                assert word in COUNTS or not kind.startswith("uint"), f"what is {where}?"
                assert shown["format"] == "raw", where


@pytest.mark.parametrize("name", FILES)
def test_money_people_and_dates_are_never_hidden(name: str) -> None:
    display = load(name)["display"]
    for key, form in display["formats"].items():
        for field in form["fields"]:
            shown = find_definition(display, field)
            is_proof = field["path"].endswith("sums.[]")
            if shown["format"] in ("tokenAmount", "date", "enum") and not is_proof:
                assert "visible" not in shown, f"{key}: {field['path']}"
            if shown["format"] == "addressName":
                assert shown.get("visible") != "never", f"{key}: {field['path']}"


@pytest.mark.parametrize("name", FILES)
def test_sentences_name_fields_that_are_shown(name: str) -> None:
    display = load(name)["display"]
    for key, form in display["formats"].items():
        assert form["intent"], key
        shown = {
            field["path"]
            for field in form["fields"]
            if "visible" not in find_definition(display, field)
        }
        assert set(re.findall(r"{([^}]*)}", form.get("interpolatedIntent", ""))) <= shown, key


@pytest.mark.parametrize("name", FILES)
def test_definitions_are_used_and_references_lead_somewhere(name: str) -> None:
    descriptor = load(name)
    display = descriptor["display"]
    used = {
        field["$ref"].removeprefix("$.display.definitions.")
        for form in display["formats"].values()
        for field in form["fields"]
    }
    assert used == set(display["definitions"])
    for definition in display["definitions"].values():
        for value in definition.get("params", {}).values():
            if isinstance(value, str) and value.startswith("$."):
                follow(descriptor, value)


@pytest.mark.parametrize("name", FILES)
def test_the_outside_is_as_the_standard_says(name: str) -> None:
    descriptor = load(name)
    assert set(descriptor) == {"$schema", "context", "metadata", "display"}
    assert descriptor["$schema"].endswith("erc7730-v2.schema.json")
    assert set(descriptor["display"]) == {"definitions", "formats"}
    for form in descriptor["display"]["formats"].values():
        assert set(form) <= {"intent", "interpolatedIntent", "fields"}
        for field in form["fields"]:
            assert set(field) == {"path", "$ref"}
    for definition in descriptor["display"]["definitions"].values():
        assert set(definition) <= {"label", "format", "params", "visible"}
        assert definition.get("visible", "optional") in ("optional", "never")
    (kind,) = set(descriptor["context"]) - {"$id"}
    assert kind == ("eip712" if name.startswith("eip712") else "contract")
    # Where the contracts are is written by scripts/deploy.
    assert descriptor["context"][kind]["deployments"] == [{"chainId": 0, "address": ZERO}]


def test_signed_documents_belong_to_this_domain() -> None:
    context = load("eip712-gpumarket")["context"]["eip712"]
    assert context["domain"] == {"name": "gpumarket", "version": "1"}


@pytest.mark.parametrize("name", FILES)
def test_verdicts_have_words(name: str) -> None:
    enums = load(name)["metadata"].get("enums")
    if "verdict" in load(name)["display"]["definitions"]:
        assert enums == {
            "verdict": {"0": "None", "1": "Match", "2": "Mismatch", "3": "Inconclusive"}
        }
    else:
        assert enums is None


ZERO = "0x" + "0" * 40


def find_definition(display: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """Return how a field is shown."""
    name = field["$ref"].removeprefix("$.display.definitions.")
    shown: dict[str, Any] = display["definitions"][name]
    return shown


def follow(descriptor: dict[str, Any], path: str) -> object:
    """Return what a `$` path leads to; fails where it leads nowhere."""
    value: Any = descriptor
    for part in path.removeprefix("$.").split("."):
        value = value[part]
    return value
