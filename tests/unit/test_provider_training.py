"""A training task at its provider: the chain grows in order, over restarts and lost providers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpumarket.protocol import messages
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.training import (
    check_chain,
    compute_chain_start,
    count_segments,
    make_claim,
)
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.chains import make_facts, make_plan, make_states
from gpumarket.testing.factories import (
    NOW,
    make_address,
    make_cid,
    make_device,
    make_hash,
    make_lease_offer,
    make_reason,
    make_spec,
    propose,
)
from provider_node.core import decide as core
from provider_node.core.decide import Provider
from provider_node.core.effects import (
    CleanUp,
    PrepareUnit,
    RunUnit,
    SendMessage,
    SignCheckpoint,
    SignReceipt,
    StoreOutput,
)
from provider_node.core.events import (
    CheckpointStored,
    CoordinatorJoined,
    FundsSeen,
    MessageReceived,
    OutputStored,
    ProcessStarted,
    TimePassed,
    UnitPrepared,
    UnitRan,
)
from provider_node.core.state import Phase, check_state
from tests.provider_terms import make_terms

PLAN = make_plan()
LAST = count_segments(PLAN)
ME, COORDINATOR = make_address("provider-1"), make_address("coordinator")
SPEC = make_spec(units=2, checkpoint=PLAN)


def decide(state: Provider, event: Any) -> list[Any]:
    return list(core.decide(state, event))


def make_provider():
    terms = make_terms(
        provider=ME,
        devices=(make_device(device_id="GPU-0"),),
        slots=2,
        bond_min=Amount(100_000_000),
    )
    state = Provider(terms=terms)
    decide(state, ProcessStarted(at=NOW, terms=terms))
    return state


def accept(state, lease):
    """Accept a lease whose money is there, and return the effects of that."""
    proposed = MessageReceived(
        at=NOW, coordinator=COORDINATOR, message=propose(lease), disk_free_bytes=10**12
    )
    (asked,) = decide(state, proposed)
    rich = FundsSeen(
        at=NOW,
        requester=asked.requester,
        coordinator=asked.coordinator,
        escrow=Amount(10**12),
        bond=Amount(10**12),
    )
    return decide(state, rich)


def run(state, lease):
    """Take a lease to where its program runs, and return the effect that runs it."""
    accept(state, lease)
    (effect,) = decide(state, UnitPrepared(at=NOW, lease_id=lease.lease_id))
    return effect


def store(state, lease, index, **changes):
    facts = make_facts(PLAN, index, **changes)
    return decide(state, CheckpointStored(at=NOW, lease_id=lease.lease_id, facts=facts))


def get_start(lease):
    return compute_chain_start(lease.order.body.job_hash, lease.unit)


def make_earlier(count, *, unit=0):
    """Return the states that another provider left of a task."""
    order = make_lease_offer(SPEC).order.body
    states = make_states(
        PLAN,
        start=compute_chain_start(order.job_hash, unit),
        order_hash=order.compute_struct_hash(),
        unit=unit,
        provider=make_address("provider-2"),
    )
    return states[:count]


def start_again(state):
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Provider)
    effects = decide(again, ProcessStarted(at=Timestamp(NOW + 60), terms=state.terms))
    check_state(again)
    return again, effects


def find_claim(state, lease):
    """Finish a run and return what its result says of its chain."""
    decide(state, UnitRan(at=Timestamp(NOW + 9), lease_id=lease.lease_id, duration_ms=9_000))
    stored = OutputStored(
        at=Timestamp(NOW + 9),
        lease_id=lease.lease_id,
        output=make_cid("out"),
        output_bytes=7,
        salt=make_hash("salt"),
    )
    (effect,) = decide(state, stored)
    assert isinstance(effect, SignReceipt)
    return state.leases[lease.lease_id].get_result().training


def test_checkpoints_become_a_chain_that_the_result_ends():
    state, lease = make_provider(), make_lease_offer(SPEC, unit=1)
    assert run(state, lease) == RunUnit(lease=lease, device_ids=(), resume=None, checkpoints=0)
    states = []
    for index in range(LAST + 1):
        (signing,) = store(state, lease, index)
        assert isinstance(signing, SignCheckpoint)
        assert (signing.coordinator, signing.lease_id) == (COORDINATOR, lease.lease_id)
        assert (signing.state.unit, signing.state.provider) == (1, ME)
        states.append(signing.state)
    claim = find_claim(state, lease)
    assert claim == make_claim(states[-1])
    check_chain(states, claim=claim, start=get_start(lease), plan=PLAN)
    with pytest.raises(RemoteProtocolError):
        other = compute_chain_start(lease.order.body.job_hash, 0)
        check_chain(states, claim=claim, start=other, plan=PLAN)


@pytest.mark.parametrize("index", [0, 1, 3, 5])
def test_a_checkpoint_that_does_not_continue_the_chain_is_not_signed(index):
    state, lease = make_provider(), make_lease_offer(SPEC)
    run(state, lease)
    for each in (0, 1):
        store(state, lease, each)
    before = list(state.leases[lease.lease_id].segments)
    assert store(state, lease, index, model_root=make_hash("shown again")) == []
    assert state.leases[lease.lease_id].segments == before
    assert store(state, lease, 2)


def test_checkpoints_count_only_while_the_program_runs():
    state, lease = make_provider(), make_lease_offer(SPEC)
    accept(state, lease)
    assert store(state, lease, 0) == []
    decide(state, UnitPrepared(at=NOW, lease_id=lease.lease_id))
    for index in range(LAST + 1):
        store(state, lease, index)
    assert store(state, lease, LAST) == []
    decide(state, UnitRan(at=NOW, lease_id=lease.lease_id, duration_ms=9_000))
    assert store(state, lease, LAST) == []
    assert len(state.leases[lease.lease_id].segments) == LAST + 1


@pytest.mark.parametrize(
    ("taken", "text"),
    [(0, "left 0 of 5"), (1, "left 0 of 5"), (LAST, f"left {LAST - 1} of 5")],
)
def test_a_run_with_a_chain_that_ends_too_early_fails(taken, text):
    state, lease = make_provider(), make_lease_offer(SPEC)
    run(state, lease)
    for index in range(taken):
        store(state, lease, index)
    effects = decide(state, UnitRan(at=NOW, lease_id=lease.lease_id, duration_ms=9_000))
    (failed,) = [
        effect.message
        for effect in effects
        if isinstance(effect, SendMessage) and isinstance(effect.message, messages.UnitFailed)
    ]
    assert (failed.reason.code, failed.reason.fault) == ("GM-5105", "requester")
    assert text in failed.reason.text
    assert state.leases[lease.lease_id].phase is Phase.FAILED


def test_a_task_without_checkpoints_has_no_chain():
    state, lease = make_provider(), make_lease_offer()
    run(state, lease)
    assert store(state, lease, 0) == []
    effects = decide(state, UnitRan(at=NOW, lease_id=lease.lease_id, duration_ms=9_000))
    assert effects == [StoreOutput(lease_id=lease.lease_id)]


# ---- going on ------------------------------------------------------------------------------


def test_a_restart_in_the_middle_goes_on_from_the_newest_checkpoint():
    state, lease = make_provider(), make_lease_offer(SPEC)
    run(state, lease)
    signed = [store(state, lease, index)[0] for index in range(3)]
    newest = signed[-1].state
    state, effects = start_again(state)
    assert effects == [PrepareUnit(lease=lease, resume=newest.folder)]
    (effect,) = decide(state, UnitPrepared(at=Timestamp(NOW + 61), lease_id=lease.lease_id))
    assert effect == RunUnit(lease=lease, device_ids=(), resume=newest.folder, checkpoints=3)
    # The program may show again what it goes on from.
    assert store(state, lease, 2) == []
    (signing,) = store(state, lease, 3)
    assert signing.state.previous == newest.compute_chain()


def test_what_was_signed_is_said_again_when_the_session_stands():
    state, lease = make_provider(), make_lease_offer(SPEC)
    run(state, lease)
    signed = [store(state, lease, index)[0] for index in range(3)]
    said = decide(state, CoordinatorJoined(at=NOW, coordinator=COORDINATOR))
    assert [effect for effect in said if isinstance(effect, SignCheckpoint)] == signed
    state, _ = start_again(state)
    said = decide(state, CoordinatorJoined(at=NOW, coordinator=COORDINATOR))
    assert [effect for effect in said if isinstance(effect, SignCheckpoint)] == signed


def test_a_task_of_a_lost_provider_goes_on_from_its_last_checkpoint():
    earlier = make_earlier(3)
    state, lease = make_provider(), make_lease_offer(SPEC, attempt=1, resume=earlier[-1])
    accepted = accept(state, lease)
    assert PrepareUnit(lease=lease, resume=earlier[-1].folder) in accepted
    (effect,) = decide(state, UnitPrepared(at=NOW, lease_id=lease.lease_id))
    assert (effect.resume, effect.checkpoints) == (earlier[-1].folder, 0)
    assert store(state, lease, 2) == []
    own = [store(state, lease, index)[0].state for index in range(3, LAST + 1)]
    assert {each.provider for each in own} == {ME}
    said = decide(state, CoordinatorJoined(at=NOW, coordinator=COORDINATOR))
    # Only our own part is signed here.
    assert [each.state for each in said if isinstance(each, SignCheckpoint)] == own
    claim = find_claim(state, lease)
    check_chain((*earlier, *own), claim=claim, start=get_start(lease), plan=PLAN)


def test_a_run_that_adds_nothing_to_a_lost_providers_part_fails():
    earlier = make_earlier(3)
    state, lease = make_provider(), make_lease_offer(SPEC, attempt=1, resume=earlier[-1])
    run(state, lease)
    decide(state, UnitRan(at=NOW, lease_id=lease.lease_id, duration_ms=9_000))
    assert "left 2 of 5" in state.leases[lease.lease_id].get_reason().text


def test_checkpoints_are_let_go_of_with_the_output_of_a_lease_that_ended():
    state, lease = make_provider(), make_lease_offer(SPEC)
    run(state, lease)
    for index in range(3):
        store(state, lease, index)
    cancelled = messages.LeaseCancelled(
        lease_id=lease.lease_id, reason=make_reason(code="GM-5401", fault="none")
    )
    decide(state, MessageReceived(at=NOW, coordinator=COORDINATOR, message=cancelled))
    due = state.find_next_deadline()
    gone = CleanUp(lease_id=lease.lease_id, is_output_kept=False, checkpoints=3)
    assert decide(state, TimePassed(at=due)) == [gone]
