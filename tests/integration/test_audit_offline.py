"""A proof file and one block hash are enough: no network code is loaded and no network is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from gpumarket.adapters.artifacts import load_compiled
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.state_proofs import StateProver
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.ids import Hash32, format_hex
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.chain_jobs import settle_job
from gpumarket.testing.stored_outputs import plan_job

from .sandbox_fixture import job_image_fixture  # noqa: F401  pytest finds it by its name
from .shelf import shelve_job

ENGINE = "/var/run/docker.sock"
IPV6_PROBE = "('::1', 0)"
"""What urllib3 binds once when it is loaded, to see whether the machine has IPv6."""

PROGRAM = """
import json, sys
opened, named = [], set()
def note(name, args):
    if name.startswith("socket."):
        opened.append(name)
    if name in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        named.add(str(args[1] if name != "socket.getaddrinfo" else args[0]))
sys.addaudithook(note)
from gpumarket.cli import main
code = main.run(sys.argv[1:])
wanted = ("trio", "anyio", "aiohttp", "asyncio", "web3", "libp2p", "requests", "urllib3", "ssl")
found = sorted({name.partition(".")[0] for name in sys.modules} & set(wanted))
said = {"code": code, "loaded": found, "opened": opened, "named": sorted(named)}
print(json.dumps(said), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProofOfExecution, Hash32]:
    async def settle(url: str) -> tuple[ProofOfExecution, Hash32]:
        proof = await settle_job(url)
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        return await StateProver(chain).anchor(compact_proof(proof))

    with run_anvil(tmp_path_factory.mktemp("offline"), block_seconds=None) as url:
        return trio.run(settle, url)


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, job_image: tuple[Path, str]
) -> tuple[ProofOfExecution, Hash32, Path]:
    """A job whose image, input and outputs are in a folder."""
    folder = tmp_path_factory.mktemp("stored")
    maker = plan_job(folder, job=shelve_job(folder, job_image))

    async def settle(url: str) -> tuple[ProofOfExecution, Hash32]:
        proof = await settle_job(url, maker)
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        return await StateProver(chain).anchor(proof)

    with run_anvil(tmp_path_factory.mktemp("chain"), block_seconds=None) as url:
        return *trio.run(settle, url), folder


def run_alone(
    folder: Path, proof: ProofOfExecution, trusted: Hash32, *more: str
) -> tuple[Any, Any]:
    """Verify in a process without any network interface; return its report and what it loaded."""
    path = folder / "proof.cbor"
    path.write_bytes(encode_proof(proof))
    contract = format_hex(proof.domain.contract)
    flags = ["--trust-block", format_hex(trusted), "--chain-id", "31337", "--contract", contract]
    command = [sys.executable, "-c", PROGRAM, "audit", "verify", str(path), *flags, *more, "--json"]
    if os.geteuid() == 0:
        command = ["unshare", "--net", *command]
    done = subprocess.run(
        command, capture_output=True, timeout=60, check=False, env={"HOME": str(folder)}
    )
    return json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])


def audit(proof: ProofOfExecution, trusted: Hash32) -> dict[str, AuditVerdict]:
    report = check_proof(proof, derive_evidence(proof, load_compiled(), trusted=trusted))
    return {check.name: check.verdict for check in report.checks}


def test_a_file_and_a_block_hash_pass_in_a_process_without_a_network(
    settled: tuple[ProofOfExecution, Hash32], tmp_path: Path
) -> None:
    report, process = run_alone(tmp_path, *settled)
    assert process == {"code": 0, "loaded": [], "opened": [], "named": []}
    assert report["data"]["verdict"] == "PASS"
    assert report["data"]["trust"]["rpc"] == []


