"""A market in small: honest providers, a cheat, a verifier, and the audit of what they did."""

from __future__ import annotations

import pytest
import rlp

from coordinator.api.proofs import make_proof
from coordinator.core.lifecycle import JobState
from coordinator.core.order_book import get_reputation
from coordinator.core.settling import compute_money
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import (
    AuditVerdict,
    BatchFact,
    ChainEvidence,
    CommitFact,
    SeedFact,
    StakeChange,
)
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import compute_epoch_root
from gpumarket.protocol.settlement import pack_lanes
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import DOMAIN, make_address, make_spec
from tests.coordinator_market import Market, PlayedChain

CHEAT, V1 = make_address("provider-2"), make_address("verifier-1")
COORDINATOR = make_address("coordinator")
SEED_DELAY = 2


def play_job(*, units=24, verify=None, entropy="entropy"):
    """Play the demo: three providers, the second forges every other task."""
    market = Market()
    market.chain = HonestChain(entropy=entropy)
    for name in ("provider-1", "provider-3"):
        market.join(name, offer={"slots": 2})
    market.join("provider-2", offer={"slots": 2}, forges=frozenset(range(0, units, 2)))
    market.join_verifier(card={"slots": 4})
    spec = make_spec(units=units, verify=verify or VerifyPolicy(forged_share_ppm=200_000))
    job = market.submit(spec, checks=2 * units)
    market.run(seconds_max=300)
    return market, job


class HonestChain(PlayedChain):
    """A chain whose seed blocks have real headers."""

    def fix_seed(self, effect, now):
        seed = super().fix_seed(effect, now)
        fields = [b"\0" * 32] * 15
        fields[8] = seed.block.to_bytes(4, "big")
        fields[11] = int(now).to_bytes(4, "big")
        fields[13] = seed.mix_hash
        header = rlp.encode(fields)
        return type(seed)(**{f: getattr(seed, f) for f in seed.__struct_fields__} | {
            "header_rlp": header
        })  # fmt: skip


def read_chain(market):
    """Return what an auditor would read from the chain."""
    state, commits, seeds, hashes = market.state, {}, {}, {}
    for epoch in state.epochs.values():
        if epoch.sequence is None:
            continue
        commits[COORDINATOR, epoch.sequence] = CommitFact(
            root=compute_epoch_root(epoch.document),
            nonce_hash=keccak256(epoch.nonce),
            data_hash=compute_content_hash(epoch.document),
            block=epoch.block,
        )
        seeds[COORDINATOR, epoch.sequence] = SeedFact(
            seed_block=epoch.seed_block, mix_hash=epoch.mix_hash, seed=epoch.seed
        )
        hashes[epoch.seed_block] = keccak256(epoch.header_rlp)
    batches = {}
    for sequence, posted in enumerate(market.chain.batches):
        requesters, payees, lanes = pack_lanes(posted.batch.lanes)
        batches[COORDINATOR, sequence] = BatchFact(
            data_hash=compute_content_hash(posted.batch),
            block=market.chain.block,
            posted_at=market.now,
            requesters=tuple(requesters),
            payees=tuple(payees),
            lanes=lanes,
            tx_hash=state.jobs[posted.order_hash].batches[posted.part].tx,
            escrow_before={make_address("requester"): 10**9},
            credit_before={},
        )
    return ChainEvidence(
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        seed_delay_blocks=SEED_DELAY,
        commits=commits,
        seeds=seeds,
        batches=batches,
        block_hashes=hashes,
        verifier_stakes={V1: (StakeChange(block=1, stake=10),)},
    )


@pytest.mark.parametrize("entropy", ["a", "b", "c"])
def test_the_honest_are_paid_the_cheat_is_not_and_the_job_comes_through(entropy):
    market, job = play_job(entropy=entropy)
    assert job.state is JobState.SETTLED
    assert CHEAT not in market.chain.sum_paid() and job.excluded == [CHEAT]
    assert {entry.code for entry in job.log if entry.type == "rejected"} == {"GM-7101"}
    money = compute_money(market.state, job)
    assert sum(market.chain.sum_paid().values()) == money.spent
    assert get_reputation(market.state, CHEAT) < 60_000
    honest = make_address("provider-1")
    assert get_reputation(market.state, honest) > 500_000
    assert market.closed == []


def test_the_same_market_gives_the_same_log():
    logs = [[(e.type, e.task, e.actor, e.text) for e in play_job()[1].log] for _ in range(2)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("mode", ["sample", "full", "none"])
def test_the_record_passes_an_independent_audit(mode):
    market, job = play_job(units=9, verify=VerifyPolicy(mode=mode, forged_share_ppm=300_000))
    report = check_proof(make_proof(market.state, job), read_chain(market))
    failed = [check.text for check in report.checks if check.verdict is not AuditVerdict.PASS]
    assert failed == []


def test_the_audit_fails_when_the_record_hides_a_check():
    market, job = play_job(units=9, verify=VerifyPolicy(mode="full"))
    market.state.epochs[job.epochs[-1]].checks.popitem()
    report = check_proof(make_proof(market.state, job), read_chain(market))
    assert report.verdict is AuditVerdict.FAIL
