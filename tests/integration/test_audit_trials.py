"""Offline, what a jury said of unpaid work is read where the contract keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from gpumarket.adapters.artifacts import load_artifact, load_compiled
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.state_proofs import StateProver
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.anchoring import Slots
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.evidence import AuditVerdict, Check
from gpumarket.protocol.ids import Cid, Hash32, format_hex, parse_address
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.protocol.signing import Domain
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.chain_jobs import settle_job
from gpumarket.testing.factories import make_cid, make_receipt
from gpumarket.testing.proofs import ProofMaker

PASS, FAIL, INCOMPLETE = AuditVerdict.PASS, AuditVerdict.FAIL, AuditVerdict.INCOMPLETE
ID, OVER = 7, 1 << 72
MATCH, MISMATCH = int(Verdict.MATCH) << 64, int(Verdict.MISMATCH) << 64


@dataclass(frozen=True)
class LiedAbout(ProofMaker):
    """A job of which a verifier calls one honest result false, and which is paid all the same."""

    def name_output(self, who: str, unit: int) -> Cid:
        is_lie = who == "verifier-1" and unit in (0, 2, 4)
        return make_cid(f"lie {unit}") if is_lie else super().name_output(who, unit)

    def list_accused(self) -> list[Hash32]:
        """Return the receipts of the honest provider that may be called false."""
        return [
            make_receipt(self.make_result("provider-1", unit)).compute_struct_hash()
            for unit in (0, 2, 4)
        ]


def settle(folder: Path, word: int) -> tuple[ProofOfExecution, Hash32]:
    """Settle the job on a chain whose jury holds this about each accused result."""

    async def run(url: str) -> tuple[ProofOfExecution, Hash32]:
        async def decide(chains: Mapping[str, Chain]) -> None:
            if not word:
                return  # the node would keep a zero, which no chain does
            chain = chains["coordinator"]
            address = (await chain.read_rules()).jury
            contract = parse_address(chain._contract.address)
            maker = LiedAbout(domain=Domain(chain_id=31337, contract=contract))
            jury = chain._web3.eth.contract(
                address=chain._web3.to_checksum_address(address), abi=load_artifact("Jury")["abi"]
            )
            for receipt_hash in maker.list_accused():
                slot = Slots(load_compiled()).find_trial(receipt_hash)
                value = format_hex(word.to_bytes(32, "big"))
                await chain.ask("anvil_setStorageAt", format_hex(address), format_hex(slot), value)
                trial = await trio.to_thread.run_sync(jury.functions.trialOf(receipt_hash).call)
                assert tuple(trial) == (word & (2**64 - 1), (word >> 64) & 255, bool(word >> 72))
            await chain.ask("evm_mine")  # the state of a block that is made is not proven

        proof = await settle_job(url, LiedAbout(), change=decide)
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        return await StateProver(chain).anchor(compact_proof(proof))

    with run_anvil(folder, block_seconds=None) as url:
        return trio.run(run, url)


def audit(proof: ProofOfExecution, trusted: Hash32) -> dict[str, Check]:
    proof = decode_proof_untrusted(encode_proof(proof))
    report = check_proof(proof, derive_evidence(proof, load_compiled(), trusted=trusted))
    return {check.name: check for check in report.checks}


@pytest.mark.parametrize(
    ("word", "verdict", "text"),
    [
        (ID | MATCH, PASS, "a jury called right"),
        (ID | MATCH | OVER, PASS, "a jury called right"),
        (0, FAIL, "a result that failed was paid"),
        (ID | MISMATCH | OVER, FAIL, "a result that failed was paid"),
        (ID, INCOMPLETE, "whose jury had not decided"),
    ],
    ids=["acquitted", "for good", "never tried", "convicted", "undecided"],
)
def test_what_was_called_false_is_paid_only_where_the_state_holds_an_acquittal(
    tmp_path: Path, word: int, verdict: AuditVerdict, text: str
) -> None:
    proof, trusted = settle(tmp_path, word)
    checks = audit(proof, trusted)
    assert checks["state"].verdict is PASS, checks["state"]
    assert (checks["forgeries"].verdict, text in checks["forgeries"].text) == (verdict, True)
    assert proof.chain is not None
    newest, *others = proof.chain.anchors
    for nodes in (newest.jury[:-1], (*newest.jury, newest.jury[-1]) if newest.jury else (b"x",)):
        if nodes == newest.jury:
            continue
        anchors = (replace(newest, jury=nodes), *others)
        changed = replace(proof, chain=replace(proof.chain, anchors=anchors))
        assert audit(changed, trusted)["state"].verdict is FAIL
