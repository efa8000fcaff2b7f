"""
Attack 4: commit to results and then not show them.

A result that is not opened in time costs its whole pool: nothing of it is paid, in any job, and
others do the tasks again. So does an output of a sampled task that is gone when the coordinator
fetches it, whatever the verifier said: otherwise a forger that knows the sample would hide what is
drawn of it and be paid for the rest. An output that was not sampled and is gone is unpaid alone.
On chain a lane of which one leaf is withheld goes back whole to its requester, and costs the
coordinator a slash; showing the leaf in time earns it the bond of whoever asked.
"""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core.effects import FetchOutput, ProposeLease
from coordinator.core.events import Event, MessageReceived, OutputMissing
from coordinator.core.lifecycle import JobState
from coordinator.core.state import Job
from gpumarket.adapters.chain_errors import ContractRefusal
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_batch,
    encode_evidence,
    encode_opening,
)
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.bills import NO_ATTESTATION
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.openings import PostedBatch, make_opening
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import change, make_address, make_spec, sign
from tests.coordinator_market import Market, PlayedProvider, PlayedVerifier, list_sent, play_until
from tests.integration.court import CONFIG, DAY, Court
from tests.watch_scene import COORDINATOR, Paid, make_paid

P1, P2, VERIFIER = map(make_address, ("provider-1", "provider-2", "verifier-1"))
ALICE, WATCHER = make_address("alice"), make_address("watcher")
UNITS = 4
POLICY = VerifyPolicy(rate_ppm=250_000, confidence_ppm=0, units_min=0)


# ---- at the coordinator --------------------------------------------------------------------


class Hider(PlayedProvider):
    """Opens everything but one task of one job."""

    def open(self, request: messages.OpeningsRequested) -> messages.ResultsOpened:
        opened = super().open(request)
        return change(opened, openings=opened.openings[1:])


def play_two_jobs(
    provider: PlayedProvider, market: Market | None = None
) -> tuple[Market, list[Job]]:
    """Let a provider do two jobs of two requesters in one epoch, up to its openings."""
    market = market or Market()
    market.providers[provider.address] = provider
    market.join(provider.name, offer={"slots": 2 * UNITS})
    if provider.forges:
        market.verifiers[VERIFIER] = Undecided("verifier-1")
    market.join_verifier(card={"slots": 2 * UNITS})
    spec = make_spec(units=UNITS, verify=POLICY)
    jobs = [market.submit(spec, signer=name, checks=4 * UNITS) for name in ("alice", "bob")]
    leases = [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]
    market.todo = [effect for effect in market.todo if not isinstance(effect, ProposeLease)]
    # An epoch begins when a job is done, with all that is finished: one task of the first is not.
    for lease in (*leases[1:], leases[0]):
        done = provider.run(lease, market.now)
        market.post(MessageReceived(at=market.now, sender=P1, message=done))
    play_until(market, lambda m: list_sent(m.todo, messages.OpeningsRequested))
    (pool,) = market.state.epochs[1].parts[P1].pools
    assert len(pool.lease_ids) == 2 * UNITS - 1 and len(pool.order_hashes) == 2
    return market, jobs


def test_one_result_that_stays_closed_costs_the_pool_of_both_jobs() -> None:
    market, jobs = play_two_jobs(Hider("provider-1"))
    market.join("provider-2", offer={"slots": 2 * UNITS})
    market.run(seconds_max=400)
    assert [job.state for job in jobs] == [JobState.SETTLED] * 2, "others did it again"
    assert [job.excluded for job in jobs] == [[P1], [P1]]
    paid = market.chain.sum_paid()
    assert P1 not in paid and paid[P2] > 0
    facts = market.state.standings[P1].days[-1]
    # Once for each of the two epochs that its tasks were in.
    assert (facts.accepted, facts.withheld) == (0, 2)


def test_the_same_market_pays_who_opens_everything() -> None:
    market, jobs = play_two_jobs(PlayedProvider("provider-1"))
    market.run(seconds_max=400)
    assert [job.state for job in jobs] == [JobState.SETTLED] * 2
    assert market.chain.sum_paid()[P1] > 0


class HidingMarket(Market):
    """Outputs of the hidden tasks can be had by nobody, once the sample is known."""

    hidden: frozenset[Hash32] = frozenset()

    def _fetch(self, effect: FetchOutput) -> Event:
        if effect.lease_id not in self.hidden:
            return super()._fetch(effect)
        return OutputMissing(
            at=self.now, lease_id=effect.lease_id, cid=effect.cid, code="GM-6012", text="gone"
        )


class Undecided(PlayedVerifier):
    """Has a rule that needs both outputs, and the other's cannot be had."""

    def judge(self, shown: messages.ResultShown, now: Timestamp) -> messages.CheckDone:
        done = super().judge(shown, now)
        body = change(done.attestation.body, verdict=int(Verdict.INCONCLUSIVE))
        return change(done, attestation=sign(body, self.name))


def hide(is_sampled: bool, *, forges: bool) -> tuple[Market, list[Job]]:
    """Play one that forges all tasks or none, and hides those in the sample, or another one."""
    forged = frozenset(range(UNITS)) if forges else frozenset()
    market, jobs = play_two_jobs(PlayedProvider("provider-1", forges=forged), HidingMarket())
    play_until(market, lambda m: list_sent(m.todo, messages.ResultShown))
    checked = {check.lease_id for check in market.state.epochs[1].checks.values()}
    others = set(market.state.epochs[1].parts[P1].lease_ids) - checked
    assert isinstance(market, HidingMarket) and checked and others
    market.hidden = frozenset(checked if is_sampled else sorted(others)[:1])
    market.run(seconds_max=100)
    return market, jobs


