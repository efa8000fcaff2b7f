"""
Checking: the seed picks receipts, verifiers do that work again blind, then results are opened.

A verifier seals its own result before the provider opens one that names the seal: neither can
copy the other. A provider that has committed and then does not open has lost, as if it forged.
"""

from __future__ import annotations

from coordinator.core.assigning import choose_verifier, free_verifier, unassign
from coordinator.core.effects import Effect, SendMessage
from coordinator.core.epoch_state import Check, Epoch, Part, move_check, move_epoch, move_part
from coordinator.core.judging import end_pool, judge_part, reject_lease, start_judging
from coordinator.core.lifecycle import CheckState, EpochState, PartStage
from coordinator.core.pools import draw_checks, find_check, find_check_of, list_twins
from coordinator.core.state import (
    Lease,
    State,
    get_receipt,
    note_facts,
    set_timer,
    write_log,
)
from coordinator.core.training import check_claim
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Opening, Seal, Verdict
from gpumarket.protocol.cids import decode_cid_untrusted
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.receipt import compute_input_hash
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import Timestamp, compute_price

NOT_OPENED = Reason(
    code="GM-7102", text="the provider did not open its results in time", fault="provider"
)


# ---- the sample ----------------------------------------------------------------------------


def begin_checks(state: State, epoch: Epoch) -> list[Effect]:
    """Draw the sample of every provider's pools in a seeded epoch."""
    for provider, part in epoch.parts.items():
        if part.stage is not PartStage.SIGNED:
            continue
        move_part(part, PartStage.SEALING)
        part.open_orders = [o for o in part.open_orders if not state.jobs[o].is_over]
        for pool in part.pools:
            draw_checks(state, epoch, provider=provider, pool=pool)
    effects: list[Effect] = []
    for provider in epoch.parts:
        effects += request_openings_if_sealed(state, epoch, provider)
    return effects


# ---- seals ---------------------------------------------------------------------------------


def take_seal(state: State, sender: Address, message: messages.CheckSealed) -> list[Effect]:
    """Keep a verifier's seal; when a provider's last one is in, its results are opened."""
    seal = verify_seal(state, sender, message.seal)
    found = find_check_of(state, seal.receipt_hash, sender)
    if found is None or found[1].state is not CheckState.ASKED:
        return []
    epoch, check = found
    if (seal.order_hash, seal.unit) != (check.order_hash, check.unit):
        raise RemoteProtocolError("a seal is about another task than its receipt")
    check.seal = message.seal
    move_check(check, CheckState.SEALED)
    free_verifier(state, check)
    write_log(state, state.jobs[check.order_hash], "sealed", task=check.unit, actor=sender)
    return request_openings_if_sealed(state, epoch, check.provider)


def verify_seal(state: State, sender: Address, signed: Signed[Seal]) -> Seal:
    """Return a seal that its sender signed; raise `RemoteProtocolError` for another's."""
    seal = verify(signed, state.settings.domain)
    if not sender == seal.signer == seal.body.verifier:
        raise RemoteProtocolError("a seal is signed by somebody else than its verifier")
    return seal.body


def decline_check(state: State, sender: Address, message: messages.Declined) -> list[Effect]:
    """Give a check to another verifier when the one chosen will not do it."""
    found = find_check_of(state, message.about, sender)
    if found is None or found[1].state is not CheckState.ASKED:
        return []
    return _retry_check(state, *found)


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
    unassign(state, check)
    if check.attempts < state.settings.check_attempts_max:
        return []
    end_inconclusive(state, check)
    return request_openings_if_sealed(state, epoch, check.provider)


def end_inconclusive(state: State, check: Check) -> None:
    """End a check that nobody could decide: nobody is paid for it and nobody blamed."""
    free_verifier(state, check)
    state.waiting_checks.pop(check.key, None)
    check.verdict = Verdict.INCONCLUSIVE
    move_check(check, CheckState.DONE)
    write_log(state, state.jobs[check.order_hash], "inconclusive", task=check.unit)


def expire_overlap(state: State, key: bytes) -> list[Effect]:
    """Go on with one check of an overlapped result where there is no second verifier."""
    found = find_check(state, key)
    if found is None or found[1].state is not CheckState.WAITING:
        return []
    epoch, check = found
    if check.verifier is not None or choose_verifier(state, epoch, check) is not None:
        again = state.now + state.settings.class_wait_seconds
        set_timer(state, again, "overlap", key=key)
        return []
    end_inconclusive(state, check)
    return request_openings_if_sealed(state, epoch, check.provider)


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
    leases = [state.leases[lease_id] for lease_id in part.lease_ids if lease_id in state.leases]
    return [
        lease
        for lease in leases
        if lease.order_hash in part.open_orders
        and lease.opening is None
        and lease.state is LeaseState.FINISHED
    ]


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
    seals = [check.seal for check in list_twins(epoch, receipt_hash) if check.seal is not None]
    if opening.body.seal_hashes != tuple(sorted(compute_content_hash(s.body) for s in seals)):
        raise RemoteProtocolError("an opening does not name the seals that came first")
    if result.input_hash != compute_input_hash(job.order.body.job_hash, lease.unit):
        raise RemoteProtocolError("an opened result is of another input")
    if result.output_bytes > sum(output.bytes_max for output in job.spec.outputs):
        raise RemoteProtocolError("an opened output is over its limit")
    decode_cid_untrusted(result.output)
    check_claim(state, lease, result)
    devices = job.spec.resources.devices.count
    if result.usage and not result.usage.fits(duration_ms=result.duration_ms, devices=devices):
        raise RemoteProtocolError("an opened result metered another device time than it ran")
    price = compute_price(
        duration_ms=result.duration_ms,
        devices=max(1, devices),
        price_per_device_hour=lease.price_per_device_hour,
    )
    if receipt.price > price:
        raise RemoteProtocolError("an opened result took less time than was charged")


def expire_openings(state: State, key: bytes) -> list[Effect]:
    """Reject the pools of which a provider has not opened everything in time."""
    epoch, provider = state.epochs.get(int.from_bytes(key[:8], "big")), key[8:]
    part = epoch.parts.get(provider) if epoch else None
    if epoch is None or part is None or part.stage is not PartStage.OPENING:
        return []
    if part.deadline > state.now:
        return []
    withheld = {lease.lease_id for lease in list_unopened(state, part)}
    note_facts(state, provider).withheld += 1
    effects: list[Effect] = []
    for pool in part.pools:
        if withheld.intersection(pool.lease_ids):
            effects += end_pool(state, epoch, provider=provider, pool=pool, reason=NOT_OPENED)
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
    for lease in (state.leases[lease_id] for lease_id in part.lease_ids):
        if lease.order_hash == order_hash and lease.state is LeaseState.FINISHED:
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
