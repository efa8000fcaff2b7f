"""The audit's facts from a real node and the real contract: an honest job passes, a lie fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gpumarket.cli import main as cli_main
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import encode_proof
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.chain_jobs import settle_job
from gpumarket.testing.factories import change


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(tmp_path_factory.mktemp("audit"), block_seconds=None) as url:
        yield url


def verify(
    capsys: pytest.CaptureFixture[str], path: Path, proof: ProofOfExecution, rpc_url: str
) -> tuple[int, dict[str, str]]:
    path.write_bytes(encode_proof(proof))
    contract = format_hex(proof.domain.contract)
    flags = ("--rpc", rpc_url, "--chain-id", "31337", "--contract", contract, "--json")
    code = cli_main.run(("audit", "verify", str(path), *flags))
    data = json.loads(capsys.readouterr().out)["data"]
    return code, {check["name"]: check["verdict"] for check in data["checks"]}


def test_a_job_settled_on_a_real_chain_passes_and_a_lie_about_it_fails(
    capsys: pytest.CaptureFixture[str], rpc_url: str, tmp_path: Path
) -> None:
    proof = trio.run(settle_job, rpc_url)
    code, verdicts = verify(capsys, tmp_path / "honest", proof, rpc_url)
    assert (code, set(verdicts.values())) == (0, {"PASS"})
    checks = proof.epochs[0].checks[1:]
    lied = change(proof, epochs=(change(proof.epochs[0], checks=checks), proof.epochs[1]))
    code, verdicts = verify(capsys, tmp_path / "lie", lied, rpc_url)
    assert (code, verdicts["settlement"]) == (10, "FAIL")
