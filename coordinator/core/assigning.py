"""
Assigning: which verifier does a check, and when it is asked.

The seed draws among those that were there before it; never one that belongs to the provider or the
requester, and first one whose machine gives the provider's very bytes.
"""

from __future__ import annotations

from coordinator.core.effects import Effect, SendMessage
from coordinator.core.epoch_state import Check, Epoch, move_check
from coordinator.core.lifecycle import CheckState
from coordinator.core.order_book import is_eligible
from coordinator.core.pools import find_check, get_seed, list_barred, list_payouts, list_twins
from coordinator.core.state import Job, State, Verifier, set_timer, write_log
from coordinator.core.training import list_checkpoint_sources, list_starts
from gpumarket.protocol import messages
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.pools import has_part, prefer_class
from gpumarket.protocol.sampling import assign_verifier
from gpumarket.protocol.units import Amount, Timestamp


def ask_verifiers(state: State) -> list[Effect]:
    """Give waiting checks to the verifiers that the seed chose, as their slots allow."""
    free = {who for who, verifier in state.verifiers.items() if _has_free_slot(state, verifier)}
    effects: list[Effect] = []
    for key in list(state.waiting_checks):
        if not free:
            break
        found = find_check(state, key)
        if found is None:
            raise LocalProtocolError("a check waits that no open epoch has")
        epoch, check = found
        if check.verifier is None or _is_barred(state, check.verifier):
            check.verifier = choose_verifier(state, epoch, check)
        if check.verifier in free:
            verifier = state.verifiers[check.verifier]
            effects.append(_ask(state, check, verifier))
            if not _has_free_slot(state, verifier):
                free.remove(check.verifier)
    return effects


def _has_free_slot(state: State, verifier: Verifier) -> bool:
    slots = min(verifier.card.body.slots, state.settings.slots_max)
    return is_eligible(state, verifier) and len(verifier.asked) < slots


def _is_barred(state: State, verifier: Address) -> bool:
    return state.verifiers[verifier].barred_until > state.now


def choose_verifier(state: State, epoch: Epoch, check: Check) -> Address | None:
    """Return who should do a check, or None where nobody can, or nobody of use for a while."""
    there = _list_there(state, epoch, check)
    committed = {card.body.verifier for card in epoch.eligible}
    # Those who stood before the seed come first; then a late comer, then a second try, which
    # are both better than no check.
    untried = [card for card in there if card.verifier not in check.tried]
    circles = [
        [card for card in untried if card.verifier in committed],
        untried,
        [card for card in there if card.verifier in committed],
        there,
    ]
    sold = state.providers.get(check.provider)
    wanted = sold.offer.body.repro_class if sold else b""
    job = state.jobs[check.order_hash]
    if job.spec.verify.needs_class and there:
        same = [[card for card in circle if card.repro_class == wanted] for circle in circles]
        circles = same if any(same) or _may_wait(state, job, check) else circles
    for circle in circles:
        eligible = prefer_class(circle, wanted)
        chosen = assign_verifier(get_seed(epoch), check.receipt_hash, eligible, turn=check.turn)
        if chosen is not None:
            return chosen
    return None


def _list_there(state: State, epoch: Epoch, check: Check) -> list[VerifierCard]:
    barred = list_barred(state, state.leases[check.lease_id])
    payouts = list_payouts(state)
    others = {
        twin.verifier for twin in list_twins(epoch, check.receipt_hash) if twin.turn != check.turn
    }
    return [
        verifier.card.body
        for who, verifier in state.verifiers.items()
        if is_eligible(state, verifier) and who not in others and not has_part(who, barred, payouts)
    ]


def _may_wait(state: State, job: Job, check: Check) -> bool:
    """Say whether a check still waits for a verifier of the right class; say so once."""
    if check.wait_by is None:
        check.wait_by = Timestamp(state.now + state.settings.class_wait_seconds)
        set_timer(state, check.wait_by, "class")
        text = (
            "no verifier of the provider's class is there, and a difference in bytes decides "
            f"nothing on another machine: this waits {state.settings.class_wait_seconds} s for one"
        )
        write_log(state, job, "check-waits", text=text, task=check.unit)
    return state.now < check.wait_by


def _ask(state: State, check: Check, verifier: Verifier) -> SendMessage:
    job = state.jobs[check.order_hash]
    run_seconds = min(job.spec.limits.run_seconds, job.settle_at - job.created_at)
    move_check(check, CheckState.ASKED)
    del state.waiting_checks[check.key]
    verifier.asked.append(check.key)
    check.price = Amount(min(verifier.card.body.price_per_check, job.order.body.max_check_price))
    check.deadline = Timestamp(state.now + run_seconds + state.settings.check_extra_seconds)
    set_timer(state, check.deadline, "check", key=check.key)
    write_log(state, job, "check-asked", task=check.unit, actor=check.verifier)
    return make_check_request(state, check)


def make_check_request(state: State, check: Check, *, case: int = 0) -> SendMessage:
    """Return the message that asks a verifier, or a case's juror, to do a task again."""
    if check.verifier is None or check.deadline is None:
        raise LocalProtocolError("a check was asked of nobody")
    segments = list_starts(state, check)
    lease = state.leases[check.lease_id]
    message = messages.CheckRequested(
        order_hash=check.order_hash,
        unit=check.unit,
        receipt_hash=check.receipt_hash,
        job=state.jobs[check.order_hash].spec,
        deadline=check.deadline,
        sources=list_checkpoint_sources(state, lease) if segments else state.sources,
        segments=segments,
        case=case,
    )
    return SendMessage(recipient=check.verifier, message=message)


def free_verifier(state: State, check: Check) -> None:
    """Free the slot that a check takes at its verifier."""
    verifier = state.verifiers.get(check.verifier or b"")
    if verifier is not None and check.key in verifier.asked:
        verifier.asked.remove(check.key)


def unassign(state: State, check: Check) -> None:
    """Let a check wait for a verifier again."""
    free_verifier(state, check)
    move_check(check, CheckState.WAITING)
    check.verifier = check.deadline = None
    state.waiting_checks[check.key] = None


def lose_checks(state: State, verifier: Address) -> list[Effect]:
    """Take back what a verifier that was gone too long has not sealed; no try is counted."""
    for key in list(state.verifiers[verifier].asked):
        found = find_check(state, key)
        if found is not None and found[1].state is CheckState.ASKED:
            unassign(state, found[1])
    for key in state.waiting_checks:
        found = find_check(state, key)
        if found is not None and found[1].verifier == verifier:
            found[1].verifier = None
    return []
