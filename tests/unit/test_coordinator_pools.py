"""Pools are drawn from and judged across jobs; who checks is a stranger of the right class."""

from __future__ import annotations

import pytest

from coordinator.api.proofs import make_proof
from coordinator.core import events
from coordinator.core.effects import ProposeLease
from coordinator.core.epochs import get_document
from coordinator.core.lifecycle import CheckState, JobState
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.units import PPM
from gpumarket.testing.factories import change, make_address, make_hash, make_spec
from tests.coordinator_market import Market, play_until
from tests.market_audit import HonestChain, audit

P1 = make_address("provider-1")
FULL, SAMPLE = VerifyPolicy(mode="full"), VerifyPolicy(forged_share_ppm=500_000, units_min=1)


def share_an_epoch(first, second, *, forges=(), **settings):
    """Play two jobs of 3 and 6 tasks whose first 2 and 6 are in one epoch of one provider."""
    market = Market(**settings)
    market.chain = HonestChain()
    provider = market.join("provider-1", offer={"slots": 16}, forges=frozenset(forges))
    market.join_verifier(card={"slots": 16})
    jobs = [
        market.submit(make_spec(units=3, verify=first), checks=20, signer="alice"),
        market.submit(make_spec(units=6, verify=second), checks=20, signer="bob"),
    ]
    leases = [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]
    market.todo = [effect for effect in market.todo if not isinstance(effect, ProposeLease)]
    for lease in (*leases[:2], *leases[3:], leases[2]):
        done = provider.run(lease, market.now)
        market.post(events.MessageReceived(at=market.now, sender=P1, message=done))
    assert [job.epochs[0] for job in jobs] == [1, 1]
    return market, *jobs


def find_texts(job, type_):
    return [entry.text for entry in job.log if entry.type == type_]


# ---- pools ---------------------------------------------------------------------------------


def test_jobs_with_equal_terms_are_drawn_from_as_one_whatever_their_rule_and_critical_units():
    market, alice, bob = share_an_epoch(SAMPLE, change(SAMPLE, critical=(5,)))
    market.run(seconds_max=100)
    (pool,) = market.state.epochs[1].parts[P1].pools
    assert len(pool.lease_ids) == 8 and set(pool.order_hashes) == {
        j.order_hash for j in (alice, bob)
    }
    checks = market.state.epochs[1].checks.values()
    assert (bob.order_hash, 5) in {(check.order_hash, check.unit) for check in checks}
    (text,) = find_texts(alice, "sampled")[:1]
    assert text.startswith(f"{len(checks)} of 8 results of this provider, across 2 jobs, are done")
    assert {alice.state, bob.state} == {JobState.SETTLED}


def test_a_forged_result_of_one_job_makes_the_pool_unpaid_across_jobs():
    market, alice, bob = share_an_epoch(FULL, FULL, forges=[5])
    market.run(seconds_max=60)
    assert alice.excluded == bob.excluded == [P1]
    epoch_one = market.state.epochs[1].parts[P1]
    assert epoch_one.accepted == [] and set(epoch_one.rejected) == set(epoch_one.lease_ids)
    (text,) = find_texts(alice, "unpaid")
    assert text.startswith("a task done again gave another result: 2 tasks go to others, unpaid")
    assert text.endswith("; none of 8 results of this provider, across 2 jobs, is paid")
    market.join("provider-2", offer={"slots": 16})
    market.run(seconds_max=200)
    assert {alice.state, bob.state} == {JobState.SETTLED}
    # What was accepted of the second epoch before the forgery was found is paid, nothing else.
    assert market.chain.sum_paid().get(P1, 0) <= 112
    assert market.state.standings[P1].audited <= 1


def test_a_forged_result_leaves_jobs_with_other_terms_alone():
    market, alice, bob = share_an_epoch(FULL, SAMPLE, forges=[3, 4, 5])
    market.run(seconds_max=60)
    assert alice.state is JobState.SETTLED and alice.excluded == []
    assert bob.excluded == [P1]


def test_jobs_without_checks_stand_alone_even_with_one_another():
    none = VerifyPolicy(mode="none")
    market, alice, bob = share_an_epoch(none, none)
    pools = market.state.epochs[1].parts[P1].pools
    assert [len(pool.order_hashes) for pool in pools] == [1, 1]
    market.run(seconds_max=60)
    assert {alice.state, bob.state} == {JobState.SETTLED}


