"""
Judging: verdicts and fetched outputs decide what a provider is paid for.

A provider's results in one pool stand or fall together, whatever jobs they are of: one forged
result and none of them is paid. What passes must also be here in full: an output nobody can fetch
is no work.
"""

from __future__ import annotations

from coordinator.core.canaries import (
    SET_ASIDE,
    has_all_verdicts,
    is_set_aside,
    must_wait,
)
from coordinator.core.effects import Effect, FetchOutput, PublishDocument, SendMessage
from coordinator.core.epoch_state import Check, Epoch, Part, Pool, move_check, move_part
from coordinator.core.epochs import close_epoch
from coordinator.core.events import OutputFetched, OutputMissing
from coordinator.core.leases import cancel_lease, end_with_failure
from coordinator.core.lifecycle import CheckState, PartStage, UnitState
from coordinator.core.pools import (
    describe_extent,
    find_check_of,
    find_policy,
    find_pool,
    is_self_dealt,
    list_checks,
)
from coordinator.core.relaying import relay_matches
from coordinator.core.rulings import (
    Ruling,
    is_proven_right,
    judge_mismatches,
    list_failed_orders,
)
from coordinator.core.state import (
    Lease,
    State,
    find_standing,
    get_receipt,
    move_lease,
    move_unit,
    note_facts,
    set_timer,
    write_log,
)
from coordinator.core.training import check_evidence, list_states
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Attestation, Evidence, Verdict
from gpumarket.protocol.cids import decode_cid_untrusted
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.comparison import BytesRule
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32, Multiaddr
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import Amount, Timestamp

DIFFERENT = Reason(
    code="GM-7107",
    text="the job's own program calls a task done again different",
    fault="provider",
)
FORGED = Reason(
    code="GM-7101",
    text="a task done again gave another result",
    fault="provider",
)
INCONCLUSIVE = Reason(
    code="GM-7104", text="no verifier could decide; the task is done again", fault="none"
)


# ---- showing and fetching ------------------------------------------------------------------


def start_judging(state: State, epoch: Epoch, provider: Address) -> list[Effect]:
    """Show the opened results to the verifiers that sealed, and fetch the outputs."""
    part = epoch.parts[provider]
    effects: list[Effect] = [_start_fetch(state, lease) for lease in list_open_leases(state, part)]
    for check in epoch.checks.values():
        if check.provider != provider or check.state is not CheckState.SEALED:
            continue
        lease = state.leases[check.lease_id]
        if lease.opening is None or lease.state is not LeaseState.FINISHED:
            # Its job was rejected or ended: the verdict can change nothing any more.
            check.verdict = Verdict.INCONCLUSIVE
            move_check(check, CheckState.DONE)
            continue
        move_check(check, CheckState.SHOWN)
        check.deadline = Timestamp(state.now + state.settings.compare_seconds)
        set_timer(state, check.deadline, "check", key=check.key)
        effects.append(make_result_shown(state, check))
    return effects + judge_part(state, epoch, provider)


def list_open_leases(state: State, part: Part) -> list[Lease]:
    """Return the leases of a part that are opened and not judged yet."""
    leases = (state.leases.get(lease_id) for lease_id in part.lease_ids)
    return [
        lease
        for lease in leases
        if lease is not None
        and lease.order_hash in part.open_orders
        and lease.state is LeaseState.FINISHED
    ]


def make_result_shown(state: State, check: Check) -> SendMessage:
    """Return the message that shows a verifier the result it sealed against, now or again."""
    lease = state.leases[check.lease_id]
    if lease.opening is None or check.verifier is None:
        raise LocalProtocolError("a result is shown that is not open")
    message = messages.ResultShown(
        opening=lease.opening,
        sources=list_sources(state, lease.provider),
        states=list_states(state, check),
    )
    return SendMessage(recipient=check.verifier, message=message)


def list_sources(state: State, provider: Address) -> tuple[Multiaddr, ...]:
    """Return where a provider's outputs can be had: from itself, then from us."""
    known = state.providers.get(provider)
    return (*(known.offer.body.addresses if known else ()), *state.sources)


def _start_fetch(state: State, lease: Lease) -> FetchOutput:
    lease.fetch_by = Timestamp(state.now + state.settings.fetch_seconds)
    set_timer(state, lease.fetch_by, "fetch", key=lease.lease_id)
    return make_fetch(state, lease)


def make_fetch(state: State, lease: Lease) -> FetchOutput:
    """Return the effect that brings an opened output here, now or again."""
    if lease.opening is None:
        raise LocalProtocolError("an output is fetched that is not open")
    result = lease.opening.body.result
    outputs = state.jobs[lease.order_hash].spec.outputs
    known = state.providers.get(lease.provider)
    return FetchOutput(
        lease_id=lease.lease_id,
        order_hash=lease.order_hash,
        unit=lease.unit,
        cid=result.output,
        bytes_max=sum(output.bytes_max for output in outputs),
        provider=lease.provider,
        sources=known.offer.body.addresses if known else (),
    )


