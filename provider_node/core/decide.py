"""
What a provider does about each event: the only code that changes its state.

`ProcessStarted` and `CoordinatorJoined` ask again for everything outstanding, so no answer is
lost with a process or a session; everything else is one step of one lease.
"""

from __future__ import annotations

from gpumarket.protocol import messages
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.gpu import list_engine_names
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.receipt import Receipt, UnitResult, Usage, compute_input_hash
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Timestamp
from provider_node.core import training
from provider_node.core.effects import (
    CleanUp,
    Effect,
    RunUnit,
    SendMessage,
    SignReceipt,
    StopUnit,
    StoreOutput,
)
from provider_node.core.epochs import close_epoch, open_results, sign_root
from provider_node.core.events import (
    AttemptFailed,
    CheckpointStored,
    CoordinatorCaught,
    CoordinatorJoined,
    CoordinatorLost,
    Event,
    FundsSeen,
    FundsUnknown,
    HardwareChecked,
    MessageReceived,
    MinutePassed,
    OutputStored,
    ProcessStarted,
    ReceiptSigned,
    TimePassed,
    UnitPrepared,
    UnitProgressed,
    UnitRan,
)
from provider_node.core.hours import CHECKING, IDLE
from provider_node.core.metering import compute_receipt_price
from provider_node.core.proposals import consider, decline_unfunded, distrust, take_funds
from provider_node.core.state import (
    ACTIVE,
    CLAIMED,
    ENDED,
    Lease,
    Phase,
    Progress,
    Proposal,
    ProviderState,
    end_lease,
)
from provider_node.core.terms import Terms

COUNT_MAX = 2**63 - 1
"""What a document's counts hold."""


class Provider(ProviderState, kw_only=True):
    """The state as the runtime drives it."""

    def decide(self, event: Event) -> list[Effect]:
        """Apply one event and return what must be done about it."""
        return decide(self, event)


def decide(state: ProviderState, event: Event) -> list[Effect]:
    """Apply one event and return what must be done about it."""
    effects = _apply(state, event)
    if not event.VOLATILE:
        state.ledger.count(event.at, *_find_uses(state))
    return effects


def _apply(state: ProviderState, event: Event) -> list[Effect]:
    match event:
        case ProcessStarted():
            return _start(state, event)
        case TimePassed(at=at):
            return _pass_time(state, at)
        case MinutePassed():
            return []
        case HardwareChecked(device=device, is_over=is_over):
            return _note_check(state, device, is_over=is_over)
        case CoordinatorJoined(coordinator=coordinator, at=at):
            state.connected[coordinator] = at
            return _catch_up(state, coordinator)
        case CoordinatorLost(coordinator=coordinator):
            state.connected.pop(coordinator, None)
            return []
        case MessageReceived():
            return _hear(state, event)
        case UnitProgressed():
            return _show_progress(state, event)
        case FundsSeen():
            return take_funds(state, event)
        case FundsUnknown():
            return decline_unfunded(state, event)
        case CoordinatorCaught(coordinator=coordinator):
            return distrust(state, coordinator)
        case _:
            return _work(state, event)


def _note_check(state: ProviderState, device: int, *, is_over: bool) -> list[Effect]:
    others = tuple(index for index in state.checking if index != device)
    is_ours = not is_over and device < len(state.terms.devices)
    state.checking = (*others, device) if is_ours else others
    return []


def _find_uses(state: ProviderState) -> tuple[list[str], list[Hash32 | None]]:
    """Return what each device does now, and for which lease."""
    count = len(state.terms.devices)
    uses = [IDLE] * count
    holders: list[Hash32 | None] = [None] * count
    for index in state.checking:
        uses[index] = CHECKING
    for lease in sorted(state.find_active(), key=lambda lease: not lease.devices):
        # A task without a device of its own still keeps the machine busy.
        for index in lease.devices or _find_idle(uses):
            if index < count:
                uses[index], holders[index] = lease.phase.value, lease.lease_id
    return uses, holders


def _find_idle(uses: list[str]) -> tuple[int, ...]:
    return (uses.index(IDLE),) if IDLE in uses else ()


# ---- starting again ------------------------------------------------------------------------


def _start(state: ProviderState, event: ProcessStarted) -> list[Effect]:
    state.ledger.note_stop()
    state.checking = ()
    state.connected.clear()
    # Their readings are lost; the coordinator asks again, or somebody else.
    state.waiting.clear()
    before, state.terms = state.terms, event.terms
    effects: list[Effect] = []
    for lease in [lease for lease in state.find_active() if _is_displaced(state, lease, before)]:
        gone = Reason(
            code="GM-5302",
            text="the provider came back with fewer slots or other devices",
            fault="provider",
        )
        effects += _fail(state, lease, gone, event.at)
    for lease in state.leases.values():
        if lease.phase is Phase.RUNNING:
            lease.move(Phase.PREPARING, event.at)
        effects += _ask_again(lease)
    return effects


