"""What the hour ledger says of a node's leases, checks and restarts."""

from __future__ import annotations

import msgspec
import pytest

from gpumarket.protocol import messages
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    make_address,
    make_cid,
    make_device,
    make_hash,
    make_key,
    make_lease_offer,
    make_reason,
    make_resources,
    make_spec,
)
from gpumarket.testing.factories import (
    propose as make_proposal,
)
from provider_node.core.decide import Provider, decide
from provider_node.core.effects import ReadFunds, SignReceipt
from provider_node.core.events import (
    AttemptFailed,
    CoordinatorMessage,
    FundsSeen,
    HardwareChecked,
    MessageReceived,
    MinutePassed,
    OutputStored,
    ProcessStarted,
    ReceiptSigned,
    TimePassed,
    UnitPrepared,
    UnitRan,
)
from provider_node.core.hours import CHECKING, FAILED, IDLE, OFFLINE, PAID, UNPAID
from tests.provider_terms import make_terms

COORDINATOR = make_address("coordinator")


def make_state() -> Provider:
    terms = make_terms(devices=(make_device(),) * 2, slots=2)
    state = Provider(terms=terms)
    decide(state, ProcessStarted(at=NOW, terms=terms))
    return state


def hear(state: Provider, message: CoordinatorMessage, at: int) -> None:
    event = MessageReceived(
        at=Timestamp(at), coordinator=COORDINATOR, message=message, disk_free_bytes=10**12
    )
    for effect in decide(state, event):
        if isinstance(effect, ReadFunds):
            seen = FundsSeen(
                at=Timestamp(at),
                requester=effect.requester,
                coordinator=effect.coordinator,
                escrow=Amount(10**12),
                bond=Amount(10**12),
            )
            decide(state, seen)


def propose(state: Provider, lease: LeaseOffer, at: int = NOW) -> None:
    hear(state, make_proposal(lease), at)


def start_again(state: Provider, at: int) -> Provider:
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Provider)
    decide(again, ProcessStarted(at=Timestamp(at), terms=state.terms))
    return again


def test_every_second_of_every_device_is_counted_once() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease, at=NOW + 10)
    decide(state, UnitPrepared(at=Timestamp(NOW + 15), lease_id=lease.lease_id))
    state = start_again(state, at=NOW + 40)
    decide(state, TimePassed(at=Timestamp(NOW + 41)))
    first, second = state.ledger.totals
    assert first == {IDLE: 10, "preparing": 5 + 1, OFFLINE: 25}
    assert sum(first.values()) == sum(second.values()) == 41


def test_a_device_that_answers_a_challenge_is_checked_until_a_restart_forgets_it() -> None:
    state = make_state()
    decide(state, HardwareChecked(at=NOW, device=1, is_over=False))
    assert state.ledger.uses == [IDLE, CHECKING]
    decide(state, HardwareChecked(at=NOW, device=1, is_over=True))
    assert state.ledger.uses == [IDLE, IDLE]
    decide(state, HardwareChecked(at=NOW, device=0, is_over=False))
    need = make_resources(devices=DeviceNeed(count=1))
    propose(state, make_lease_offer(make_spec(resources=need)))
    assert state.ledger.uses == ["preparing", IDLE]
    decide(state, MinutePassed(at=Timestamp(NOW + 60)))
    assert state.ledger.counted_to == NOW + 60
    state = start_again(state, at=NOW + 70)
    assert state.checking == ()


@pytest.mark.parametrize("is_paid", [True, False])
def test_the_minutes_of_work_become_what_it_came_to(is_paid: bool) -> None:
    need = make_resources(devices=DeviceNeed(count=1))
    state, lease = make_state(), make_lease_offer(make_spec(resources=need))
    name = lease.lease_id
    propose(state, lease)
    decide(state, UnitPrepared(at=Timestamp(NOW + 10), lease_id=name))
    decide(state, UnitRan(at=Timestamp(NOW + 110), lease_id=name, duration_ms=100_000))
    later, output = Timestamp(NOW + 111), make_cid("out")
    stored = OutputStored(
        at=later, lease_id=name, output=output, output_bytes=7, salt=make_hash("salt")
    )
    [asked] = decide(state, stored)
    assert isinstance(asked, SignReceipt)
    signed = make_key("provider-1").sign(asked.receipt, DOMAIN).as_signed()
    decide(state, ReceiptSigned(at=later, lease_id=name, receipt=signed))
    ids = ((name,), ()) if is_paid else ((), (name,))
    closed = messages.EpochClosed(epoch=1, accepted=ids[0], rejected=ids[1])
    hear(state, closed, at=NOW + 120)
    found: dict[str, int] = {}
    for row in state.ledger.hours[0].values():
        for use, seconds in row.items():
            found[use] = found.get(use, 0) + seconds
    del found[OFFLINE]
    verdict = PAID if is_paid else UNPAID
    assert found == {"preparing": 10, verdict: 100, "uploading": 1, IDLE: 9}
    assert not state.ledger.spans
    assert sum(state.ledger.earned.values()) == state.tally.earned
    assert (state.tally.earned > 0) == is_paid


def test_the_minutes_of_work_that_failed_are_failed() -> None:
    need = make_resources(devices=DeviceNeed(count=1))
    state, lease = make_state(), make_lease_offer(make_spec(resources=need))
    propose(state, lease)
    decide(state, UnitPrepared(at=Timestamp(NOW + 10), lease_id=lease.lease_id))
    failed = AttemptFailed(at=Timestamp(NOW + 50), lease_id=lease.lease_id, reason=make_reason())
    decide(state, failed)
    rows = state.ledger.hours[0].values()
    assert sum(row.get(FAILED, 0) for row in rows) == 50