def take_output(state: State, event: OutputFetched) -> list[Effect]:
    """Note that an output is here in full."""
    lease = find_awaited(state, event.lease_id)
    if lease is None or lease.opening is None or lease.opening.body.result.output != event.cid:
        return []
    lease.is_output_here, lease.fetch_by = True, None
    return _judge_lease(state, lease)


def miss_output(state: State, event: OutputMissing) -> list[Effect]:
    """Try again for an output that could not be had, then hold it against its provider."""
    lease = find_awaited(state, event.lease_id)
    if lease is None:
        return []
    lease.fetch_attempts += 1
    if lease.fetch_attempts < state.settings.fetch_attempts_max:
        again = state.now + state.settings.retry_seconds
        set_timer(state, again, "refetch", key=lease.lease_id)
        return []
    lease.output_problem, lease.fetch_by = event.text or "missing", None
    return _judge_lease(state, lease)


def refetch(state: State, key: bytes) -> list[Effect]:
    """Fetch an output again after a pause."""
    lease = find_awaited(state, key)
    return [] if lease is None else [make_fetch(state, lease)]


def expire_fetch(state: State, key: bytes) -> list[Effect]:
    """Give an output up that has not come in all the time there was."""
    lease = find_awaited(state, key)
    if lease is None or lease.fetch_by is None or lease.fetch_by > state.now:
        return []
    lease.output_problem, lease.fetch_by = "it did not come in time", None
    return _judge_lease(state, lease)


def find_awaited(state: State, lease_id: Hash32) -> Lease | None:
    """Return a lease whose output is still wanted."""
    lease = state.leases.get(lease_id)
    if lease is None or lease.fetch_by is None or lease.state is not LeaseState.FINISHED:
        return None
    return lease


def _judge_lease(state: State, lease: Lease) -> list[Effect]:
    if lease.epoch is None:
        raise LocalProtocolError("an output is judged outside an epoch")
    return judge_part(state, state.epochs[lease.epoch], lease.provider)


# ---- verdicts ------------------------------------------------------------------------------


def take_verdict(state: State, sender: Address, message: messages.CheckDone) -> list[Effect]:
    """Take a verifier's verdict, which must rest on what it sealed and what was shown to it."""
    attestation = verify(message.attestation, state.settings.domain)
    if attestation.signer != sender:
        raise RemoteProtocolError("an attestation is signed by somebody else than its sender")
    found = find_check_of(state, attestation.body.receipt_hash, sender)
    if found is None or found[1].state is not CheckState.SHOWN:
        return []
    epoch, check = found
    verdict = check_verdict(state, check, attestation.body, evidence=message.evidence)
    check.attestation, check.evidence, check.verdict = (
        message.attestation,
        message.evidence,
        verdict,
    )
    move_check(check, CheckState.DONE)
    write_log(
        state,
        state.jobs[check.order_hash],
        verdict.name.lower(),
        text=message.evidence.comparison[:200],
        task=check.unit,
        actor=sender,
    )
    publish = PublishDocument(data=encode_document(message.evidence))
    return [publish, *judge_part(state, epoch, check.provider)]


def check_verdict(
    state: State, check: Check, attestation: Attestation, *, evidence: Evidence
) -> Verdict:
    """Return what a check or a juror says; raise `RemoteProtocolError` where it cannot say that."""
    own, lease = evidence.own, state.leases[check.lease_id]
    if check.seal is None or lease.opening is None:
        raise LocalProtocolError("a verdict came on a check that is not open")
    if attestation.evidence_hash != compute_content_hash(evidence):
        raise RemoteProtocolError("an attestation rests on other evidence than was sent")
    if own.compute_hash() != check.seal.body.sealed:
        raise RemoteProtocolError("the verifier's result is not what it sealed")
    if (own.order_hash, own.unit, own.verifier) != (check.order_hash, check.unit, check.verifier):
        raise RemoteProtocolError("the verifier's result is of another task")
    if evidence.opening_hash != compute_content_hash(lease.opening.body):
        raise RemoteProtocolError("the evidence is about another opening than was shown")
    check_evidence(state, check, evidence)
    if attestation.verdict not in Verdict._value2member_map_:
        raise RemoteProtocolError(f"there is no verdict {attestation.verdict}")
    verdict, theirs = Verdict(attestation.verdict), lease.opening.body.result.output
    has_run = own.exit_code == 0
    is_same = decode_cid_untrusted(own.output) == decode_cid_untrusted(theirs)
    if verdict is Verdict.MISMATCH and has_run and is_same:
        raise RemoteProtocolError("a verifier calls two equal outputs a mismatch")
    result, policy = lease.opening.body.result, find_policy(state, lease)
    is_exact = isinstance(policy.comparison, BytesRule) and evidence.segments is None
    if verdict is Verdict.MATCH and is_exact and not is_same:
        raise RemoteProtocolError("a verifier calls two outputs of different bytes a match")
    is_foreign = policy.proves_nothing(own.repro_class, result.repro_class)
    if verdict is Verdict.MISMATCH and is_foreign:
        raise RemoteProtocolError("a verifier calls bytes of another class of machine a mismatch")
    if verdict is Verdict.MATCH and not has_run:
        raise RemoteProtocolError("a verifier whose own run failed states a match")
    return verdict