def _is_displaced(state: ProviderState, lease: Lease, before: Terms) -> bool:
    """Tell whether the new terms have no room for an active lease; the oldest stay."""
    devices = state.terms.devices
    is_moved = any(
        index >= len(devices) or devices[index] != before.devices[index] for index in lease.devices
    )
    return is_moved or lease in state.find_active()[state.terms.slots :]


def _ask_again(lease: Lease) -> list[Effect]:
    match lease.phase:
        case Phase.PREPARING:
            return [training.prepare(lease)]
        case Phase.UPLOADING:
            return [StoreOutput(lease_id=lease.lease_id)]
        case Phase.SIGNING:
            return [SignReceipt(lease_id=lease.lease_id, receipt=lease.get_receipt())]
        case _:
            return []


def _catch_up(state: ProviderState, coordinator: Address) -> list[Effect]:
    effects: list[Effect] = []
    for lease in state.leases.values():
        if lease.coordinator != coordinator or (message := _find_answer(lease)) is None:
            continue
        if lease.phase in ACTIVE | CLAIMED:
            # Before the receipt, which counts only with its whole chain.
            effects += training.sign_again(lease)
        effects.append(SendMessage(coordinator=coordinator, message=message))
    return effects


def _find_answer(lease: Lease) -> messages.Message | None:
    """What a coordinator must hear about a lease whose messages may have been lost."""
    if lease.phase in ACTIVE:
        return messages.LeaseAccepted(lease_id=lease.lease_id)
    if lease.phase in CLAIMED:
        return messages.UnitFinished(
            lease_id=lease.lease_id, receipt=lease.get_signed(), duration_ms=lease.duration_ms
        )
    if lease.phase is Phase.FAILED:
        return _report_failure(lease)
    return None


def _report_failure(lease: Lease) -> messages.UnitFailed:
    return messages.UnitFailed(
        lease_id=lease.lease_id,
        reason=lease.get_reason(),
        exit_code=lease.exit_code,
        log_tail=lease.log_tail,
    )


# ---- what the coordinator says -------------------------------------------------------------


def _hear(state: ProviderState, event: MessageReceived) -> list[Effect]:
    sender, at = event.coordinator, event.at
    match event.message:
        case messages.LeaseProposed() as proposed:
            return _consider(state, event, proposed)
        case messages.LeaseCancelled(lease_id=lease_id, reason=reason):
            lease = state.find_lease(lease_id, sender)
            return [] if lease is None else _cancel(state, lease, reason, at)
        case messages.RootRequested() as request:
            return sign_root(state, sender, request, at=at)
        case messages.OpeningsRequested() as request:
            return open_results(state, sender, request, at=at)
        case messages.EpochClosed() as closed:
            return close_epoch(state, sender, closed, at=at)


def _consider(
    state: ProviderState, event: MessageReceived, proposed: messages.LeaseProposed
) -> list[Effect]:
    known = state.find_lease(proposed.lease.body.lease_id, event.coordinator)
    if known is not None:
        answer = _find_answer(known)
        return (
            [] if answer is None else [SendMessage(coordinator=known.coordinator, message=answer)]
        )
    proposal = Proposal(
        coordinator=event.coordinator,
        lease=proposed.lease,
        assignment=proposed.assignment,
        disk_free_bytes=event.disk_free_bytes,
    )
    return consider(state, proposal, at=event.at)


def _cancel(state: ProviderState, lease: Lease, reason: Reason, at: Timestamp) -> list[Effect]:
    if lease.phase in ENDED:
        return []
    was_active = lease.phase in ACTIVE
    end_lease(state, lease, Phase.FAILED if was_active else Phase.UNPAID, at=at, reason=reason)
    if not was_active:
        return []
    return [
        StopUnit(lease_id=lease.lease_id),
        CleanUp(lease_id=lease.lease_id, is_output_kept=True),
    ]


# ---- our own work --------------------------------------------------------------------------


def _work(state: ProviderState, event: Event) -> list[Effect]:
    lease_id: Hash32 = getattr(event, "lease_id", ZERO_HASH)
    lease = state.leases.get(lease_id)
    if lease is None:
        return []
    at = event.at
    match event, lease.phase:
        case UnitPrepared(bytes_in=bytes_in), Phase.PREPARING:
            lease.move(Phase.RUNNING, at)
            lease.prepared_at = at
            lease.bytes_in += bytes_in
            devices = [
                state.terms.devices[i] for i in lease.devices if i < len(state.terms.devices)
            ]
            return [
                RunUnit(
                    lease=lease.offer,
                    device_ids=list_engine_names(devices),
                    resume=training.find_resume(lease),
                    checkpoints=len(lease.segments),
                )
            ]
        case CheckpointStored() as stored, Phase.RUNNING:
            lease.checkpoint_bytes += stored.stored_bytes
            return [*training.take_checkpoint(lease, stored, state.terms)]
        case UnitRan(duration_ms=duration_ms, energy=energy), Phase.RUNNING:
            gap = training.find_gap(lease)
            if gap is not None:
                return _fail(state, lease, gap, at)
            lease.duration_ms, lease.energy = duration_ms, energy
            lease.move(Phase.UPLOADING, at)
            return [StoreOutput(lease_id=lease_id)]
        case OutputStored() as stored, Phase.UPLOADING:
            _write_receipt(state, lease, stored)
            lease.move(Phase.SIGNING, at)
            return _ask_again(lease)
        case ReceiptSigned(receipt=signed), Phase.SIGNING:
            return _finish(lease, signed, at)
        case AttemptFailed() as failed, phase if phase in ACTIVE:
            lease.exit_code, lease.log_tail = failed.exit_code, failed.log_tail
            return _fail(state, lease, failed.reason, at)
        case _:
            # The lease went on without this answer: it was cancelled, or asked twice.
            return []


