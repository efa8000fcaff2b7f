"""Relaying: what others say for a receipt is told its provider until it answers."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events, relaying
from coordinator.core.decide import CoordinatorState
from coordinator.core.effects import Effect
from coordinator.core.relaying import check_acceptances
from coordinator.core.state import Job
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import change, make_address, make_hash, make_spec, sign
from tests.coordinator_market import Market, list_sent

P1, V1 = make_address("provider-1"), make_address("verifier-1")
NONE = VerifyPolicy(mode="none")


def make_market(*, units: int = 2, verify: VerifyPolicy | None = None, **flags: object) -> Market:
    """A market in which one provider does it all; settled, but for what the flags say."""
    market = Market()
    market.join("provider-1", **flags)
    market.join_verifier()
    market.submit(make_spec(units=units, **({"verify": verify} if verify else {})))
    market.run()
    return market


def find_job(market: Market) -> Job:
    return next(iter(market.state.jobs.values()))


def list_receipts(market: Market) -> list[Hash32]:
    receipts = [le.receipt for le in market.state.leases.values() if le.receipt]
    return [receipt.body.compute_struct_hash() for receipt in receipts]


def accept(market: Market, *names: Hash32, by: str = "requester") -> events.WorkAccepted:
    return events.WorkAccepted(
        at=market.now,
        order_hash=find_job(market).order_hash,
        acceptances=tuple(sign(Acceptance(receipt_hash=name), by) for name in names),
    )


def list_told(effects: list[Effect]) -> list[Hash32]:
    said = list_sent(effects, messages.ReceiptsApproved)
    return [word for each in said for one in each.approvals.approvals for word in one.list_words()]


def test_acceptances_reach_their_provider_and_are_forgotten_once_kept() -> None:
    market = make_market(verify=NONE)
    event = accept(market, *list_receipts(market))
    market.post(event)
    words = [each.body.compute_struct_hash() for each in event.acceptances]
    assert list(market.state.unheard) == words
    market.run()
    provider = market.providers[P1]
    assert [each.acceptance for each in provider.approvals] == list(event.acceptances)
    assert market.state.unheard == {}
    assert find_job(market).log[-1].type == "approved"


def test_an_absent_provider_is_told_when_it_joins_again_and_after_our_own_crash() -> None:
    market = make_market(verify=NONE)
    market.leave("provider-1")
    market.post(accept(market, *list_receipts(market)))
    market.run()
    assert len(market.state.unheard) == 2
    market.state = msgspec.msgpack.decode(
        msgspec.msgpack.encode(market.state), type=CoordinatorState
    )
    market.post(events.ProcessStarted(at=market.now))
    market.join("provider-1")
    market.run()
    assert len(market.providers[P1].approvals) == 2
    assert market.state.unheard == {}
    market.leave("provider-1")
    market.join("provider-1")
    market.run()
    assert len(market.providers[P1].approvals) == 2, "what is kept is not said again"


def test_what_is_not_answered_is_said_in_each_session() -> None:
    market = make_market(verify=NONE, keeps_approvals=False)
    event = accept(market, *list_receipts(market))
    market.post(event)
    market.run()
    for _ in range(2):
        market.leave("provider-1")
        market.join("provider-1")
        assert sorted(list_told(market.todo)) == sorted(market.state.unheard)
        market.run()


def test_accepting_again_changes_nothing_but_says_it_again() -> None:
    market = make_market(verify=NONE, keeps_approvals=False)
    event = accept(market, *list_receipts(market))
    market.post(event)
    before = set(market.state.unheard)
    market.todo.clear()
    market.post(event)
    assert set(market.state.unheard) == before == set(list_told(market.todo))


@pytest.mark.parametrize(
    ("fault", "code"),
    [("stranger", "GM-1204"), ("forged", "GM-1204"), ("receipt", "GM-8005"), ("job", "GM-5001")],
)
def test_what_is_wrong_is_refused_and_would_change_nothing(fault: str, code: str) -> None:
    market = make_market(verify=NONE)
    good = accept(market, *list_receipts(market))
    event = {
        "stranger": accept(market, *list_receipts(market), by="bob"),
        "forged": change(
            good,
            acceptances=(good.acceptances[0], change(good.acceptances[1], signature=bytes(65))),
        ),
        "receipt": accept(market, list_receipts(market)[0], make_hash("no receipt")),
        "job": change(good, order_hash=make_hash("no job")),
    }[fault]
    with pytest.raises(InvalidInput) as caught:
        check_acceptances(market.state, event)
    assert caught.value.code == code
    market.post(event)
    assert market.state.unheard == {}
    assert list_told(market.todo) == []


def test_only_the_provider_itself_can_say_that_it_keeps_a_word() -> None:
    market = make_market(verify=NONE, keeps_approvals=False)
    market.join("provider-2")
    market.post(accept(market, *list_receipts(market)))
    market.run()
    kept = messages.ApprovalsKept(words=(*market.state.unheard, make_hash("nothing")))
    market.post(
        events.MessageReceived(at=market.now, sender=make_address("provider-2"), message=kept)
    )
    assert len(market.state.unheard) == 2
    market.post(events.MessageReceived(at=market.now, sender=P1, message=kept))
    assert market.state.unheard == {}


def test_an_order_that_has_expired_is_not_talked_about() -> None:
    market = make_market(verify=NONE, keeps_approvals=False)
    market.post(accept(market, *list_receipts(market)))
    market.run()
    market.leave("provider-1")
    market.now = Timestamp(find_job(market).order.body.expiry + 1)
    market.join("provider-1")
    assert list_told(market.todo) == []


def test_the_oldest_words_are_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "UNHEARD_MAX", 3)
    market = make_market(units=5, verify=NONE, keeps_approvals=False)
    event = accept(market, *list_receipts(market))
    market.post(event)
    words = [each.body.compute_struct_hash() for each in event.acceptances]
    assert list(market.state.unheard) == words[2:]


def test_many_words_go_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "MESSAGE_APPROVALS_MAX", 2)
    market = make_market(units=5, verify=NONE, keeps_approvals=False)
    market.post(accept(market, *list_receipts(market)))
    said = list_sent(market.todo, messages.ReceiptsApproved)
    assert [len(each.approvals.approvals) for each in said] == [2, 2, 1]


def test_words_about_a_forgotten_job_are_forgotten() -> None:
    market = make_market(verify=NONE, keeps_approvals=False)
    market.post(accept(market, *list_receipts(market)))
    market.run()
    market.state.settings = change(market.state.settings, jobs_kept_max=0)
    market.submit(make_spec(units=1, verify=NONE), nonce=make_hash("second"))
    market.run()
    assert not [job for job in market.state.jobs.values() if job.log[-1].type == "approved"]
    assert market.state.unheard == {}


# ---- verifiers -----------------------------------------------------------------------------


def test_a_match_reaches_the_provider_of_the_accepted_receipt() -> None:
    market = make_market(units=1)
    (approval,) = market.providers[P1].approvals
    assert approval.attestation is not None
    assert approval.attestation.signer == V1
    assert approval.attestation.body.verdict == Verdict.MATCH
    assert [approval.receipt_hash] == list_receipts(market)
    assert market.state.unheard == {}


def test_a_forger_gets_no_match_for_what_it_has_not_forged() -> None:
    market = Market()
    market.join("provider-1", forges=frozenset({1}))
    market.join_verifier()
    market.submit(make_spec(units=2, verify=VerifyPolicy(mode="full")))
    market.run()
    verdicts = [c.verdict for e in market.state.epochs.values() for c in e.checks.values()]
    assert set(verdicts) == {Verdict.MATCH, Verdict.MISMATCH}
    assert market.providers[P1].approvals == []
    assert market.state.unheard == {}


def test_a_match_of_an_output_that_nobody_can_fetch_is_not_relayed() -> None:
    market = make_market(units=1, verify=VerifyPolicy(mode="full"), has_outputs=False)
    market.run(seconds_max=25)
    verdicts = [c.verdict for e in market.state.epochs.values() for c in e.checks.values()]
    assert Verdict.MATCH in verdicts
    assert find_job(market).units[0].failures
    assert market.providers[P1].approvals == []
    assert market.state.unheard == {}