def judge_part(state: State, epoch: Epoch, provider: Address) -> list[Effect]:
    """Judge each pool whose verdicts are in and its jobs; close the part after the last."""
    effects = _judge_part(state, epoch, provider)
    if epoch.canaries and has_all_verdicts(epoch):
        # Pools of others may have waited for the last verdict, which was on one of this part.
        for other in epoch.parts:
            effects += _judge_part(state, epoch, other)
    return effects


def _judge_part(state: State, epoch: Epoch, provider: Address) -> list[Effect]:
    part = epoch.parts[provider]
    if part.stage is not PartStage.JUDGING:
        return []
    effects: list[Effect] = []
    for pool in part.pools:
        effects += _judge_pool(state, epoch, provider=provider, pool=pool)
    if part.open_orders:
        return effects
    move_part(part, PartStage.CLOSED)
    if all(each.stage is PartStage.CLOSED for each in epoch.parts.values()):
        close_epoch(state, epoch)
    return [*effects, make_epoch_closed(epoch, provider)]


def _judge_pool(state: State, epoch: Epoch, *, provider: Address, pool: Pool) -> list[Effect]:
    part, checks = epoch.parts[provider], list_checks(epoch, pool)
    if any(check.state is not CheckState.DONE for check in checks):
        return []
    if must_wait(state, epoch, pool):
        return []
    failed = list_failed_orders(state, epoch, pool)
    effects = end_orders(state, epoch, provider=provider, orders=failed, reason=DIFFERENT)
    orders = [order_hash for order_hash in pool.order_hashes if order_hash in part.open_orders]
    if not orders:
        return effects
    ruling, new = judge_mismatches(state, epoch, pool)
    effects += new
    if ruling is Ruling.OPEN:
        return effects
    if ruling is Ruling.FORGED:
        note_facts(state, provider).forged += 1
        state.standings[provider].audited = 0
        return effects + end_pool(state, epoch, provider=provider, pool=pool, reason=FORGED)
    sampled = [state.leases[check.lease_id] for check in checks]
    awaited = [lease for lease in sampled if lease.order_hash in part.open_orders]
    if any(lease.fetch_by is not None for lease in awaited):
        return effects
    gone = next((lease for lease in awaited if lease.output_problem), None)
    if gone is not None:
        # Whoever knows the sample could hide what was forged of it and keep the rest.
        note_facts(state, provider).withheld += 1
        reason = _make_gone(gone)
        return effects + end_pool(state, epoch, provider=provider, pool=pool, reason=reason)
    if not pool.is_cleared:
        pool.is_cleared = True
        matched = {check.lease_id for check in checks if is_proven_right(epoch, check)}
        learnt = [one for one in matched if not is_self_dealt(state, state.leases[one])]
        find_standing(state, provider).audited += len(learnt)
    for order_hash in orders:
        effects += _judge_order(state, epoch, provider=provider, order_hash=order_hash)
    return effects


def _make_gone(lease: Lease) -> Reason:
    text = f"the output cannot be fetched: {lease.output_problem[:200]}"
    return Reason(code="GM-6012", text=text, fault="provider")


