"""
Checking: the seed picks receipts, verifiers do that work again blind, then results are opened.

A verifier seals its own result before the provider opens one that names the seal: neither can
copy the other. A provider that has committed and then does not open has lost, as if it forged.
"""

from __future__ import annotations

from coordinator.core.effects import Effect, SendMessage
from coordinator.core.judging import end_order, judge_part, reject_lease, start_judging
from coordinator.core.lifecycle import CheckState, EpochState, PartStage
from coordinator.core.order_book import is_eligible
from coordinator.core.state import (
    Check,
    Epoch,
    Lease,
    Part,
    State,
    Verifier,
    get_receipt,
    move_check,
    move_epoch,
    move_part,
    note_facts,
    set_timer,
    write_log,
)
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.cids import decode_cid_untrusted
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.receipt import compute_input_hash
from gpumarket.protocol.sampling import assign_verifier, compute_sample_size, draw_sample
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import Amount, Timestamp, compute_price

NOT_OPENED = Reason(
    code="GM-7102", text="the provider did not open its results in time", fault="provider"
)


# ---- the sample ----------------------------------------------------------------------------


def begin_checks(state: State, epoch: Epoch) -> list[Effect]:
    """Draw the sample of every provider and job in a seeded epoch."""
    for provider, part in epoch.parts.items():
        if part.stage is not PartStage.SIGNED:
            continue
        move_part(part, PartStage.SEALING)
        part.open_orders = [o for o in part.open_orders if not state.jobs[o].is_over]
        for order_hash in part.open_orders:
            _draw_checks(state, epoch, provider, order_hash)
    effects: list[Effect] = []
    for provider in epoch.parts:
        effects += request_openings_if_sealed(state, epoch, provider)
    return effects


def _draw_checks(state: State, epoch: Epoch, provider: Address, order_hash: Hash32) -> None:
    job = state.jobs[order_hash]
    leases = list_group(state, epoch.parts[provider], order_hash)
    size = compute_sample_size(job.spec.verify, len(leases))
    drawn = draw_sample(_get_seed(epoch), provider, count=len(leases), size=size)
    for index in sorted(drawn):
        lease = leases[index]
        receipt_hash = get_receipt(lease).body.compute_struct_hash()
        epoch.checks[receipt_hash] = Check(
            receipt_hash=receipt_hash,
            lease_id=lease.lease_id,
            order_hash=order_hash,
            unit=lease.unit,
            provider=provider,
        )
        state.check_epochs[receipt_hash] = epoch.number
        state.waiting_checks[receipt_hash] = None
    tasks = ", ".join(str(leases[index].unit) for index in sorted(drawn))
    text = f"{size} of {len(leases)} tasks are done again by a verifier, blind: {tasks or 'none'}"
    write_log(state, job, "sampled", text=text, actor=provider)


def list_group(state: State, part: Part, order_hash: Hash32) -> list[Lease]:
    """Return a provider's leases of one job in one epoch, in the order of their leaves."""
    leases = (state.leases.get(lease_id) for lease_id in part.lease_ids)
    return [lease for lease in leases if lease is not None and lease.order_hash == order_hash]


def find_check(state: State, receipt_hash: Hash32) -> tuple[Epoch, Check] | None:
    """Return the open check of a receipt and its epoch."""
    number = state.check_epochs.get(receipt_hash)
    if number is None:
        return None
    epoch = state.epochs[number]
    return epoch, epoch.checks[receipt_hash]


# ---- verifiers -----------------------------------------------------------------------------


def ask_verifiers(state: State) -> list[Effect]:
    """Give waiting checks to the verifiers that the seed chose, as their slots allow."""
    free = {who for who, verifier in state.verifiers.items() if _has_free_slot(state, verifier)}
    effects: list[Effect] = []
    for receipt_hash in list(state.waiting_checks):
        if not free:
            break
        found = find_check(state, receipt_hash)
        if found is None:
            raise LocalProtocolError("a check waits that no open epoch has")
        epoch, check = found
        if check.verifier is None:
            check.verifier = _choose_verifier(state, epoch, check)
        if check.verifier in free:
            verifier = state.verifiers[check.verifier]
            effects.append(_ask(state, check, verifier))
            if not _has_free_slot(state, verifier):
                free.remove(check.verifier)
    return effects