def _write_receipt(state: ProviderState, lease: Lease, stored: OutputStored) -> None:
    order = lease.offer.order.body
    lease.result = UnitResult(
        order_hash=order.compute_struct_hash(),
        unit=lease.offer.unit,
        provider=state.terms.provider,
        input_hash=compute_input_hash(order.job_hash, lease.offer.unit),
        output=stored.output,
        output_bytes=stored.output_bytes,
        repro_class=state.terms.repro_class,
        duration_ms=lease.duration_ms,
        salt=stored.salt,
        training=training.find_claim(lease),
        usage=_measure_usage(lease, output_bytes=stored.output_bytes, at=stored.at),
    )
    lease.receipt = Receipt(
        order_hash=lease.result.order_hash,
        unit=lease.offer.unit,
        provider=state.terms.provider,
        result_hash=lease.result.compute_hash(),
        price=compute_receipt_price(
            duration_ms=lease.duration_ms,
            devices=lease.offer.job.resources.devices.count,
            price_per_device_hour=lease.offer.price_per_device_hour,
            price_max=lease.offer.price_max,
        ),
        finished_at=stored.at,
    )


def _measure_usage(lease: Lease, *, output_bytes: int, at: Timestamp) -> Usage:
    """Say what a unit took, when its output is stored."""
    job = lease.offer.job
    kept = sum(given.size_bytes for given in job.inputs) + output_bytes
    since = at if lease.prepared_at is None else lease.prepared_at
    return Usage(
        device_ms=lease.duration_ms * max(1, job.resources.devices.count),
        bytes_in=lease.bytes_in,
        bytes_out=output_bytes + lease.checkpoint_bytes,
        # A clock that was set back makes no time negative.
        storage_byte_seconds=min(COUNT_MAX, kept * max(0, at - since)),
        energy=lease.energy,
    )


def _finish(lease: Lease, signed: Signed[Receipt], at: Timestamp) -> list[Effect]:
    if signed.body != lease.receipt:
        raise LocalProtocolError("another receipt was signed than the one that was asked for")
    lease.signed = signed
    lease.move(Phase.FINISHED, at)
    finished = messages.UnitFinished(
        lease_id=lease.lease_id, receipt=signed, duration_ms=lease.duration_ms
    )
    return [
        SendMessage(coordinator=lease.coordinator, message=finished),
        CleanUp(lease_id=lease.lease_id, is_output_kept=True),
    ]


def _fail(state: ProviderState, lease: Lease, reason: Reason, at: Timestamp) -> list[Effect]:
    end_lease(state, lease, Phase.FAILED, at=at, reason=reason)
    return [
        SendMessage(coordinator=lease.coordinator, message=_report_failure(lease)),
        CleanUp(lease_id=lease.lease_id, is_output_kept=True),
    ]


def _show_progress(state: ProviderState, event: UnitProgressed) -> list[Effect]:
    lease = state.leases.get(event.lease_id)
    if lease is None or lease.phase not in ACTIVE:
        return []
    lease.progress = Progress(
        phase=event.phase, done=event.done, total=event.total, line=event.line
    )
    message = messages.LeaseProgress(
        lease_id=event.lease_id,
        phase=event.phase,
        done=event.done,
        total=event.total,
        line=event.line,
    )
    return [SendMessage(coordinator=lease.coordinator, message=message)]


# ---- time ----------------------------------------------------------------------------------


def _pass_time(state: ProviderState, at: Timestamp) -> list[Effect]:
    effects: list[Effect] = []
    for lease in [lease for lease in state.leases.values() if lease.deadline <= at]:
        if lease.phase in ACTIVE:
            late = Reason(
                code="GM-5304",
                text=f"no receipt by the lease's deadline; it was {lease.phase.value}",
                fault="provider",
            )
            effects += [StopUnit(lease_id=lease.lease_id), *_fail(state, lease, late, at)]
        elif lease.phase in CLAIMED:
            expired = Reason(
                code="GM-1202",
                text="the order expired before the coordinator settled it",
                fault="coordinator",
            )
            end_lease(state, lease, Phase.UNPAID, at=at, reason=expired)
        else:
            del state.leases[lease.lease_id]
            effects.append(
                CleanUp(
                    lease_id=lease.lease_id,
                    is_output_kept=False,
                    checkpoints=len(lease.segments),
                )
            )
    return effects
