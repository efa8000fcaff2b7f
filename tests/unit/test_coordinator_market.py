"""A market in small: honest providers, a cheat, a verifier, and the audit of what they did."""

from __future__ import annotations

import pytest

from coordinator.api.proofs import make_proof
from coordinator.api.views import show_job
from coordinator.core.lifecycle import JobState
from coordinator.core.order_book import get_reputation
from coordinator.core.settling import compute_money
from gpumarket.cli.job_view import format_job
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.evidence import (
    AuditVerdict,
)
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.testing.factories import change, make_address, make_hash, make_spec
from tests.coordinator_market import Market, sum_requesters
from tests.market_audit import HonestChain, audit, read_chain

CHEAT, V1 = make_address("provider-2"), make_address("verifier-1")
COORDINATOR = make_address("coordinator")


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


def test_jobs_of_several_requesters_share_one_batch_and_each_passes_its_audit():
    market = Market(settle_interval_seconds=100, fee=40)
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": 4})
    market.join_verifier(card={"slots": 4})
    spec = make_spec(units=2, verify=VerifyPolicy(mode="full"))
    jobs = [
        market.submit(spec, signer=f"requester-{i % 2}", nonce=make_hash(f"{i}"), max_fee=40)
        for i in range(4)
    ]
    market.run(seconds_max=300)
    (posted,) = market.chain.batches
    assert len(posted.bills) == 4 and len(sum_requesters(posted)) == 2
    assert len({make_proof(market.state, job).settlements for job in jobs}) == 1
    for job in jobs:
        lines = audit(market, job)
        assert {check.verdict for check in lines.values()} == {AuditVerdict.PASS}
        assert "for other jobs" in lines["balance"].text


def test_a_job_that_takes_two_batches_proves_both(monkeypatch):
    monkeypatch.setattr("coordinator.core.settling.BILL_LINES_MAX", 5)
    market, job = play_job(units=9, verify=VerifyPolicy(mode="none"))
    proof = make_proof(market.state, job)
    assert [settlement.sequence for settlement in proof.settlements] == [0, 1]
    view = show_job(market.state, job)
    assert [batch["seq"] for batch in view["batches"]] == [0, 1]
    assert format_job(view).count("settled  batch") == 2
    assert {check.verdict for check in audit(market, job).values()} == {AuditVerdict.PASS}
    # Half of the truth is no proof: the other lines are neither paid nor rejected.
    half = change(proof, settlements=proof.settlements[:1])
    report = check_proof(half, read_chain(market))
    verdicts = {check.name: check.verdict for check in report.checks}
    assert verdicts["forgeries"] is AuditVerdict.INCOMPLETE