def _judge_order(
    state: State, epoch: Epoch, *, provider: Address, order_hash: Hash32
) -> list[Effect]:
    part = epoch.parts[provider]
    pool = find_pool(part, order_hash)
    checks = [check for check in list_checks(epoch, pool) if check.order_hash == order_hash]
    leases = [le for le in list_open_leases(state, part) if le.order_hash == order_hash]
    if any(lease.fetch_by is not None for lease in leases):
        return []
    decided = {check.lease_id for check in checks if is_proven_right(epoch, check)}
    undecided = {check.lease_id for check in checks} - decided
    part.open_orders.remove(order_hash)
    effects: list[Effect] = []
    for lease in leases:
        if is_set_aside(epoch, lease):
            effects += reject_lease(state, lease, SET_ASIDE)
        elif lease.lease_id in undecided:
            effects += reject_lease(state, lease, INCONCLUSIVE)
        elif not lease.is_output_here:
            note_facts(state, provider).withheld += 1
            effects += reject_lease(state, lease, _make_gone(lease))
        else:
            _accept(state, part, lease)
    matched = [check for check in checks if check.verdict is Verdict.MATCH]
    words = [(state.leases[c.lease_id], c.attestation) for c in matched if c.attestation]
    effects += relay_matches(state, words)
    accepted = sum(lease.state is LeaseState.ACCEPTED for lease in leases)
    text = f"{len(matched)} of {len(checks)} checks match: {accepted} tasks are accepted"
    jobs, shared = len(pool.order_hashes), list_checks(epoch, pool)
    if jobs > 1:
        text += f"; none of {len(shared)} checks across {jobs} jobs speaks against this provider"
    write_log(state, state.jobs[order_hash], "verified", text=text, actor=provider)
    return effects


def _accept(state: State, part: Part, lease: Lease) -> None:
    job = state.jobs[lease.order_hash]
    move_lease(state, lease, LeaseState.ACCEPTED)
    move_unit(state, job, job.units[lease.unit], to=UnitState.ACCEPTED)
    if not is_self_dealt(state, lease):
        facts = note_facts(state, lease.provider)
        facts.accepted += 1
        facts.earned = Amount(facts.earned + get_receipt(lease).body.price)
    part.accepted.append(lease.lease_id)
    write_log(state, job, "accepted", task=lease.unit, actor=lease.provider)


def reject_lease(state: State, lease: Lease, reason: Reason) -> list[Effect]:
    """End a finished lease of an epoch unpaid; its task waits again."""
    if lease.epoch is None:
        raise LocalProtocolError("a lease is rejected outside an epoch")
    part = state.epochs[lease.epoch].parts[lease.provider]
    lease.fetch_by = None
    part.rejected.append(lease.lease_id)
    part.reason = part.reason or reason
    return end_with_failure(state, lease, reason, log_type="rejected")


def end_pool(
    state: State, epoch: Epoch, *, provider: Address, pool: Pool, reason: Reason
) -> list[Effect]:
    """Reject all of a provider's results in a pool and keep it away from the jobs they are of."""
    orders, extent = pool.order_hashes, describe_extent(pool)
    return end_orders(state, epoch, provider=provider, orders=orders, reason=reason, extent=extent)


def end_orders(
    state: State,
    epoch: Epoch,
    *,
    provider: Address,
    orders: list[Hash32],
    reason: Reason,
    extent: str = "",
) -> list[Effect]:
    """Reject all of a provider's results for some jobs of an epoch; `extent` is what else falls."""
    part = epoch.parts[provider]
    effects: list[Effect] = []
    for order_hash in orders:
        if order_hash in part.open_orders:
            part.open_orders.remove(order_hash)
            part.reason = reason
            effects += _end_order(state, part, order_hash, reason=reason, extent=extent)
    return effects


def _end_order(
    state: State, part: Part, order_hash: Hash32, *, reason: Reason, extent: str
) -> list[Effect]:
    job, provider = state.jobs[order_hash], part.expected.provider
    if provider not in job.excluded:
        job.excluded.append(provider)
    listed = [state.leases[lease_id] for lease_id in part.lease_ids]
    leases = [
        lease
        for lease in listed
        if lease.order_hash == order_hash and lease.state is LeaseState.FINISHED
    ]
    others = f"; none {extent} is paid" if extent else ""
    text = f"{reason.text}: {len(leases)} tasks go to others, unpaid{others}"
    write_log(state, job, "unpaid", text=text, actor=provider, reason=reason)
    effects: list[Effect] = []
    for lease in leases:
        effects += reject_lease(state, lease, reason)
    return effects + _take_back(state, provider, order_hash, reason)


def _take_back(state: State, provider: Address, order_hash: Hash32, reason: Reason) -> list[Effect]:
    # What the provider has of this job outside any epoch goes to others as well.
    effects: list[Effect] = []
    known = state.providers.get(provider)
    for lease_id in [*(known.lease_ids if known else ()), *state.pool]:
        lease = state.leases[lease_id]
        if lease.provider == provider and lease.order_hash == order_hash:
            effects += cancel_lease(state, lease, reason)
    return effects


def make_epoch_closed(epoch: Epoch, provider: Address) -> SendMessage:
    """Return the message that tells a provider what became of its receipts."""
    part = epoch.parts[provider]
    message = messages.EpochClosed(
        epoch=epoch.number,
        accepted=tuple(part.accepted),
        rejected=tuple(part.rejected),
        reason=part.reason,
    )
    return SendMessage(recipient=provider, message=message)
