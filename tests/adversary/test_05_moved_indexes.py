"""
Attack 5, the places: one honest output under many tasks, results that change places, leaves and
pools counted otherwise.

A result names its task, its order and its provider inside its salted hash, a root its leaves in
their order and their number, and a commitment its pools: whatever is moved is refused when it is
opened, found when it is drawn, or contradicts the audit.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.core import events
from coordinator.core.effects import CloseSession, Effect
from coordinator.core.lifecycle import JobState
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.pools import SamplePool
from gpumarket.protocol.proof import EpochDocument, ProviderWork
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import change, make_address, make_cid, make_spec, sign
from gpumarket.testing.proofs import ProofMaker, make_chain_evidence, make_epochs, make_settled_job
from tests.coordinator_market import Market, PlayedProvider, list_sent, play_until

P1 = make_address("provider-1")
UNITS = 4


class Copier(PlayedProvider):
    """Does its first task and hands the same output in for all."""

    def run(self, lease: LeaseOffer, now: Timestamp) -> messages.UnitFinished:
        done = super().run(lease, now)
        result = change(self.results[lease.lease_id], output=make_cid("output 0"))
        receipt = change(self.receipts[lease.lease_id], result_hash=result.compute_hash())
        self.results[lease.lease_id], self.receipts[lease.lease_id] = result, receipt
        return change(done, receipt=sign(receipt, self.name))


def play(provider: PlayedProvider) -> Market:
    market = Market()
    market.providers[provider.address] = provider
    market.join(provider.name, offer={"slots": UNITS})
    market.join_verifier(card={"slots": UNITS})
    market.submit(make_spec(units=UNITS, verify=VerifyPolicy(mode="full")), checks=2 * UNITS)
    return market


def test_one_output_for_all_tasks_is_found_in_each_but_the_one_it_is_of() -> None:
    market = play(Copier("provider-1"))
    market.run(seconds_max=60)
    (job,) = market.state.jobs.values()
    checks = market.state.epochs[1].checks.values()
    verdicts = {check.unit: check.verdict for check in checks}
    assert verdicts == dict.fromkeys(range(1, UNITS), Verdict.MISMATCH) | {0: Verdict.MATCH}
    assert job.excluded == [P1] and P1 not in market.chain.sum_paid()


def swap_outputs(one: messages.ResultsOpened) -> messages.ResultsOpened:
    first, second, *rest = one.openings
    outputs = [each.body.result.output for each in (second, first)]
    swapped = [
        sign(change(each.body, result=change(each.body.result, output=output)), "provider-1")
        for each, output in zip((first, second), outputs, strict=True)
    ]
    return change(one, openings=(*swapped, *rest))


def swap_places(one: messages.ResultsOpened) -> messages.ResultsOpened:
    first, second, *rest = (each.body for each in one.openings)
    moved = [
        change(first, receipt_hash=second.receipt_hash),
        change(second, receipt_hash=first.receipt_hash),
        *rest,
    ]
    return change(one, openings=tuple(sign(each, "provider-1") for each in moved))


def renumber(one: messages.ResultsOpened) -> messages.ResultsOpened:
    first, second, *rest = (each.body for each in one.openings)
    moved = change(second, result=change(first.result, unit=second.result.unit))
    return change(one, openings=tuple(sign(each, "provider-1") for each in (first, moved, *rest)))


@pytest.mark.parametrize("move", [swap_outputs, swap_places, renumber])
def test_results_that_change_places_between_commitment_and_opening_are_refused(
    move: Callable[[messages.ResultsOpened], messages.ResultsOpened],
) -> None:
    market = play(PlayedProvider("provider-1"))
    play_until(market, lambda m: bool(list_sent(m.todo, messages.OpeningsRequested)))
    (request,) = list_sent(market.todo, messages.OpeningsRequested)
    moved = move(market.providers[P1].open(request))
    market.todo.clear()
    refused: list[Effect] = market.post(
        events.MessageReceived(at=market.now, sender=P1, message=moved)
    )
    assert [type(effect) for effect in refused] == [CloseSession]
    market.todo.clear()
    market.run(seconds_max=31)
    (job,) = market.state.jobs.values()
    assert job.excluded == [P1] and job.state is not JobState.SETTLED
    assert P1 not in market.chain.sum_paid()


def test_a_second_result_of_a_finished_task_changes_nothing() -> None:
    market = play(PlayedProvider("provider-1"))
    play_until(market, lambda m: bool(m.state.open_epochs))
    lease_id, receipt = next(iter(market.providers[P1].receipts.items()))
    before = dict(market.state.leases)
    again = messages.UnitFinished(
        lease_id=lease_id, receipt=sign(change(receipt, price=0), "provider-1"), duration_ms=1_000
    )
    market.post(events.MessageReceived(at=market.now, sender=P1, message=again))
    assert market.state.leases == before


# ---- what a coordinator could tell an auditor ----------------------------------------------


def tell(spoil: Callable[[ProviderWork], ProviderWork]) -> dict[str, tuple[AuditVerdict, str]]:
    """Audit a job whose coordinator committed to a spoiled first provider, and posted it."""

    class Liar(ProofMaker):
        def make_document(self, index: int) -> EpochDocument:
            document = super().make_document(index)
            first, *rest = document.work
            return change(document, work=(spoil(first), *rest))

    maker = Liar()
    proof, facts = make_settled_job(maker, epochs=make_epochs(maker))
    report = check_proof(proof, make_chain_evidence(facts))
    return {check.name: (check.verdict, check.text) for check in report.checks}


def reorder(work: ProviderWork) -> ProviderWork:
    return change(work, receipts=work.receipts[::-1])


def split(work: ProviderWork) -> ProviderWork:
    (pool,) = work.pools
    one = SamplePool(policy=pool.policy, count=1, price=pool.price // pool.count)
    rest = change(pool, count=pool.count - 1, price=pool.price - one.price)
    return change(work, pools=(one, rest))


def undercount(work: ProviderWork) -> ProviderWork:
    (pool,) = work.pools
    return change(work, pools=(change(pool, count=pool.count - 1),))


def cheapen(work: ProviderWork) -> ProviderWork:
    (pool,) = work.pools
    return change(work, pools=(change(pool, price=0),))


def loosen(work: ProviderWork) -> ProviderWork:
    (pool,) = work.pools
    return change(work, pools=(change(pool, policy=VerifyPolicy(mode="none")),))


@pytest.mark.parametrize(
    ("spoil", "line", "text"),
    [
        (reorder, "commitments", "does not cover its receipts"),
        (split, "samples", "one is in two"),
        (undercount, "samples", "count other results"),
        (cheapen, "samples", "sum other prices"),
        (loosen, "samples", "with other terms"),
    ],
)
def test_leaves_and_pools_that_are_counted_otherwise_fail_the_audit(
    spoil: Callable[[ProviderWork], ProviderWork], line: str, text: str
) -> None:
    verdict, said = tell(spoil)[line]
    assert verdict is AuditVerdict.FAIL and text in said, said


def test_an_unspoiled_job_passes() -> None:
    assert {verdict for verdict, _ in tell(lambda work: work).values()} == {AuditVerdict.PASS}
    assert compute_content_hash(make_epochs(ProofMaker())[0].document)
