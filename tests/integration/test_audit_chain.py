"""The audit's facts from a real node and the real contract: an honest job passes, a lie fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.cli import main as cli_main
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.proof import ProofOfExecution, compute_epoch_root
from gpumarket.protocol.proof_file import encode_proof
from gpumarket.protocol.signing import Domain, keccak256
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil
from gpumarket.testing.factories import change, make_address, make_key
from gpumarket.testing.proofs import ESCROW, ProofMaker, make_nonces

SEED_DELAY = 2


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(tmp_path_factory.mktemp("audit"), block_seconds=None) as url:
        yield url


def get_secret(name: str) -> bytes:
    secret: bytes = make_key(name)._key.secret
    return secret


async def settle(rpc_url: str) -> ProofOfExecution:
    """Run a whole job on chain, block by block, and return its proof."""
    _, contract = await deploy_devnet(rpc_url, QUICK_CONFIG)
    maker = ProofMaker(domain=Domain(chain_id=31337, contract=contract))
    chains = {}
    for name in ("requester", "coordinator", "verifier-1"):
        await fund_devnet(rpc_url, make_address(name), 10**18)
        chains[name] = Chain(rpc_url=rpc_url, contract=contract, secret=get_secret(name))
        await chains[name].mint_test_token(make_address(name), 10**9)
    coordinator = chains["coordinator"]
    await chains["requester"].deposit(ESCROW + 1_000)
    await coordinator.bond(100_000_000)
    await chains["verifier-1"].stake_verifier(10_000_000, make_address("cold"), "peer")
    epochs = []
    for index in (0, 1):
        document, nonces = maker.make_document(index), make_nonces(index)
        root, data_hash = compute_epoch_root(document), compute_content_hash(document)
        committed = await coordinator.commit(root, keccak256(nonces), data_hash)
        for _ in range(SEED_DELAY + 1):  # one block each
            await coordinator.mint_test_token(make_address("coordinator"), 1)
        header = await coordinator.read_header(committed.block + SEED_DELAY)
        await coordinator.fix_seed(make_address("coordinator"), index, header=header, nonces=nonces)
        epochs.append(maker.make_epoch(index, header))
    batch = maker.make_batch(epochs)
    await coordinator.post_batch(compute_content_hash(batch), batch.lanes)
    return maker.make_proof(epochs, batch, sequence=0)


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
    proof = trio.run(settle, rpc_url)
    code, verdicts = verify(capsys, tmp_path / "honest", proof, rpc_url)
    assert (code, set(verdicts.values())) == (0, {"PASS"})
    checks = proof.epochs[0].checks[1:]
    lied = change(proof, epochs=(change(proof.epochs[0], checks=checks), proof.epochs[1]))
    code, verdicts = verify(capsys, tmp_path / "lie", lied, rpc_url)
    assert (code, verdicts["settlement"]) == (10, "FAIL")