def test_outputs_are_compared_in_a_process_without_a_network(
    stored: tuple[ProofOfExecution, Hash32, Path], tmp_path: Path
) -> None:
    proof, trusted, folder = stored
    report, process = run_alone(tmp_path, proof, trusted, "--deep", str(folder))
    assert process == {"code": 0, "loaded": [], "opened": [], "named": []}
    (found,) = (each for each in report["data"]["checks"] if each["name"] == "comparisons")
    assert found["verdict"] == "PASS"
    assert "compared again by its rule json" in found["text"]


def test_units_are_run_again_by_nothing_but_the_engines_socket(
    stored: tuple[ProofOfExecution, Hash32, Path], tmp_path: Path
) -> None:
    proof, trusted, folder = stored
    report, process = run_alone(tmp_path, proof, trusted, "--deep", str(folder), "--reexec")
    (found,) = (each for each in report["data"]["checks"] if each["name"] == "re-execution")
    assert (found["verdict"], process["code"]) == ("PASS", 0), found
    assert not {"web3", "libp2p", "aiohttp", "asyncio"} & set(process["loaded"])
    assert set(process["named"]) - {IPV6_PROBE} == {ENGINE}


def test_another_block_hash_fails_with_that_reason(
    settled: tuple[ProofOfExecution, Hash32], tmp_path: Path
) -> None:
    report, process = run_alone(tmp_path, settled[0], b"x" * 32)
    assert (process["code"], process["loaded"]) == (10, [])
    (links,) = (check for check in report["data"]["checks"] if check["name"] == "links")
    assert links["verdict"] == "FAIL"
    assert "not that of the trusted block" in links["text"]


def test_a_file_reads_back_to_the_same_bytes(settled: tuple[ProofOfExecution, Hash32]) -> None:
    data = encode_proof(settled[0])
    assert encode_proof(decode_proof_untrusted(data)) == data


def test_a_proof_without_anchors_is_incomplete(
    settled: tuple[ProofOfExecution, Hash32],
) -> None:
    verdicts = audit(replace(settled[0], chain=None), settled[1])
    for name in ("links", "state", "settlement"):
        assert verdicts[name] is AuditVerdict.INCOMPLETE


@pytest.mark.parametrize("part", ["accounts", "settlement", "history"])
@pytest.mark.parametrize("how", ["drop", "double", "swap", "flip"])
def test_nodes_must_be_those_that_are_needed_in_their_order(
    settled: tuple[ProofOfExecution, Hash32], part: str, how: str
) -> None:
    proof, trusted = settled
    assert proof.chain is not None
    anchor = proof.chain.anchors[0]
    nodes = list(getattr(anchor, part))
    if how == "drop":
        del nodes[-1]
    elif how == "double":
        nodes.append(nodes[-1])
    elif how == "swap":
        nodes.reverse()
    else:
        nodes[0] = nodes[0][:-1] + bytes([nodes[0][-1] ^ 1])
    if how == "swap" and len(nodes) == 1:
        return
    anchors = (replace(anchor, **{part: tuple(nodes)}), *proof.chain.anchors[1:])
    verdicts = audit(replace(proof, chain=replace(proof.chain, anchors=anchors)), trusted)
    assert verdicts["state"] is AuditVerdict.FAIL


def test_every_parameter_of_the_contract_is_held_by_its_code_hash(
    settled: tuple[ProofOfExecution, Hash32],
) -> None:
    proof, trusted = settled
    assert proof.chain is not None
    claim = proof.chain.contract
    for name in claim.__struct_fields__:
        value = getattr(claim, name)
        other = value + 1 if isinstance(value, int) else bytes(20)
        chain = replace(proof.chain, contract=replace(claim, **{name: other}))
        assert audit(replace(proof, chain=chain), trusted)["state"] is AuditVerdict.FAIL, name


def test_a_foreign_chain_id_fails(settled: tuple[ProofOfExecution, Hash32]) -> None:
    proof, trusted = settled
    moved = replace(proof, domain=replace(proof.domain, chain_id=1))
    assert audit(moved, trusted)["state"] is AuditVerdict.FAIL
