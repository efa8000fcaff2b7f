"""`gpumarket job receipt`: what is asked for, what is written, and what a refusal says."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpumarket.cli import main as cli_main
from gpumarket.protocol.catalog import Exit
from gpumarket.protocol.chain_proof import Anchor, BatchClaim, ChainProof, CommitClaim
from gpumarket.protocol.contract_code import ContractClaim
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import change, make_hash
from gpumarket.testing.fake_coordinator import FakeCoordinator
from gpumarket.testing.proofs import make_header, make_settled_job

GOLDEN = Path(__file__).parent.parent / "golden"
JOB = "gm-7f3kq2x4ab"
HEADER = make_header(30)
COMPACT = compact_proof(make_settled_job()[0])


CLAIM = msgspec.convert(
    dict.fromkeys(ContractClaim.__struct_fields__, 0)
    | dict.fromkeys(("token", "disputes", "jury"), bytes(20)),
    ContractClaim,
)


def make_anchored() -> bytes:
    """Return a compact proof with a chain's part; no audit would take it, but it can be read."""
    chain = ChainProof(
        contract=CLAIM,
        commits=tuple(
            CommitClaim(header=make_header(1), data_hash=make_hash("data")) for _ in COMPACT.epochs
        ),
        batches=tuple(BatchClaim(block=30, data_hash=make_hash("x")) for _ in COMPACT.settlements),
        anchors=(Anchor(header=HEADER, accounts=()),),
    )
    return encode_proof(change(COMPACT, chain=chain))


@pytest.fixture(name="market")
def market_fixture(fake: FakeCoordinator, devnet: Path) -> FakeCoordinator:
    fake.jobs[JOB] = {"id": JOB, "state": "settled"}
    return fake


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli_main.run(("job", "receipt", JOB, *argv))
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def expect_golden(name: str, found: Any) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GPUMARKET_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "set GPUMARKET_WRITE_GOLDEN=1 if this change is meant"


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ((), {}),
        (("--compact",), {"form": ["compact"]}),
        (("--anchored",), {"anchors": ["require"]}),
        (("--compact", "--anchored"), {"form": ["compact"], "anchors": ["require"]}),
    ],
)
def test_what_is_wished_for_is_asked_for(
    market: FakeCoordinator,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    asked: dict[str, list[str]],
):
    assert run(capsys, *flags)[0] == 0
    assert market.receipt_queries == [asked]
    assert Path(f"{JOB}.proof.cbor").read_bytes() == market.proof


def test_the_block_to_trust_and_the_statement_are_written(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str]
):
    market.proof = make_anchored()
    flags = ("--compact", "--anchored", "--in-toto", "--output", "proof.cbor")
    code, out, _ = run(capsys, *flags, "--json")
    envelope = json.loads(out)
    assert envelope["data"].pop("bytes") == len(market.proof)
    expect_golden("job-receipt-anchored", {"exit": code, **envelope})
    assert decode_proof_untrusted(Path("proof.cbor").read_bytes()).chain is not None
    statement = json.loads(Path("proof.cbor.intoto.json").read_text())
    (proof,) = statement["predicate"]["runDetails"]["byproducts"]
    assert proof.pop("digest") == {"sha256": hashlib.sha256(market.proof).hexdigest()}
    expect_golden("job-receipt-statement", statement)
    code, out, _ = run(capsys, *flags)
    assert code == 0
    assert (
        f"--trust-block with the hash of block 30, which is {format_hex(keccak256(HEADER))}" in out
    )


def test_a_proof_without_anchors_names_no_block(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str]
):
    market.proof = encode_proof(COMPACT)
    code, out, _ = run(capsys, "--compact", "--json")
    assert (code, set(json.loads(out)["data"])) == (0, {"path", "bytes"})
    assert "trust-block" not in run(capsys)[1]


def test_a_node_that_proves_no_state_is_an_error_and_leaves_no_file(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str]
):
    market.refuse[f"/v1/jobs/{JOB}/receipt"] = {
        "status": 502,
        "code": "GM-3007",
        "detail": "the node does not prove this job's state",
        "why": "missing trie node",
    }
    code, out, err = run(capsys, "--anchored", "--in-toto")
    assert (code, out) == (Exit.MARKET_FAILED, "")
    assert "error[GM-3007]" in err
    assert "missing trie node" in err
    assert list(Path().glob("*.cbor*")) == []
    code, out, _ = run(capsys, "--anchored", "--json")
    (error,) = json.loads(out)["errors"]
    assert (code, error["code"]) == (Exit.MARKET_FAILED, "GM-3007")
