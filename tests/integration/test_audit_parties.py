"""Offline, the stakes and payout addresses of a job's parties count as of its commitment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from gpumarket.adapters.artifacts import load_compiled
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import fund_devnet
from gpumarket.adapters.state_proofs import StateProver
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.chain_proof import CommitClaim
from gpumarket.protocol.errors import ChainError
from gpumarket.protocol.evidence import AuditVerdict, ChainEvidence, Report
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32, parse_address
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.chain_jobs import settle_job
from gpumarket.testing.factories import make_address, make_key
from gpumarket.testing.proofs import FORGER, ProofMaker

STAKES = {"provider-1": (3_000_000, "cold-provider"), FORGER: (2_000_000, "cold-forger")}

Anchored = tuple[ProofOfExecution, Hash32]


class PrunedProver(StateProver):
    """A prover whose node has forgotten the states of all commitments."""

    async def take_papers(self, *_: Any, **__: Any) -> Any:
        raise ChainError("the node does not prove this job's state", code="GM-3007")


async def leave_and_move(chains: Mapping[str, Chain]) -> None:
    """Let the verifier leave, and the provider's claims go where the verifier's went."""
    chain = chains["verifier-1"]
    await chain._transact("requestUnstake", make_address("verifier-1"), 10_000_000)
    await chain.ask("evm_increaseTime", 60)
    await chain.ask("evm_mine")
    await chain._transact("unstake", make_address("verifier-1"))
    await fund_devnet(chain._rpc_url, make_address("cold-provider"), 10**18)
    cold = Chain(
        rpc_url=chain._rpc_url,
        contract=parse_address(chain._contract.address),
        secret=make_key("cold-provider")._key.secret,
    )
    await cold._transact("changePayout", make_address("provider-1"), make_address("cold"))


def settle(
    folder: Path,
    *,
    prover: type[StateProver] = StateProver,
    stakes: Mapping[str, tuple[int, str]] = STAKES,
    change: Any = None,
) -> Anchored:
    async def run(url: str) -> Anchored:
        maker = ProofMaker()
        proof = await settle_job(url, maker, stakes=stakes, change=change)
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        return await prover(chain).anchor(proof)

    with run_anvil(folder, block_seconds=None) as url:
        return trio.run(run, url)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Anchored:
    return settle(tmp_path_factory.mktemp("parties"))


def derive(anchored: Anchored) -> tuple[ChainEvidence, Report]:
    proof, trusted = anchored
    proof = decode_proof_untrusted(encode_proof(proof))
    evidence = derive_evidence(proof, load_compiled(), trusted=trusted)
    return evidence, check_proof(proof, evidence)


def list_open(report: Report) -> dict[str, str]:
    """Return what does not pass in the strict form, and why."""
    return {
        check.name: check.remark or check.text
        for check in report.tighten().checks
        if check.verdict is not AuditVerdict.PASS
    }


def test_a_whole_file_leaves_nothing_open_in_the_strict_form(settled: Anchored) -> None:
    evidence, report = derive(settled)
    assert list_open(report) == {}
    for epoch in settled[0].epochs:
        block = evidence.commits[epoch.committer, epoch.sequence].block
        for name, (stake, payout) in STAKES.items():
            has_work = any(work.root.signer == make_address(name) for work in epoch.document.work)
            expected = stake if has_work else None
            assert evidence.find_provider_stake(make_address(name), block) == expected
            if has_work:
                payouts = evidence.find_payouts(block)
                assert payouts[make_address(name)] == make_address(payout)
        assert evidence.find_stake(make_address("verifier-1"), block) == 10_000_000
        assert evidence.find_provider_stake(make_address("verifier-1"), block) == 0
        requester = make_address("requester")
        assert evidence.find_payouts(block)[requester] == requester


def test_where_no_node_knew_the_state_at_commitment_the_report_says_what_is_open(
    tmp_path: Path,
) -> None:
    evidence, report = derive(settle(tmp_path, prover=PrunedProver))
    assert report.verdict is AuditVerdict.PASS
    assert list_open(report) == {
        "assignments": "where all verifiers and providers are paid is not proven here"
    }
    assert evidence.find_provider_stake(make_address("provider-1"), 10**9) is None


def test_what_parties_do_after_the_commitment_changes_nothing(tmp_path: Path) -> None:
    evidence, report = derive(settle(tmp_path, change=leave_and_move))
    assert list_open(report) == {}
    assert evidence.unclear_stakes == frozenset()


def test_a_verifier_that_was_paid_with_the_provider_at_commitment_fails(tmp_path: Path) -> None:
    stakes = STAKES | {"provider-1": (3_000_000, "cold")}
    _, report = derive(settle(tmp_path, stakes=stakes))
    found = {check.name: check for check in report.checks}
    assert found["assignments"].verdict is AuditVerdict.FAIL
    assert "is paid with" in found["assignments"].text
    assert found["state"].verdict is AuditVerdict.PASS


@pytest.mark.parametrize("part", ["accounts", "settlement"])
@pytest.mark.parametrize("how", ["drop", "double", "swap", "flip", "clear"])
def test_nodes_of_a_commitments_block_are_those_that_are_needed_in_their_order(
    settled: Anchored, part: str, how: str
) -> None:
    proof, trusted = settled
    assert proof.chain is not None
    commit, *others = proof.chain.commits
    nodes = list(getattr(commit, part))
    if how == "swap" and len(nodes) == 1:
        pytest.skip("one node has one order")
    if how == "drop":
        del nodes[-1]
    elif how == "double":
        nodes.append(nodes[-1])
    elif how == "swap":
        nodes.reverse()
    elif how == "flip":
        nodes[0] = nodes[0][:-1] + bytes([nodes[0][-1] ^ 1])
    else:
        nodes = []
    changed: CommitClaim = replace(commit, **{part: tuple(nodes)})
    chain = replace(proof.chain, commits=(changed, *others))
    verdicts = {c.name: c.verdict for c in derive((replace(proof, chain=chain), trusted))[1].checks}
    assert verdicts["state"] is AuditVerdict.FAIL


def test_papers_of_before_do_when_the_node_has_forgotten(tmp_path: Path) -> None:
    taken: list[Any] = []

    async def run(url: str) -> Anchored:
        proof = await settle_job(url, ProofMaker(), stakes=STAKES)
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        prover = StateProver(chain)
        everybody: list[Address] = [make_address("requester"), make_address("somebody else")]
        for epoch in proof.epochs:
            block = decode_header_untrusted(epoch.header).number - 2
            papers = await prover.take_papers(
                epoch.document,
                requesters=everybody,
                contract=proof.domain.contract,
                block=block,
            )
            taken.append(papers)
        return await PrunedProver(chain).anchor(proof, taken)

    with run_anvil(tmp_path, block_seconds=None) as url:
        _, report = derive(trio.run(run, url))
    assert list_open(report) == {}