def test_a_closed_result_of_one_job_makes_the_pool_unpaid():
    market, alice, bob = share_an_epoch(FULL, FULL)
    provider, open_all = market.providers[P1], market.providers[P1].open

    def hide_one(request):
        opened = open_all(request)
        kept = [each for each in opened.openings if each.body.result.unit != 5]
        return change(opened, openings=tuple(kept))

    provider.open = hide_one
    market.run(seconds_max=40)
    assert alice.excluded == bob.excluded == [P1]
    assert {unit.failures[0].reason.code for unit in alice.units[:2]} == {"GM-7102"}


def test_a_job_waits_for_the_checks_of_the_jobs_that_it_shares_a_pool_with():
    market, alice, _ = share_an_epoch(FULL, FULL)
    checks = market.state.epochs[1].checks
    play_until(
        market,
        lambda m: (
            checks and all(c.state is CheckState.DONE for c in checks.values() if c.unit != 5)
        ),
    )
    assert alice.state is JobState.CHECKING and alice.counts
    market.run(seconds_max=60)
    assert alice.state is JobState.SETTLED


@pytest.mark.parametrize(("first", "second"), [(SAMPLE, SAMPLE), (FULL, FULL), (FULL, SAMPLE)])
def test_each_of_two_jobs_with_one_pool_passes_its_audit_with_the_checks_of_both(first, second):
    market, alice, bob = share_an_epoch(first, second)
    market.run(seconds_max=100)
    for job in (alice, bob):
        lines = audit(market, job)
        assert {check.verdict for check in lines.values()} == {AuditVerdict.PASS}, lines
    proof = make_proof(market.state, alice)
    own = {check.seal.body.order_hash for check in proof.epochs[0].checks}
    assert own == ({alice.order_hash, bob.order_hash} if first == second else {alice.order_hash})


def test_an_audit_sees_a_forgery_that_was_found_in_another_job():
    # Bob's task is forged; had the coordinator paid Alice's part of the pool, her proof says so.
    market, alice, bob = share_an_epoch(FULL, FULL, forges=[5])
    market.join("provider-2", offer={"slots": 16})
    market.run(seconds_max=200)
    proof = make_proof(market.state, alice)
    lines = audit(market, alice, proof)
    assert {check.verdict for check in lines.values()} == {AuditVerdict.PASS}, lines
    assert "forgery shown against 0x" in lines["forgeries"].text
    hidden = change(
        proof.epochs[0],
        checks=tuple(c for c in proof.epochs[0].checks if c.seal.body.order_hash != bob.order_hash),
    )
    told = audit(market, alice, change(proof, epochs=(hidden, *proof.epochs[1:])))
    assert "ended without a verdict" in told["samples"].remark


def test_what_was_audited_is_fixed_with_the_commitment_and_lost_by_forging():
    market, *_ = share_an_epoch(FULL, FULL, forges=[])
    market.run(seconds_max=60)
    assert market.state.standings[P1].audited == 9
    again = market.submit(make_spec(units=4, verify=FULL), nonce=make_hash("again"), signer="eve")
    market.providers[P1].forges = frozenset({1})
    play_until(market, lambda m: again.excluded)
    (work,) = get_document(market.state.epochs[again.epochs[0]]).work
    assert work.audited == 9
    assert market.state.standings[P1].audited == 0


def test_the_stake_that_counts_is_what_a_conviction_takes():
    market = Market(stake_slash=1_000)
    for name, stake in (("provider-1", 5_000), ("provider-2", 300)):
        market.join(name, stake=stake)
    market.join_verifier()
    market.submit(make_spec(units=4))
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    works = get_document(market.state.epochs[1]).work
    found = {work.root.signer: work.stake for work in works}
    assert found == {P1: 1_000, make_address("provider-2"): 300}


# ---- verifiers -----------------------------------------------------------------------------


def play_with_verifiers(*verifiers, units=4, provider=None, seconds=400, verify=FULL):
    market = Market()
    market.chain = HonestChain()
    market.join("provider-1", **({"offer": {"slots": 8}} | (provider or {})))
    for name, flags in verifiers:
        market.join_verifier(name, **({"card": {"slots": 16}} | flags))
    job = market.submit(make_spec(units=units, verify=verify), checks=2 * units)
    market.run(seconds_max=seconds)
    return market, job, market.state.epochs[1].checks.values()


