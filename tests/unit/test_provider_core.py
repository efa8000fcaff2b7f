"""What a provider decides: one lease's way from proposal to payment, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gpumarket.protocol import messages
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import JobSpec, Placement
from gpumarket.protocol.lease import LeaseOffer, make_assignment
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, Timestamp, format_money
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    change,
    make_address,
    make_cid,
    make_device,
    make_hash,
    make_key,
    make_lease_offer,
    make_output,
    make_reason,
    make_resources,
    make_seal,
    make_signed_order,
    make_spec,
    sign,
)
from gpumarket.testing.factories import propose as make_proposal
from provider_node.core.decide import Provider, decide
from provider_node.core.effects import (
    CleanUp,
    Effect,
    PrepareUnit,
    ReadFunds,
    RunUnit,
    SendMessage,
    SignOpenings,
    SignReceipt,
    SignRoot,
    StopUnit,
    StoreOutput,
)
from provider_node.core.events import (
    AttemptFailed,
    CoordinatorCaught,
    CoordinatorJoined,
    FundsSeen,
    FundsUnknown,
    MessageReceived,
    OutputStored,
    ProcessStarted,
    ReceiptSigned,
    TimePassed,
    UnitPrepared,
    UnitProgressed,
    UnitRan,
)
from provider_node.core.hours import HOURS_KEPT
from provider_node.core.state import (
    FUNDS_SECONDS,
    NEXT,
    RETENTION_SECONDS,
    WAITING_MAX,
    Phase,
    Proposal,
    check_state,
)
from provider_node.core.terms import NodeAddress, Terms, make_offer

COORDINATOR = make_address("coordinator")
ME = make_address("provider-1")
DISK = 10**12
BOND = Amount(100_000_000)
RICH = Amount(10**12)


def make_terms(**changes: Any) -> Terms:
    values: dict[str, Any] = {
        "provider": ME,
        "domain": DOMAIN,
        "devices": (make_device(device_id="GPU-0"), make_device(device_id="GPU-1")),
        "slots": 2,
        "cpus": 16,
        "memory_bytes": 64 * 10**9,
        "disk_bytes": 10**12,
        "region": "SE",
        "isolation": "runc",
        "repro_class": make_hash("class"),
        "price_per_device_hour": Amount(400_000),
        "order_lifetime_seconds": 7 * 86_400,
        "bond_min": BOND,
    }
    return Terms(**(values | changes))


def make_state(**changes: Any) -> Provider:
    state = Provider(terms=make_terms(**changes))
    decide(state, ProcessStarted(at=NOW, terms=state.terms))
    return state


def hear(
    state: Provider, message: Any, *, by: str = "coordinator", at: int = NOW, disk: int = DISK
) -> list[Effect]:
    event = MessageReceived(
        at=Timestamp(at), coordinator=make_address(by), message=message, disk_free_bytes=disk
    )
    effects = decide(state, event)
    check_state(state)
    return effects


def see_funds(
    state: Provider, asked: Effect, *, escrow: Amount = RICH, bond: Amount = BOND, at: int = NOW
) -> list[Effect]:
    """Answer a reading of the chain."""
    assert isinstance(asked, ReadFunds)
    seen = FundsSeen(
        at=Timestamp(at),
        requester=asked.requester,
        coordinator=asked.coordinator,
        escrow=escrow,
        bond=bond,
    )
    effects = decide(state, seen)
    check_state(state)
    return effects


def propose(
    state: Provider, lease: LeaseOffer, *, signer: str = "coordinator", **how: Any
) -> list[Effect]:
    """Propose a lease; where the chain is asked, it says that everybody is rich."""
    effects = hear(state, make_proposal(lease, signer), **how)
    if effects and isinstance(effects[0], ReadFunds):
        return see_funds(state, effects[0])
    return effects


def get_messages(effects: list[Effect]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, SendMessage)]


def sign_as_me(receipt: Any) -> Signed[Any]:
    return make_key("provider-1").sign(receipt, DOMAIN).as_signed()


def run_to_signing(state: Provider, lease: LeaseOffer, *, salt: str = "salt") -> SignReceipt:
    """Take a lease to the point where its receipt is to be signed."""
    lease_id, at = lease.lease_id, Timestamp(NOW + 9)
    propose(state, lease)
    decide(state, UnitPrepared(at=at, lease_id=lease_id))
    decide(state, UnitRan(at=at, lease_id=lease_id, duration_ms=9_000))
    stored = OutputStored(
        at=at, lease_id=lease_id, output=make_cid("out"), output_bytes=7, salt=make_hash(salt)
    )
    [effect] = decide(state, stored)
    assert isinstance(effect, SignReceipt)
    return effect


def finish(state: Provider, lease: LeaseOffer, *, salt: str = "salt") -> Signed[Any]:
    """Take a lease to its signed receipt."""
    signed = sign_as_me(run_to_signing(state, lease, salt=salt).receipt)
    decide(state, ReceiptSigned(at=NOW, lease_id=lease.lease_id, receipt=signed))
    check_state(state)
    return signed


# ---- one lease -----------------------------------------------------------------------------


def test_a_lease_goes_from_proposal_to_payment() -> None:
    spec = make_spec(resources=make_resources(devices=DeviceNeed(count=1)))
    state, lease = make_state(), make_lease_offer(spec)
    lease_id = lease.lease_id
    accepted, prepare = propose(state, lease)
    assert get_messages([accepted]) == [messages.LeaseAccepted(lease_id=lease_id)]
    assert prepare == PrepareUnit(lease=lease)
    run = decide(state, UnitPrepared(at=NOW, lease_id=lease_id))
    assert run == [RunUnit(lease=lease, device_ids=("GPU-0",))]
    assert decide(state, UnitRan(at=NOW, lease_id=lease_id, duration_ms=9_000)) == [
        StoreOutput(lease_id=lease_id)
    ]
    stored = OutputStored(
        at=NOW, lease_id=lease_id, output=make_cid("out"), output_bytes=7, salt=make_hash("salt")
    )
    [to_sign] = decide(state, stored)
    assert isinstance(to_sign, SignReceipt)
    assert to_sign.receipt.price == 1_000  # 9 s of one device at 0.40 an hour
    signed = sign_as_me(to_sign.receipt)
    told, cleaned = decide(state, ReceiptSigned(at=NOW, lease_id=lease_id, receipt=signed))
    assert get_messages([told]) == [
        messages.UnitFinished(lease_id=lease_id, receipt=signed, duration_ms=9_000)
    ]
    assert cleaned == CleanUp(lease_id=lease_id, is_output_kept=True)

    [root] = hear(state, messages.RootRequested(epoch=3, lease_ids=(lease_id,)))
    assert isinstance(root, SignRoot)
    assert root.root.root == compute_root([signed.body.result_hash])
    assert (root.root.count, root.root.price, root.root.duration_ms) == (1, 1_000, 9_000)

    seal = make_seal(receipt_hash=signed.body.compute_struct_hash())
    [opened] = hear(
        state,
        messages.OpeningsRequested(
            epoch=3, lease_ids=(lease_id,), seals=(sign(seal, "verifier-1"),)
        ),
    )
    assert isinstance(opened, SignOpenings)
    [opening] = opened.openings
    assert opening.result.compute_hash() == signed.body.result_hash
    assert opening.seal_hashes == (compute_content_hash(seal),)

    hear(state, messages.EpochClosed(epoch=3, accepted=(lease_id,), rejected=()))
    assert state.leases[lease_id].phase is Phase.PAID
    assert state.tally.earned == 1_000


def test_a_second_output_makes_no_second_receipt() -> None:
    state, lease = make_state(), make_lease_offer()
    first = run_to_signing(state, lease)
    again = OutputStored(
        at=NOW,
        lease_id=lease.lease_id,
        output=make_cid("other"),
        output_bytes=9,
        salt=make_hash("x"),
    )
    assert decide(state, again) == []
    assert state.leases[lease.lease_id].receipt == first.receipt
    signed = sign_as_me(first.receipt)
    decide(state, ReceiptSigned(at=NOW, lease_id=lease.lease_id, receipt=signed))
    assert decide(state, ReceiptSigned(at=NOW, lease_id=lease.lease_id, receipt=signed)) == []


def test_a_receipt_that_was_not_asked_for_is_our_own_bug() -> None:
    state, lease = make_state(), make_lease_offer()
    asked = run_to_signing(state, lease).receipt
    other = sign_as_me(change(asked, price=asked.price + 1))
    with pytest.raises(LocalProtocolError):
        decide(state, ReceiptSigned(at=NOW, lease_id=lease.lease_id, receipt=other))


def test_the_price_never_exceeds_what_the_lease_allows() -> None:
    state, lease = make_state(), make_lease_offer(price_max=300)
    assert run_to_signing(state, lease).receipt.price == 300


def test_a_unit_without_a_device_is_priced_as_one() -> None:
    spec = make_spec(resources=make_resources(devices=DeviceNeed(count=0)))
    assert run_to_signing(make_state(), make_lease_offer(spec)).receipt.price == 1_000


def test_a_failed_unit_is_reported_and_frees_its_slot() -> None:
    state, lease = make_state(slots=1), make_lease_offer()
    propose(state, lease)
    failed = AttemptFailed(
        at=NOW, lease_id=lease.lease_id, reason=make_reason(), exit_code=2, log_tail="Traceback"
    )
    effects = decide(state, failed)
    assert get_messages(effects) == [
        messages.UnitFailed(
            lease_id=lease.lease_id, reason=make_reason(), exit_code=2, log_tail="Traceback"
        )
    ]
    assert CleanUp(lease_id=lease.lease_id, is_output_kept=True) in effects
    assert not state.find_active()
    assert state.tally.outcomes == {"failed": {"requester": 1}}


def test_a_cancelled_unit_is_stopped_and_later_answers_are_ignored() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease)
    effects = hear(
        state, messages.LeaseCancelled(lease_id=lease.lease_id, reason=make_reason(code="GM-5401"))
    )
    assert StopUnit(lease_id=lease.lease_id) in effects
    assert decide(state, UnitPrepared(at=NOW, lease_id=lease.lease_id)) == []
    assert state.leases[lease.lease_id].phase is Phase.FAILED


def test_another_coordinator_cannot_touch_a_lease() -> None:
    state, lease = make_state(), make_lease_offer()
    signed = finish(state, lease)
    lease_id = lease.lease_id
    for message in (
        messages.LeaseCancelled(lease_id=lease_id, reason=make_reason()),
        messages.RootRequested(epoch=1, lease_ids=(lease_id,)),
        messages.OpeningsRequested(epoch=1, lease_ids=(lease_id,), seals=()),
        messages.EpochClosed(epoch=1, accepted=(lease_id,), rejected=()),
    ):
        effects = hear(state, message, by="stranger")
        assert all(isinstance(m, messages.Declined) for m in get_messages(effects))
    assert state.leases[lease_id].phase is Phase.FINISHED
    assert state.leases[lease_id].signed == signed


# ---- after a restart or a lost session -----------------------------------------------------


def start_again(state: Provider, at: int = NOW + 60) -> tuple[Provider, list[Effect]]:
    """Write the state down, read it back, and start on it."""
    body = msgspec.msgpack.encode(state)
    again = msgspec.msgpack.decode(body, type=Provider)
    assert again == state
    effects = decide(again, ProcessStarted(at=Timestamp(at), terms=state.terms))
    check_state(again)
    return again, effects


def test_a_running_unit_begins_again_after_a_restart() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease)
    decide(state, UnitPrepared(at=NOW, lease_id=lease.lease_id))
    state, effects = start_again(state)
    assert effects == [PrepareUnit(lease=lease)]


def test_leases_that_new_terms_have_no_room_for_are_given_back() -> None:
    state = make_state()
    need = make_resources(devices=DeviceNeed(count=1))
    oldest, newest = (make_lease_offer(make_spec(units=2, resources=need), unit=u) for u in (0, 1))
    propose(state, oldest)
    propose(state, newest)
    effects = decide(state, ProcessStarted(at=NOW, terms=make_terms(slots=1)))
    check_state(state)
    assert [lease.lease_id for lease in state.find_active()] == [oldest.lease_id]
    assert [message.lease_id for message in get_messages(effects)] == [newest.lease_id]
    other = make_terms(slots=1, devices=(make_device(model="Other"),))
    decide(state, ProcessStarted(at=NOW, terms=other))
    check_state(state)
    assert not state.find_active()


def test_a_receipt_being_signed_is_asked_for_again_and_stays_the_same() -> None:
    state, lease = make_state(), make_lease_offer()
    asked = run_to_signing(state, lease)
    state, effects = start_again(state)
    assert effects == [asked]


def test_what_was_not_acknowledged_is_said_again_when_the_session_stands() -> None:
    state = make_state()
    running, done, failed = (make_lease_offer(make_spec(units=3), unit=unit) for unit in range(3))
    signed = finish(state, done)
    propose(state, failed)
    decide(state, AttemptFailed(at=NOW, lease_id=failed.lease_id, reason=make_reason()))
    propose(state, running)
    state, _ = start_again(state)
    said = get_messages(decide(state, CoordinatorJoined(at=NOW, coordinator=COORDINATOR)))
    assert messages.LeaseAccepted(lease_id=running.lease_id) in said
    assert messages.UnitFinished(lease_id=done.lease_id, receipt=signed, duration_ms=9_000) in said
    assert [m.lease_id for m in said if isinstance(m, messages.UnitFailed)] == [failed.lease_id]
    assert not decide(state, CoordinatorJoined(at=NOW, coordinator=make_address("stranger")))
    assert set(state.find_unfinished_business()) == {running.lease_id, done.lease_id}


def test_openings_survive_a_restart() -> None:
    state, lease = make_state(), make_lease_offer()
    finish(state, lease)
    hear(state, messages.RootRequested(epoch=1, lease_ids=(lease.lease_id,)))
    request = messages.OpeningsRequested(epoch=1, lease_ids=(lease.lease_id,), seals=())
    before = hear(state, request)
    state, _ = start_again(state)
    assert hear(state, request) == before


def test_a_proposal_that_comes_again_gets_the_answer_that_stands() -> None:
    state, lease = make_state(), make_lease_offer()
    first = get_messages(propose(state, lease))
    assert get_messages(propose(state, lease)) == first
    assert len(state.leases) == 1


# ---- roots and openings --------------------------------------------------------------------


def test_a_root_over_anything_but_our_open_receipts_is_declined() -> None:
    state = make_state()
    done, running = (make_lease_offer(make_spec(units=2), unit=unit) for unit in range(2))
    finish(state, done)
    propose(state, running)
    for lease_ids in (
        (make_hash("unknown"),),
        (running.lease_id,),
        (done.lease_id, done.lease_id),
        (),
    ):
        [message] = get_messages(hear(state, messages.RootRequested(epoch=1, lease_ids=lease_ids)))
        assert isinstance(message, messages.Declined)
    assert state.leases[done.lease_id].phase is Phase.FINISHED


def test_receipts_of_an_epoch_given_up_may_be_rooted_in_a_later_one_but_not_once_opened() -> None:
    state, lease = make_state(), make_lease_offer()
    finish(state, lease)
    ids = (lease.lease_id,)
    hear(state, messages.RootRequested(epoch=2, lease_ids=ids))
    [again] = hear(state, messages.RootRequested(epoch=5, lease_ids=ids))
    assert isinstance(again, SignRoot)
    [earlier] = get_messages(hear(state, messages.RootRequested(epoch=4, lease_ids=ids)))
    assert isinstance(earlier, messages.Declined)
    hear(state, messages.OpeningsRequested(epoch=5, lease_ids=ids, seals=()))
    [late] = get_messages(hear(state, messages.RootRequested(epoch=6, lease_ids=ids)))
    assert isinstance(late, messages.Declined)


def test_nothing_is_opened_before_a_root_or_for_another_epoch() -> None:
    state, lease = make_state(), make_lease_offer()
    finish(state, lease)
    ids = (lease.lease_id,)
    for epoch in (1, 2):
        request = messages.OpeningsRequested(epoch=epoch, lease_ids=ids, seals=())
        [message] = get_messages(hear(state, request))
        assert isinstance(message, messages.Declined)
        hear(state, messages.RootRequested(epoch=1, lease_ids=ids))


def test_an_opening_names_only_a_properly_signed_seal_and_never_changes() -> None:
    state, lease = make_state(), make_lease_offer()
    receipt_hash = finish(state, lease).body.compute_struct_hash()
    ids = (lease.lease_id,)
    hear(state, messages.RootRequested(epoch=1, lease_ids=ids))
    seal = make_seal(receipt_hash=receipt_hash)
    forged = sign(seal, "stranger")
    mine = sign(change(seal, verifier=ME), "provider-1")
    [effect] = hear(state, messages.OpeningsRequested(epoch=1, lease_ids=ids, seals=(forged, mine)))
    assert isinstance(effect, SignOpenings)
    assert effect.openings[0].seal_hashes == ()
    good = sign(seal, "verifier-1")
    [later] = hear(state, messages.OpeningsRequested(epoch=1, lease_ids=ids, seals=(good,)))
    assert later == effect


def test_rejected_work_is_unpaid_with_its_reason() -> None:
    state, lease = make_state(), make_lease_offer()
    finish(state, lease)
    reason = make_reason(code="GM-7101", fault="provider")
    closed = messages.EpochClosed(epoch=1, accepted=(), rejected=(lease.lease_id,), reason=reason)
    hear(state, closed)
    assert state.leases[lease.lease_id].reason == reason
    assert (state.tally.earned, state.tally.unpaid) == (0, 1_000)
    hear(state, messages.EpochClosed(epoch=1, accepted=(lease.lease_id,), rejected=()))
    assert state.tally.earned == 0


# ---- admission -----------------------------------------------------------------------------


def lease_on(order_changes: dict[str, Any] | None = None, **changes: Any) -> LeaseOffer:
    """A lease whose order is changed and signed again."""
    spec = make_spec()
    order = make_signed_order(spec, **(order_changes or {}))
    return make_lease_offer(spec, **({"order": order} | changes))


def bad_leases() -> Iterator[Any]:
    def case(name: str, lease: LeaseOffer, **how: Any) -> Any:
        return pytest.param(name, lease, how, id=f"{name}-{len(how)}-{lease.lease_id.hex()[:4]}")

    def with_job(**changes: Any) -> LeaseOffer:
        return make_lease_offer(make_spec(**changes))

    good = make_lease_offer()
    yield case("sender", good, signer="stranger")
    yield case("coordinator", good, signer="stranger", by="stranger")
    broken = Signed(body=good.order.body, signer=good.order.signer, signature=bytes(65))
    yield case("signature", change(good, order=broken))
    thief = sign(good.order.body, "stranger")
    yield case("requester", change(good, order=thief))
    yield case("provider", make_lease_offer(provider="provider-2"))
    yield case("lease_id", change(good, lease_id=make_hash("another")))
    yield case("lease_id", change(good, attempt=7))
    yield case("order", change(good, job=make_spec(name="another job")))
    yield case("deadline", change(good, deadline=NOW))
    settle_by, lifetime = good.order.body.settle_by, make_terms().order_lifetime_seconds
    yield case("GM-1202", change(good, deadline=settle_by - 59))
    yield case("GM-1202", lease_on({"expiry": settle_by + 59}))
    yield case("GM-1205", lease_on({"expiry": NOW + lifetime + 1}))
    yield case("price", change(good, price_per_device_hour=399_999))
    yield case("price_cap", change(good, price_max=good.order.body.max_unit_price + 1))
    yield case("isolation", with_job(placement=Placement(isolation="gvisor")))
    yield case("region", with_job(placement=Placement(regions=("DE", "FR"))))
    yield case("excluded", with_job(placement=Placement(excluded_providers=(ME,))))
    yield case("excluded", with_job(placement=Placement(providers=(make_address("x"),))))
    yield case("outputs", with_job(outputs=(make_output(), make_output())))
    yield case("memory", with_job(resources=make_resources(memory_bytes=65 * 10**9)))
    yield case("cpus", with_job(resources=make_resources(cpus=17)))
    yield case("disk", with_job(resources=make_resources(disk_bytes=2 * 10**12)))
    yield case("disk", good, disk=1_000)
    for code, need in (
        ("devices", DeviceNeed(count=3)),
        ("vendor", DeviceNeed(count=1, vendor="amd")),
        ("devices", DeviceNeed(count=1, models=("H100",))),
        ("devices", DeviceNeed(count=1, vram_bytes_min=10**12)),
        ("cuda", DeviceNeed(count=1, cuda_min=(99, 0))),
    ):
        yield case(code, with_job(resources=make_resources(devices=need)))
    yield case("architecture", with_job(resources=make_resources(architecture="arm64")))


@pytest.mark.parametrize(("code", "lease", "how"), list(bad_leases()))
def test_a_lease_is_declined_with_its_first_reason(
    code: str, lease: LeaseOffer, how: dict[str, Any]
) -> None:
    state = make_state()
    [message] = get_messages(propose(state, lease, **how))
    assert isinstance(message, messages.Declined)
    assert message.code == code
    assert message.about == lease.lease_id
    assert message.need
    assert message.have
    assert state.tally.declined == {code: 1}
    assert not state.leases


def units(spec: JobSpec) -> list[LeaseOffer]:
    return [make_lease_offer(spec, unit=unit) for unit in range(spec.units)]


def test_no_more_leases_run_than_there_are_slots_and_devices() -> None:
    state = make_state(slots=1)
    first, second = units(make_spec(units=2))
    propose(state, first)
    [message] = get_messages(propose(state, second))
    assert (message.code, message.have) == ("slots", "1 of 1 in use")
    state = make_state(slots=3)
    pair = make_spec(units=2, resources=make_resources(devices=DeviceNeed(count=2)))
    first, second = units(pair)
    propose(state, first)
    [message] = get_messages(propose(state, second))
    assert message.code == "devices_busy"


def test_a_task_we_hold_a_receipt_for_is_not_taken_twice() -> None:
    state = make_state()
    finish(state, make_lease_offer())
    [message] = get_messages(propose(state, make_lease_offer(attempt=1)))
    assert message.code == "duplicate"


def test_memory_of_running_tasks_counts() -> None:
    state = make_state()
    first, second = units(make_spec(units=2, resources=make_resources(memory_bytes=40 * 10**9)))
    propose(state, first)
    [message] = get_messages(propose(state, second))
    assert (message.code, message.need, message.have) == ("memory", "40 GB", "24 GB")


# ---- the money behind a lease --------------------------------------------------------------


def test_the_assignment_must_be_of_this_lease_and_by_its_coordinator() -> None:
    lease, other = make_lease_offer(), make_lease_offer(attempt=1, price_max=300)
    for assignment in (
        sign(make_assignment(other), "coordinator"),
        sign(make_assignment(lease), "stranger"),
    ):
        state = make_state()
        proposed = change(make_proposal(lease), assignment=assignment)
        [message] = get_messages(hear(state, proposed))
        assert message.code == "assignment"
    forged = Signed(body=make_assignment(lease), signer=COORDINATOR, signature=bytes(65))
    [message] = get_messages(hear(make_state(), change(make_proposal(lease), assignment=forged)))
    assert message.code == "signature"


def test_the_assignment_is_kept_with_the_lease() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease)
    state, _ = start_again(state)
    kept = state.leases[lease.lease_id].assignment
    assert kept == sign(make_assignment(lease), "coordinator")


def test_the_chain_is_asked_once_for_proposals_that_come_together_and_again_when_it_is_old() -> (
    None
):
    state = make_state(slots=3)
    first, second, third = units(make_spec(units=3))
    asked = hear(state, make_proposal(first))
    assert asked == [
        ReadFunds(requester=make_address("requester"), coordinator=make_address("coordinator"))
    ]
    assert hear(state, make_proposal(second)) == []
    assert hear(state, make_proposal(second)) == []
    accepted = get_messages(see_funds(state, asked[0]))
    assert [message.lease_id for message in accepted] == [first.lease_id, second.lease_id]
    again = hear(state, make_proposal(third), at=NOW + FUNDS_SECONDS + 1)
    assert again == asked
    [later] = get_messages(see_funds(state, again[0], at=NOW + FUNDS_SECONDS + 1))
    assert later == messages.LeaseAccepted(lease_id=third.lease_id)


def test_a_fresh_reading_is_used_again() -> None:
    state = make_state()
    first, second = units(make_spec(units=2))
    propose(state, first)
    [message] = get_messages(hear(state, make_proposal(second), at=NOW + FUNDS_SECONDS))
    assert message == messages.LeaseAccepted(lease_id=second.lease_id)


def test_escrow_must_cover_the_order_and_the_requesters_others_we_work_for() -> None:
    spec = make_spec(units=2)
    exposure = make_signed_order(spec).body.compute_exposure()
    state = make_state(slots=3)
    first, same_order = units(spec)
    other = make_lease_offer(spec, order=make_signed_order(spec, nonce=make_hash("n2")))
    [asked] = hear(state, make_proposal(first))
    assert get_messages(see_funds(state, asked, escrow=Amount(exposure)))[0] == (
        messages.LeaseAccepted(lease_id=first.lease_id)
    )
    [told] = get_messages(hear(state, make_proposal(same_order)))
    assert isinstance(told, messages.LeaseAccepted)
    [refused] = get_messages(hear(state, make_proposal(other)))
    assert (refused.code, refused.need, refused.have) == (
        "GM-3011",
        format_money(Amount(2 * exposure)),
        format_money(Amount(exposure)),
    )
    poor = make_state()
    [asked] = hear(poor, make_proposal(first))
    [refused] = get_messages(see_funds(poor, asked, escrow=Amount(exposure - 1)))
    assert refused.code == "GM-3011"


def test_work_that_was_accepted_no_longer_counts_against_the_escrow() -> None:
    spec = make_spec(units=1)
    exposure = Amount(make_signed_order(spec).body.compute_exposure())
    state, first = make_state(), make_lease_offer(spec)
    finish(state, first)
    hear(state, messages.EpochClosed(epoch=1, accepted=(first.lease_id,), rejected=()))
    order = make_signed_order(spec, nonce=make_hash("n2"))
    [asked] = hear(state, make_proposal(make_lease_offer(spec, order=order)), at=NOW + 60)
    [told] = get_messages(see_funds(state, asked, escrow=exposure, at=NOW + 60))
    assert isinstance(told, messages.LeaseAccepted)


def test_a_coordinator_without_its_bond_gets_no_work_done() -> None:
    state, lease = make_state(), make_lease_offer()
    [asked] = hear(state, make_proposal(lease))
    [refused] = get_messages(see_funds(state, asked, bond=Amount(BOND - 1)))
    assert (refused.code, refused.have) == ("GM-3014", format_money(Amount(BOND - 1)))


def test_money_that_nobody_can_see_is_none() -> None:
    state, lease = make_state(), make_lease_offer()
    [asked] = hear(state, make_proposal(lease))
    assert isinstance(asked, ReadFunds)
    unknown = FundsUnknown(
        at=NOW, requester=asked.requester, coordinator=asked.coordinator, code="GM-3001"
    )
    [refused] = get_messages(decide(state, unknown))
    assert (refused.code, refused.about) == ("GM-3001", lease.lease_id)
    assert not state.waiting


def test_a_slot_taken_while_the_chain_was_asked_is_taken() -> None:
    state = make_state(slots=1)
    first, second = units(make_spec(units=2))
    [asked] = hear(state, make_proposal(first))
    hear(state, make_proposal(second))
    accepted, refused = get_messages(see_funds(state, asked))
    assert isinstance(accepted, messages.LeaseAccepted)
    assert refused.code == "slots"


def test_proposals_that_waited_are_forgotten_with_a_restart() -> None:
    state, lease = make_state(), make_lease_offer()
    hear(state, make_proposal(lease))
    state, effects = start_again(state)
    assert not state.waiting
    assert not effects
    [asked] = hear(state, make_proposal(lease))
    assert isinstance(asked, ReadFunds)


def test_no_more_proposals_wait_than_are_remembered() -> None:
    state = make_state()
    lease = make_lease_offer()
    proposal = Proposal(
        coordinator=COORDINATOR,
        lease=sign(lease, "coordinator"),
        assignment=sign(make_assignment(lease), "coordinator"),
        disk_free_bytes=DISK,
    )
    state.waiting = {make_hash(f"lease {i}"): proposal for i in range(WAITING_MAX)}
    [refused] = get_messages(hear(state, make_proposal(lease)))
    assert refused.code == "leases"


def test_nothing_more_is_taken_from_a_coordinator_that_was_caught() -> None:
    state = make_state()
    first, second = units(make_spec(units=2))
    propose(state, first)
    decide(state, CoordinatorCaught(at=NOW, coordinator=COORDINATOR))
    decide(state, CoordinatorCaught(at=NOW, coordinator=COORDINATOR))
    [refused] = get_messages(propose(state, second))
    assert refused.code == "GM-8006"
    state, _ = start_again(state)
    assert state.distrusted == (COORDINATOR,)
    assert len(state.find_active()) == 1


# ---- time ----------------------------------------------------------------------------------


def test_a_unit_that_passes_its_deadline_is_stopped_and_reported() -> None:
    state, lease = make_state(), make_lease_offer(deadline=NOW + 100)
    propose(state, lease)
    assert state.find_next_deadline() == NOW + 100
    effects = decide(state, TimePassed(at=Timestamp(NOW + 100)))
    assert StopUnit(lease_id=lease.lease_id) in effects
    assert [m.reason.code for m in get_messages(effects)] == ["GM-5304"]


def test_ended_leases_are_forgotten_with_their_output() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease)
    decide(state, AttemptFailed(at=NOW, lease_id=lease.lease_id, reason=make_reason()))
    due = state.find_next_deadline()
    assert due == NOW + RETENTION_SECONDS
    assert decide(state, TimePassed(at=due)) == [
        CleanUp(lease_id=lease.lease_id, is_output_kept=False)
    ]
    assert not state.leases
    assert state.find_next_deadline() is None


def test_a_receipt_nobody_settles_ends_unpaid_when_the_order_expires() -> None:
    state, lease = make_state(), make_lease_offer()
    finish(state, lease)
    decide(state, TimePassed(at=Timestamp(lease.order.body.expiry)))
    assert state.leases[lease.lease_id].phase is Phase.UNPAID


def test_progress_is_passed_on_and_shown() -> None:
    state, lease = make_state(), make_lease_offer()
    propose(state, lease)
    seen = UnitProgressed(
        at=NOW, lease_id=lease.lease_id, phase="run", done=3, total=9, line="epoch 3"
    )
    [message] = get_messages(decide(state, seen))
    assert (message.done, message.total, message.line) == (3, 9, "epoch 3")
    assert state.leases[lease.lease_id].progress.done == 3


def test_the_hours_of_the_tally_are_bounded() -> None:
    state = make_state()
    for hour in range(HOURS_KEPT + 10):
        state.tally.note_seen(Timestamp(NOW + 3_600 * hour), "price")
    assert len(state.tally.hours) == HOURS_KEPT
    assert state.tally.declined == {"price": HOURS_KEPT + 10}


def test_an_offer_says_what_the_terms_say() -> None:
    node = NodeAddress(peer_id="12D3KooW", addresses=(), sealing_key=make_hash("sealing"))
    offer = make_offer(make_terms(), node, sequence=5, now=NOW)
    assert (offer.slots, offer.region, offer.sequence) == (2, "SE", 5)
    assert offer.expires_at > NOW


def test_ends_have_no_way_out() -> None:
    assert {phase for phase, after in NEXT.items() if not after} == {
        Phase.PAID,
        Phase.UNPAID,
        Phase.FAILED,
    }
