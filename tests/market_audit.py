"""What an auditor reads from the chain of a played market, and the lines of its report."""

from __future__ import annotations

import rlp

from coordinator.api.proofs import make_proof
from coordinator.core import effects, events
from coordinator.core.epochs import get_document
from coordinator.core.state import Job
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import (
    BatchFact,
    ChainEvidence,
    Check,
    CommitFact,
    PayoutChange,
    SeedFact,
    StakeChange,
)
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.proof import ProofOfExecution, compute_epoch_root
from gpumarket.protocol.settlement import pack_lanes
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import DOMAIN, change, make_address
from tests.coordinator_market import DEPOSIT, Market, PlayedChain, sum_requesters

COORDINATOR = make_address("coordinator")
SEED_DELAY = 2


class HonestChain(PlayedChain):
    """A chain whose seed blocks have real headers."""

    def fix_seed(self, effect: effects.FixSeed, now: Timestamp) -> events.SeedFixed:
        seed = super().fix_seed(effect, now)
        fields = [b"\0" * 32] * 15
        fields[8] = seed.block.to_bytes(4, "big")
        fields[11] = int(now).to_bytes(4, "big")
        fields[13] = seed.mix_hash
        header: bytes = rlp.encode(fields)
        return change(seed, header_rlp=header)


def read_chain(market: Market) -> ChainEvidence:
    """Return what an auditor would read from the chain."""
    commits: dict[tuple[Address, int], CommitFact] = {}
    seeds: dict[tuple[Address, int], SeedFact] = {}
    hashes: dict[int, Hash32] = {}
    for epoch in market.state.epochs.values():
        if epoch.sequence is None:
            continue
        commits[COORDINATOR, epoch.sequence] = CommitFact(
            root=compute_epoch_root(get_document(epoch)),
            nonce_hash=keccak256(epoch.nonce or b""),
            data_hash=compute_content_hash(get_document(epoch)),
            block=epoch.block,
        )
        seeds[COORDINATOR, epoch.sequence] = SeedFact(
            seed_block=epoch.seed_block, mix_hash=epoch.mix_hash or b"", seed=epoch.seed or b""
        )
        hashes[epoch.seed_block] = keccak256(epoch.header_rlp)
    batches: dict[tuple[Address, int], BatchFact] = {}
    escrows: dict[Address, int] = {}
    for sequence, posted in enumerate(market.chain.batches):
        requesters, payees, lanes, root = pack_lanes(posted.batch.lanes)
        before = {each: escrows.get(each, DEPOSIT) for each in requesters}
        batches[COORDINATOR, sequence] = BatchFact(
            data_hash=compute_content_hash(posted.batch),
            block=market.chain.block,
            posted_at=market.now,
            requesters=requesters,
            payees=payees,
            lanes=lanes,
            root=root,
            escrow_before=before,
            credit_before={},
        )
        spent = sum_requesters(posted)
        escrows |= {each: held - spent[each] for each, held in before.items()}
    return ChainEvidence(
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        seed_delay_blocks=SEED_DELAY,
        commits=commits,
        seeds=seeds,
        batches=batches,
        block_hashes=hashes,
        acquitted=frozenset(
            name for name, case in market.court.cases.items() if case.verdict == Verdict.MATCH
        ),
        verifier_stakes={
            who: (StakeChange(block=1, stake=verifier.stake),)
            for who, verifier in market.verifiers.items()
        },
        provider_stakes={
            who: (StakeChange(block=1, stake=provider.stake),)
            for who, provider in market.providers.items()
        },
        payouts=tuple(
            PayoutChange(block=1, payee=who, payout=make_address(member.payout))
            for who, member in (market.providers | market.verifiers).items()
            if member.payout
        ),
    )


def audit(market: Market, job: Job, proof: ProofOfExecution | None = None) -> dict[str, Check]:
    """Return the lines of the audit of a job, or of what is told about it, by name."""
    report = check_proof(proof or make_proof(market.state, job), read_chain(market))
    return {check.name: check for check in report.checks}