def _has_free_slot(state: State, verifier: Verifier) -> bool:
    slots = min(verifier.card.body.slots, state.settings.slots_max)
    return is_eligible(state, verifier) and len(verifier.asked) < slots


def _choose_verifier(state: State, epoch: Epoch, check: Check) -> Address | None:
    there = {who for who, verifier in state.verifiers.items() if is_eligible(state, verifier)}
    there -= {check.provider, state.jobs[check.order_hash].order.body.requester}
    committed = {card.body.verifier for card in epoch.eligible}
    tried = set(check.tried)
    # Those who stood before the seed come first; then a late comer, then a second try, which
    # are both better than no check.
    for pool in ((there & committed) - tried, there - tried, there & committed, there):
        same = {address for address in pool if _has_class_of(state, address, check.provider)}
        chosen = assign_verifier(_get_seed(epoch), check.receipt_hash, sorted(same or pool))
        if chosen is not None:
            return chosen
    return None


def _has_class_of(state: State, verifier: Address, provider: Address) -> bool:
    sold = state.providers.get(provider)
    card = state.verifiers[verifier].card.body
    return sold is not None and sold.offer.body.repro_class == card.repro_class


def _ask(state: State, check: Check, verifier: Verifier) -> SendMessage:
    job = state.jobs[check.order_hash]
    run_seconds = min(job.spec.limits.run_seconds, job.settle_at - job.created_at)
    move_check(check, CheckState.ASKED)
    del state.waiting_checks[check.receipt_hash]
    verifier.asked.append(check.receipt_hash)
    check.price = Amount(min(verifier.card.body.price_per_check, job.order.body.max_check_price))
    check.deadline = Timestamp(state.now + run_seconds + state.settings.check_extra_seconds)
    set_timer(state, check.deadline, "check", key=check.receipt_hash)
    write_log(state, job, "check-asked", task=check.unit, actor=check.verifier)
    return make_check_request(state, check)


def make_check_request(state: State, check: Check) -> SendMessage:
    """Return the message that asks a verifier to do a task again, now or again."""
    if check.verifier is None or check.deadline is None:
        raise LocalProtocolError("a check was asked of nobody")
    message = messages.CheckRequested(
        order_hash=check.order_hash,
        unit=check.unit,
        receipt_hash=check.receipt_hash,
        job=state.jobs[check.order_hash].spec,
        deadline=check.deadline,
        sources=state.sources,
    )
    return SendMessage(recipient=check.verifier, message=message)


def take_seal(state: State, sender: Address, message: messages.CheckSealed) -> list[Effect]:
    """Keep a verifier's seal; when a provider's last one is in, its results are opened."""
    seal = verify(message.seal, state.settings.domain)
    if not sender == seal.signer == seal.body.verifier:
        raise RemoteProtocolError("a seal is signed by somebody else than its verifier")
    found = find_check(state, seal.body.receipt_hash)
    if found is None or found[1].verifier != sender or found[1].state is not CheckState.ASKED:
        return []
    epoch, check = found
    if (seal.body.order_hash, seal.body.unit) != (check.order_hash, check.unit):
        raise RemoteProtocolError("a seal is about another task than its receipt")
    check.seal = message.seal
    move_check(check, CheckState.SEALED)
    free_verifier(state, check)
    write_log(state, state.jobs[check.order_hash], "sealed", task=check.unit, actor=sender)
    return request_openings_if_sealed(state, epoch, check.provider)


def decline_check(state: State, sender: Address, message: messages.Declined) -> list[Effect]:
    """Give a check to another verifier when the one chosen will not do it."""
    found = find_check(state, message.about)
    if found is None or found[1].verifier != sender or found[1].state is not CheckState.ASKED:
        return []
    return _retry_check(state, *found)


def free_verifier(state: State, check: Check) -> None:
    """Free the slot that a check takes at its verifier."""
    verifier = state.verifiers.get(check.verifier or b"")
    if verifier is not None and check.receipt_hash in verifier.asked:
        verifier.asked.remove(check.receipt_hash)


