"""Deployment files, parameters and code comparison, without a chain."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.deployment import ContractConfig
from gpumarket.adapters.deployment_rules import (
    CONTRACTS,
    FILE_BYTES_MAX,
    Deployment,
    PlacedContract,
    decode_deployment_untrusted,
    encode_deployment,
    fill_descriptor,
    find_randomness_fault,
    list_faults,
    mask_code,
    parse_parameters,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError

ROOT = Path(__file__).resolve().parents[2]
NAMES = [field.name for field in fields(ContractConfig)]
SHIPPED = (ROOT / "docs" / "deployment.toml").read_text()
GOOD = parse_parameters(SHIPPED, NAMES)
RUNTIME_BYTES_MAX = 24_576
"""EIP-170."""


def make_deployment() -> Deployment:
    return Deployment(
        chain_id=1,
        token="0x" + "aa" * 20,
        token_symbol="USDC",
        token_decimals=6,
        deployer="0x" + "bb" * 20,
        parameters=GOOD,
        contracts={
            name: PlacedContract(
                address=f"0x{number:040x}",
                transaction=f"0x{number:064x}",
                block=number,
                code_hash=f"0x{number:064x}",
            )
            for number, name in enumerate(CONTRACTS, start=1)
        },
    )


# ---- parameters ------------------------------------------------------------------------------


def test_the_shipped_parameters_have_no_fault() -> None:
    assert list(GOOD) == NAMES
    assert list_faults(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("open", 0),
        ("response", 0),
        ("challenge_bond", 0),
        ("jury_bond", 0),
        ("bond_slash", 0),
        ("stake_slash", 0),
        ("seed_delay_blocks", 0),
        ("seed_delay_blocks", 8_191),
        ("nonce_timeout_blocks", 8_191),
        ("min_bond", 4 * GOOD["bond_slash"] - 1),
        ("min_stake", GOOD["stake_slash"] - 1),
        ("epoch", GOOD["open"] + 2 * GOOD["response"] - 1),
        ("exit_delay", 2 * GOOD["epoch"] - 1),
        ("jury_bond", 2**62),
        ("challenge_bond", 2**61),
    ],
)
def test_each_bound_is_held_to_the_last_unit(name: str, value: int) -> None:
    (fault,) = list_faults({**GOOD, name: value})
    assert fault.startswith(f"{name} is {value},")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed_delay_blocks", 8_190),
        ("nonce_timeout_blocks", 8_190),
        ("nonce_timeout_blocks", 0),
        ("min_bond", 4 * GOOD["bond_slash"]),
        ("min_stake", GOOD["stake_slash"]),
        ("epoch", GOOD["open"] + 2 * GOOD["response"]),
        ("exit_delay", 2 * GOOD["epoch"]),
        ("jury_bond", 2**62 - 1),
    ],
)
def test_what_just_fits_is_taken(name: str, value: int) -> None:
    assert list_faults({**GOOD, name: value}) == []


def test_all_faults_are_told_at_once() -> None:
    text = SHIPPED.replace("epoch =", "epocs =").replace("open = 86_400", 'open = "a day"')
    with pytest.raises(InvalidInput) as caught:
        parse_parameters(text, NAMES)
    assert caught.value.why == (
        "epoch is missing; epocs is no parameter; open must be a whole number of at most 64 bits"
    )
    assert caught.value.money == "nothing was sent and no gas was spent"


@pytest.mark.parametrize("value", ["-1", "18446744073709551616", "true", "1.5"])
def test_only_whole_numbers_of_64_bits(value: str) -> None:
    text = SHIPPED.replace("open = 86_400", f"open = {value}")
    with pytest.raises(InvalidInput, match="1 faults"):
        parse_parameters(text, NAMES)


def test_what_is_not_toml_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not TOML"):
        parse_parameters("[contract", NAMES)


@pytest.mark.parametrize(
    ("mix_hashes", "expected"),
    [
        ([b"a" * 32, b"b" * 32], ""),
        ([b"a" * 32, b"b" * 32, b"c" * 32], ""),
        ([b"a" * 32], "too few"),
        ([bytes(32), b"b" * 32], "has none"),
        ([b"a" * 32, b"b" * 32, b"a" * 32], "the same"),
    ],
)
def test_a_chain_without_randomness_is_told(mix_hashes: list[bytes], expected: str) -> None:
    fault = find_randomness_fault(mix_hashes)
    assert (expected in fault) if expected else fault == ""


def test_an_unsafe_file_is_refused() -> None:
    text = SHIPPED.replace("exit_delay = 864_000", "exit_delay = 518_399")
    with pytest.raises(InvalidInput) as caught:
        parse_parameters(text, NAMES)
    assert "exit_delay is 518399, at least 518400 is needed" in caught.value.why


# ---- the file --------------------------------------------------------------------------------


def test_a_deployment_file_comes_back_as_it_was() -> None:
    deployment = make_deployment()
    assert decode_deployment_untrusted(encode_deployment(deployment)) == deployment


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b" " * (FILE_BYTES_MAX + 1),
        encode_deployment(make_deployment()).replace(b'"Jury"', b'"Judge"'),
        encode_deployment(make_deployment()).replace(b"0x" + b"aa" * 20, b"0x" + b"aa" * 19),
        encode_deployment(make_deployment()).replace(b"0x" + b"bb" * 20, b"bb" * 21),
        encode_deployment(make_deployment()).replace(f"0x{2:064x}".encode(), b"0xzz"),
        encode_deployment(make_deployment()).replace(b'"chain_id": 1', b'"chain_id": -1'),
        encode_deployment(make_deployment()).replace(b'"USDC"', b'"US\\u001b[2JDC"'),
        encode_deployment(make_deployment()).replace(b'"USDC"', b'"' + b"U" * 33 + b'"'),
        encode_deployment(make_deployment()).replace(b'"epoch"', b'"e\\u001b[2J"'),
    ],
)
def test_what_is_no_deployment_file_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_deployment_untrusted(raw)


# ---- code ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACTS)
def test_artifacts_know_where_their_immutables_are(name: str) -> None:
    artifact = load_artifact(name)
    runtime = bytes.fromhex(artifact["runtime"][2:])
    assert 0 < len(runtime) <= RUNTIME_BYTES_MAX
    assert artifact["immutables"]
    assert mask_code(runtime, artifact["immutables"]) == runtime
    # Nothing but immutables is masked: each place lies within, and is one word.
    for place in (each for places in artifact["immutables"].values() for each in places):
        start, length = map(int, place.split("+"))
        assert length == 32
        assert start + length <= len(runtime)


def test_masking_hides_immutables_and_nothing_else() -> None:
    code = bytes(range(1, 11))
    assert mask_code(code, {"LIMIT": ["2+3"]}) == bytes([1, 2, 0, 0, 0, 6, 7, 8, 9, 10])
    assert mask_code(code, {}) == code
    # Shorter code stays as long as it is, and so differs.
    assert mask_code(code, {"LIMIT": ["8+32"]}) == bytes([*range(1, 9), 0, 0])


# ---- what wallets show -----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "contracts/erc7730").glob("*.json")))
def test_descriptors_get_the_addresses_of_the_deployment(path: Path) -> None:
    deployment = make_deployment()
    source = json.loads(path.read_text())
    filled = fill_descriptor(path.stem, source, deployment)
    kind, _, contract = path.stem.partition("-")
    name = contract if kind == "calldata" else "Settlement"
    key = "contract" if kind == "calldata" else "eip712"
    place = {"chainId": 1, "address": deployment.contracts[name].address}
    assert filled["context"][key]["deployments"] == [place]
    if "constants" in source["metadata"]:
        assert filled["metadata"]["constants"] == {"token": deployment.token}
    assert filled["display"] == source["display"]
    assert "0x" + "0" * 40 not in json.dumps(filled)
