"""
Attack 15: be provider, requester, verifier and coordinator at once, and farm rewards or a name.

Whoever has itself slashed and collects every reward for it has lost at least half: on the
contracts its claims shrink by what is burnt, and by nothing else. Work for oneself that the chain
shows, by the address or by where claims are paid, moves neither reputation nor the count of
checked results that lets a newcomer show less; a verifier of the same purse checks none of it. Not
seen: two identities whose addresses and payout addresses have nothing in common.
"""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core.lifecycle import JobState
from coordinator.core.order_book import get_reputation
from coordinator.core.reputation import START_PPM
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_attestation,
    encode_batch,
    encode_opening,
    encode_order,
)
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.openings import make_opening
from gpumarket.protocol.settlement import Lane
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.factories import make_address, make_hash, make_secret, make_spec
from tests.coordinator_market import Market
from tests.integration.court import CONFIG, DAY, Court
from tests.watch_scene import COORDINATOR, make_paid

P1, VERIFIER, PURSE = map(make_address, ("provider-1", "verifier-1", "purse"))
ALICE = make_address("alice")


# ---- slashes on the contracts --------------------------------------------------------------


@pytest.fixture(scope="module")
def owned(court: Court) -> Court:
    """One owner is requester, coordinator, provider, verifier and whoever reports."""
    court.pay_in("alice", 10**9, "deposit")
    court.pay_in("coordinator", 4 * CONFIG.min_bond, "bond")
    court.stake("provider-1", "Provider", payout="purse", amount=4 * CONFIG.min_stake)
    court.stake("verifier-1", "Verifier", payout="purse", amount=4 * CONFIG.min_stake)
    return court


def sum_owned(court: Court) -> int:
    """Add up everything that its owner could ever take out."""
    calls = court.settlement.functions
    names = [*map(encode_account, (ALICE, COORDINATOR, P1, VERIFIER, PURSE))]
    escrows = sum(calls.requesterOf(each).call()[0] for each in names)
    bonds = sum(calls.coordinatorOf(each).call()[0] for each in names)
    stakes = sum(calls.operatorOf(each).call()[3] for each in names)
    return int(escrows + bonds + stakes + sum(sum(calls.payeeOf(e).call()[:3]) for e in names))


def test_slashing_ones_own_bond_burns_half_of_it(owned: Court) -> None:
    held, burnt = sum_owned(owned), owned.settlement.functions.burnt().call()
    times: dict[str, Any] = {"settle_by": owned.now + 5 * DAY, "expiry": owned.now + 7 * DAY}
    paid = make_paid("self-dealt", domain=owned.domain, **times)
    paid.work(price=1_001)
    lanes = [Lane(requester=ALICE, payee=P1, leaves=tuple(leaf for _, _, leaf in paid.payments))]
    batch = owned.post(COORDINATOR, lanes)
    assert sum_owned(owned) == held, "paying oneself changes nothing but gas"
    report = owned.disputes.functions.proveBadLeaf(
        encode_batch(batch),
        encode_opening(make_opening(lanes, 0, 0)),
        encode_order(paid.order.body),
    )
    owned.do(report, ALICE)
    lost = held - sum_owned(owned)
    assert lost == owned.settlement.functions.burnt().call() - burnt
    assert 2 * lost >= CONFIG.bond_slash > 0


def test_slashing_ones_own_stake_burns_more_than_half_of_it(owned: Court) -> None:
    held, burnt = sum_owned(owned), owned.settlement.functions.burnt().call()
    signed: list[Any] = []
    for verdict in (Verdict.MATCH, Verdict.MISMATCH):
        said = Attestation(
            receipt_hash=make_hash("receipt"),
            verdict=int(verdict),
            evidence_hash=make_hash("evidence"),
            issued_at=owned.now,
        )
        signature = PrivateKey(make_secret("verifier-1")).sign(said, owned.domain).signature
        signed += [encode_attestation(said), signature]
    owned.do(owned.disputes.functions.proveConflict(*signed), ALICE)
    lost = held - sum_owned(owned)
    assert lost == owned.settlement.functions.burnt().call() - burnt
    assert 2 * lost > CONFIG.stake_slash > 0


# ---- reputation at the coordinator ---------------------------------------------------------


def play(**changes: Any) -> Market:
    """Let one provider do a job of four tasks, each of which is checked."""
    market = Market()
    market.join("provider-1", offer={"slots": 8}, payout=changes.get("payout", ""))
    market.join_verifier(card={"slots": 8})
    spec = make_spec(units=4, verify=VerifyPolicy(mode="full"))
    job = market.submit(spec, signer=changes.get("requester", "requester"), checks=8)
    market.run(seconds_max=200)
    assert job.state is JobState.SETTLED and market.chain.sum_paid()[P1] > 0
    return market


def test_work_for_others_is_counted() -> None:
    market = play()
    standing = market.state.standings[P1]
    assert (standing.audited, standing.days[-1].accepted) == (4, 4)
    assert get_reputation(market.state, P1) > START_PPM


@pytest.mark.parametrize(
    "same",
    [
        {"requester": "provider-1"},
        {"requester": "purse", "payout": "purse"},
        {"requester": "verifier-1", "payout": "verifier-1"},
    ],
    ids=["the provider itself", "where it is paid", "a verifier where it is paid"],
)
def test_work_for_oneself_is_paid_and_counts_for_nothing(same: dict[str, str]) -> None:
    if same["requester"] == "verifier-1":
        market = Market()
        market.join("provider-1", offer={"slots": 8}, payout="verifier-1")
        market.join_verifier("verifier-1", card={"slots": 8})
        market.join_verifier("verifier-2", card={"slots": 8})
        spec = make_spec(units=4, verify=VerifyPolicy(mode="full"))
        market.submit(spec, signer="verifier-1", checks=8)
        market.run(seconds_max=200)
        checks = market.state.epochs[1].checks.values()
        assert {check.verifier for check in checks} == {make_address("verifier-2")}
    else:
        market = play(**same)
    standing = market.state.standings.get(P1)
    assert standing is None or (standing.audited, sum(d.accepted for d in standing.days)) == (0, 0)
    assert get_reputation(market.state, P1) == START_PPM


def test_a_forgery_for_oneself_still_counts_against_one() -> None:
    market = Market()
    market.join("provider-1", offer={"slots": 8}, forges=frozenset({0}))
    market.join_verifier(card={"slots": 8})
    spec = make_spec(units=4, verify=VerifyPolicy(mode="full"))
    market.submit(spec, signer="provider-1", checks=8)
    market.run(seconds_max=200)
    assert market.state.standings[P1].days[-1].forged == 1
    assert get_reputation(market.state, P1) < START_PPM