def lose_checks(state: State, verifier: Address) -> list[Effect]:
    """Take back what a verifier that was gone too long has not sealed; no try is counted."""
    for receipt_hash in list(state.verifiers[verifier].asked):
        found = find_check(state, receipt_hash)
        if found is not None and found[1].state is CheckState.ASKED:
            _unassign(state, found[1])
    for receipt_hash in state.waiting_checks:
        found = find_check(state, receipt_hash)
        if found is not None and found[1].verifier == verifier:
            found[1].verifier = None
    return []


def expire_check(state: State, key: bytes) -> list[Effect]:
    """Try a check elsewhere when its verifier is late; after that it is inconclusive."""
    found = find_check(state, key)
    if found is None or found[1].deadline is None or found[1].deadline > state.now:
        return []
    epoch, check = found
    if check.state is CheckState.ASKED:
        return _retry_check(state, epoch, check)
    if check.state is CheckState.SHOWN:
        # The result is known now: nobody can do it blind a second time.
        end_inconclusive(state, check)
        return judge_part(state, epoch, check.provider)
    return []


def _retry_check(state: State, epoch: Epoch, check: Check) -> list[Effect]:
    job = state.jobs[check.order_hash]
    check.attempts += 1
    if check.verifier is not None and check.verifier not in check.tried:
        check.tried.append(check.verifier)
    write_log(state, job, "check-missed", task=check.unit, actor=check.verifier)
    _unassign(state, check)
    if check.attempts < state.settings.check_attempts_max:
        return []
    end_inconclusive(state, check)
    return request_openings_if_sealed(state, epoch, check.provider)


def _unassign(state: State, check: Check) -> None:
    free_verifier(state, check)
    move_check(check, CheckState.WAITING)
    check.verifier = check.deadline = None
    state.waiting_checks[check.receipt_hash] = None


def end_inconclusive(state: State, check: Check) -> None:
    """End a check that nobody could decide: nobody is paid for it and nobody blamed."""
    free_verifier(state, check)
    state.waiting_checks.pop(check.receipt_hash, None)
    check.verdict = Verdict.INCONCLUSIVE
    move_check(check, CheckState.DONE)
    write_log(state, state.jobs[check.order_hash], "inconclusive", task=check.unit)


# ---- openings ------------------------------------------------------------------------------


def request_openings_if_sealed(state: State, epoch: Epoch, provider: Address) -> list[Effect]:
    """Ask a provider for its results once every verifier of them has sealed its own."""
    part = epoch.parts[provider]
    checks = [check for check in epoch.checks.values() if check.provider == provider]
    has_all = all(check.state in (CheckState.SEALED, CheckState.DONE) for check in checks)
    if part.stage is not PartStage.SEALING or not has_all:
        return []
    move_part(part, PartStage.OPENING)
    part.deadline = Timestamp(state.now + state.settings.opening_seconds)
    set_timer(state, part.deadline, "opening", key=epoch.number.to_bytes(8, "big") + provider)
    stages = {each.stage for each in epoch.parts.values()}
    if epoch.state is EpochState.CHECKING and PartStage.SEALING not in stages:
        move_epoch(epoch, EpochState.OPENING)
    wanted = list_unopened(state, part)
    return [make_openings_request(state, epoch, provider)] if wanted else close_openings(
        state, epoch, provider
    )  # fmt: skip


def list_unopened(state: State, part: Part) -> list[Lease]:
    """Return the leases of a part whose results are still to be opened."""
    leases = (lease for order in part.open_orders for lease in list_group(state, part, order))
    return [le for le in leases if le.opening is None and le.state is LeaseState.FINISHED]


def make_openings_request(state: State, epoch: Epoch, provider: Address) -> SendMessage:
    """Return the message that asks for results not opened yet, with the seals on them."""
    part = epoch.parts[provider]
    seals = [c.seal for c in epoch.checks.values() if c.provider == provider and c.seal]
    message = messages.OpeningsRequested(
        epoch=epoch.number,
        lease_ids=tuple(lease.lease_id for lease in list_unopened(state, part)),
        seals=tuple(seals),
    )
    return SendMessage(recipient=provider, message=message)