@pytest.mark.parametrize(
    ("verifier", "provider"),
    [
        ({"payout": "vault"}, {"payout": "vault"}),
        ({"payout": "provider-1"}, {}),
        ({}, {"payout": "verifier-1"}),
        ({"payout": "requester"}, {}),
    ],
)
def test_a_verifier_that_is_paid_where_a_party_is_checks_nothing_of_it(verifier, provider):
    market, job, checks = play_with_verifiers(("verifier-1", verifier), provider=provider)
    assert job.state is JobState.CHECKING
    assert {check.verifier for check in checks} == {None}
    market.join_verifier("verifier-2", card={"slots": 8})
    market.run(seconds_max=60)
    assert {check.verifier for check in checks} == {make_address("verifier-2")}
    assert job.state is JobState.SETTLED


def test_an_audit_names_a_verifier_that_is_paid_where_the_provider_is():
    market, job, _ = play_with_verifiers(("verifier-1", {}))
    assert audit(market, job)["assignments"].verdict is AuditVerdict.PASS
    for payee in ("verifier-1", "provider-1"):
        {**market.providers, **market.verifiers}[make_address(payee)].payout = "vault"
    line = audit(market, job)["assignments"]
    assert line.verdict is AuditVerdict.FAIL and "paid with" in line.text


FOREIGN = {"card": {"slots": 16, "repro_class": make_hash("another class")}}


def test_bytes_wait_for_a_verifier_of_the_class_and_then_blame_nobody():
    market, job, checks = play_with_verifiers(
        ("verifier-1", FOREIGN), provider={"forges": frozenset({1})}, seconds=119
    )
    assert {check.verifier for check in checks} == {None}
    assert any("waits 120 s" in text for text in find_texts(job, "check-waits"))
    market.run(seconds_max=70)
    verdicts = {check.unit: check.verdict for check in checks}
    assert verdicts == dict.fromkeys((0, 2, 3), Verdict.MATCH) | {1: Verdict.INCONCLUSIVE}
    assert job.excluded == []


def test_bytes_go_to_a_late_verifier_of_the_class_before_one_that_was_there():
    market, job, checks = play_with_verifiers(("verifier-1", FOREIGN), seconds=10)
    market.join_verifier("verifier-2", card={"slots": 16})
    market.run(seconds_max=60)
    assert {check.verifier for check in checks} == {make_address("verifier-2")}
    assert job.state is JobState.SETTLED


# ---- overlap -------------------------------------------------------------------------------


@pytest.fixture
def everything_overlaps(monkeypatch):
    monkeypatch.setattr("gpumarket.protocol.sampling.OVERLAP_PPM", PPM)


TWO: tuple[tuple[str, dict[str, object]], ...] = (("verifier-1", {}), ("verifier-2", {}))


@pytest.mark.usefixtures("everything_overlaps")
def test_an_overlapped_result_is_checked_by_two_verifiers_and_both_are_paid():
    market, job, checks = play_with_verifiers(*TWO)
    assert job.state is JobState.SETTLED and len(checks) == 8
    pairs = {(check.unit, check.verifier) for check in checks}
    assert len(pairs) == 8
    paid = market.chain.sum_paid()
    assert paid[make_address("verifier-1")] == paid[make_address("verifier-2")] == 400_000
    lines = audit(market, job)
    assert {(check.verdict, check.remark) for check in lines.values()} == {(AuditVerdict.PASS, "")}


@pytest.mark.usefixtures("everything_overlaps")
def test_a_second_verifier_that_contradicts_a_lazy_one_is_believed_where_no_jury_is():
    _, job, checks = play_with_verifiers(
        ("verifier-1", {"approves_all": True}),
        ("verifier-2", {"approves_all": False}),
        provider={"forges": frozenset({0})},
        seconds=60,
        verify=change(FULL, comparison=NpyRule()),
    )
    verdicts = {check.verdict for check in checks if check.unit == 0}
    assert verdicts == {Verdict.MATCH, Verdict.MISMATCH}
    assert job.excluded == [P1]


@pytest.mark.usefixtures("everything_overlaps")
def test_without_a_second_verifier_one_check_is_enough_after_a_while():
    market = Market()
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": 8})
    market.join_verifier("verifier-1", card={"slots": 16})
    market.join_verifier("verifier-2", card={"slots": 16}, is_silent=True)
    job = market.submit(make_spec(units=3, verify=FULL), checks=6)
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    market.leave_verifier("verifier-2")
    market.run(seconds_max=600)
    assert job.state is JobState.SETTLED
    lines = audit(market, job)
    assert {check.verdict for check in lines.values()} == {AuditVerdict.PASS}
    assert (
        "3 results that were for two verifiers were checked by one" in lines["assignments"].remark
    )


def test_with_one_verifier_nothing_is_overlapped(everything_overlaps):
    _, job, checks = play_with_verifiers(("verifier-1", {}))
    assert job.state is JobState.SETTLED and len(checks) == 4