@pytest.mark.parametrize("forges", [True, False])
def test_who_hides_what_is_sampled_loses_the_pool(*, forges: bool) -> None:
    market, jobs = hide(is_sampled=True, forges=forges)
    assert [job.excluded for job in jobs] == [[P1], [P1]]
    part = market.state.epochs[1].parts[P1]
    assert (len(part.accepted), len(part.rejected)) == (0, 2 * UNITS - 1)
    assert market.state.standings[P1].days[-1].withheld == 1
    market.join("provider-2", offer={"slots": 2 * UNITS})
    market.verifiers.clear()
    market.join_verifier("verifier-2", card={"slots": 2 * UNITS})
    market.run(seconds_max=2_000)
    assert [job.state for job in jobs] == [JobState.SETTLED] * 2, "others did it again"
    paid = market.chain.sum_paid()
    # One honest task was in the next epoch, and is another pool's.
    assert paid[P2] >= (2 * UNITS - 1) * paid.get(P1, 0)
    assert not (forges and P1 in paid)


def test_an_output_that_was_not_sampled_and_is_gone_is_unpaid_alone() -> None:
    market, jobs = hide(is_sampled=False, forges=False)
    part = market.state.epochs[1].parts[P1]
    assert (len(part.accepted), len(part.rejected)) == (2 * UNITS - 2, 1)
    assert [job.excluded for job in jobs] == [[], []]


# ---- on chain ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def funded(court: Court) -> Court:
    for name in ("alice", "watcher"):
        court.pay_in(name, 10**9, "deposit")
    court.pay_in("coordinator", 4 * CONFIG.min_bond, "bond")
    return court


class Withheld:
    """A lane of three right leaves, whose middle one a watcher has challenged as withheld."""

    def __init__(self, court: Court, name: str) -> None:
        self.court = court
        times: dict[str, Any] = {"settle_by": court.now + 5 * DAY, "expiry": court.now + 7 * DAY}
        self.paid: Paid = make_paid(name, domain=court.domain, **times)
        self.receipts: list[Signed[Receipt]] = [self.paid.work(unit) for unit in range(3)]
        leaves = tuple(leaf for _, _, leaf in self.paid.payments)
        self.lanes = [Lane(requester=ALICE, payee=P1, leaves=leaves)]
        self.batch: PostedBatch = court.post(COORDINATOR, self.lanes)
        self.before = read_money(court)
        function = court.disputes.functions.challengeWithheld(encode_batch(self.batch), 0, 1)
        asked = court.do(function, WATCHER).get("Challenged")
        self.number, self.deadline = asked["id"], asked["challenge"]["deadline"]
        values = list(asked["challenge"].values())
        self.challenge = (tuple(asked["challenge"]["place"].values()), *values[1:])

    def answer(self, index: int) -> Any:
        """Return the call that shows a leaf with its evidence."""
        evidence = LeafEvidence(
            order=self.paid.order.body,
            order_signature=self.paid.order.signature,
            receipt=self.receipts[index].body,
            receipt_signature=self.receipts[index].signature,
            attestation=NO_ATTESTATION,
        )
        return self.court.disputes.functions.respondWithheld(
            self.number,
            self.challenge,
            encode_batch(self.batch),
            encode_opening(make_opening(self.lanes, 0, index)),
            encode_evidence(evidence),
        )

    def end(self) -> Any:
        return self.court.disputes.functions.timeout(self.number, self.challenge)


def read_money(court: Court) -> dict[str, int]:
    calls = court.settlement.functions
    owed = {
        name: sum(calls.payeeOf(encode_account(make_address(name))).call()[:3])
        for name in ("provider-1", "coordinator", "watcher")
    }
    escrows = {
        f"escrow of {name}": calls.requesterOf(encode_account(make_address(name))).call()[0]
        for name in ("alice", "watcher")
    }
    bond = calls.coordinatorOf(encode_account(COORDINATOR)).call()[0]
    return owed | escrows | {"bond": bond}


def list_changes(withheld: Withheld) -> dict[str, int]:
    after = read_money(withheld.court)
    return {
        name: after[name] - value for name, value in withheld.before.items() if after[name] != value
    }


def test_a_lane_of_which_one_leaf_is_withheld_goes_back_whole(funded: Court) -> None:
    withheld = Withheld(funded, "withheld")
    early = funded.send(withheld.end(), WATCHER)
    assert isinstance(early, ContractRefusal) and early.name == "TooEarly"
    other = funded.send(withheld.answer(0), COORDINATOR)
    assert isinstance(other, ContractRefusal) and other.name == "WrongHash", "another leaf"
    funded.skip_to(withheld.deadline + 1)
    late = funded.send(withheld.answer(1), COORDINATOR)
    assert isinstance(late, ContractRefusal) and late.name == "TooLate"
    funded.do(withheld.end(), make_address("anybody"))
    assert list_changes(withheld) == {
        "provider-1": -3 * 700,
        "escrow of alice": 3 * 700 + CONFIG.bond_slash // 4,
        "watcher": min(CONFIG.bond_slash // 8, 10 * CONFIG.challenge_bond),
        "bond": -CONFIG.bond_slash,
    }


def test_a_leaf_that_is_shown_in_time_earns_the_bond_of_whoever_asked(funded: Court) -> None:
    withheld = Withheld(funded, "shown")
    funded.do(withheld.answer(1), COORDINATOR)
    bond = CONFIG.challenge_bond
    assert list_changes(withheld) == {"coordinator": bond, "escrow of watcher": -bond}