def take_openings(state: State, sender: Address, message: messages.ResultsOpened) -> list[Effect]:
    """Take opened results, each of which must be what its receipt hides."""
    epoch = state.epochs.get(message.epoch)
    part = epoch.parts.get(sender) if epoch else None
    if epoch is None or part is None or part.stage is not PartStage.OPENING:
        return []
    by_unit = {(lease.order_hash, lease.unit): lease for lease in list_unopened(state, part)}
    opened: list[tuple[Lease, Signed[Opening]]] = []
    for opening in message.openings:
        result = opening.body.result
        lease = by_unit.get((result.order_hash, result.unit))
        if lease is not None:
            _check_opening(state, epoch, lease, opening)
            opened.append((lease, opening))
    for lease, opening in opened:
        lease.opening = opening
    return [] if list_unopened(state, part) else close_openings(state, epoch, sender)


def _check_opening(state: State, epoch: Epoch, lease: Lease, signed: Signed[Opening]) -> None:
    opening = verify(signed, state.settings.domain)
    receipt, result, job = (
        get_receipt(lease).body,
        opening.body.result,
        state.jobs[lease.order_hash],
    )
    receipt_hash = receipt.compute_struct_hash()
    if opening.signer != lease.provider or result.provider != lease.provider:
        raise RemoteProtocolError("an opening is signed by somebody else than its provider")
    if opening.body.receipt_hash != receipt_hash or result.compute_hash() != receipt.result_hash:
        raise RemoteProtocolError("an opened result is not what its receipt committed to")
    check = epoch.checks.get(receipt_hash)
    seal_hash = compute_content_hash(check.seal.body) if check and check.seal else ZERO_HASH
    if opening.body.seal_hash != seal_hash:
        raise RemoteProtocolError("an opening does not name the seal that came first")
    if result.input_hash != compute_input_hash(job.order.body.job_hash, lease.unit):
        raise RemoteProtocolError("an opened result is of another input")
    if result.output_bytes > sum(output.bytes_max for output in job.spec.outputs):
        raise RemoteProtocolError("an opened output is over its limit")
    decode_cid_untrusted(result.output)
    price = compute_price(
        duration_ms=result.duration_ms,
        devices=max(1, job.spec.resources.devices.count),
        price_per_device_hour=lease.price_per_device_hour,
    )
    if receipt.price > price:
        raise RemoteProtocolError("an opened result took less time than was charged")


def expire_openings(state: State, key: bytes) -> list[Effect]:
    """Reject the jobs of which a provider has not opened everything in time."""
    epoch, provider = state.epochs.get(int.from_bytes(key[:8], "big")), key[8:]
    part = epoch.parts.get(provider) if epoch else None
    if epoch is None or part is None or part.stage is not PartStage.OPENING:
        return []
    if part.deadline > state.now:
        return []
    withheld = dict.fromkeys(lease.order_hash for lease in list_unopened(state, part))
    note_facts(state, provider).withheld += 1
    effects: list[Effect] = []
    for order_hash in withheld:
        effects += end_order(
            state, epoch, provider=provider, order_hash=order_hash, reason=NOT_OPENED
        )
    return effects + close_openings(state, epoch, provider)


def drop_order(
    state: State, epoch: Epoch, *, provider: Address, order_hash: Hash32, reason: Reason
) -> list[Effect]:
    """Take a job that is cut off out of an epoch: nothing of it there is paid any more."""
    part = epoch.parts[provider]
    if order_hash not in part.open_orders:
        return []
    part.open_orders.remove(order_hash)
    effects: list[Effect] = []
    for lease in list_group(state, part, order_hash):
        if lease.state is LeaseState.FINISHED:
            effects += reject_lease(state, lease, reason)
    for check in epoch.checks.values():
        is_of_it = check.provider == provider and check.order_hash == order_hash
        if is_of_it and check.state is not CheckState.DONE:
            end_inconclusive(state, check)
    if part.stage is PartStage.SEALING:
        return effects + request_openings_if_sealed(state, epoch, provider)
    if part.stage is PartStage.OPENING and not list_unopened(state, part):
        return effects + close_openings(state, epoch, provider)
    return effects + judge_part(state, epoch, provider)


def close_openings(state: State, epoch: Epoch, provider: Address) -> list[Effect]:
    """Go on to verdicts: everything that will be opened is."""
    move_part(epoch.parts[provider], PartStage.JUDGING)
    return start_judging(state, epoch, provider)


def _get_seed(epoch: Epoch) -> Hash32:
    if epoch.seed is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no seed")
    return epoch.seed
