"""
Hardware challenges: whose devices are challenged when, and what becomes of those that fail.

A provider is challenged when it joins and at random times after, together with all others at the
same host or of the same owner: two offers of one device cannot both hold its memory at one time.
A device that fails is off the book until it passes; whoever was never challenged waits. Nothing
here is about payment.
"""

from __future__ import annotations

from typing import Final

from coordinator.core.effects import DrawHardwareSecret, Effect, JudgeHardware, SendMessage
from coordinator.core.events import HardwareJudged, HardwareSecretDrawn
from coordinator.core.hardware_state import (
    HardwareRecord,
    HardwareRound,
    Trial,
    TrialStage,
)
from coordinator.core.state import Provider, State, set_timer
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.hardware import (
    CPU_CLASS,
    derive_check_seed,
    derive_second_seed,
    find_class,
    make_task,
    plan_challenge,
)
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.messages import (
    Declined,
    HardwareAnswered,
    HardwareChallenged,
    HardwareDrawn,
    HardwareOpened,
    HardwareReady,
)
from gpumarket.protocol.units import PPM, Timestamp

BUSY_SECONDS: Final = 30
"""How long to wait for a provider that is at work."""
DRAIN_SECONDS: Final = 3_600
"""Overdue by more than this, a provider gets no new task until it was challenged."""
RETRY_SECONDS: Final = 300
MATE_SECONDS: Final = 60
"""Passed no longer ago than this, nobody is challenged again for a neighbor's sake."""
REJOIN_SECONDS: Final = 30
"""How soon one that came back is challenged again after it failed."""
_STEPS: Final = {
    TrialStage.MULTIPLYING: "the product",
    TrialStage.FILLING: "the table",
    TrialStage.WALKING: "the walks",
}


# ---- what matching asks --------------------------------------------------------------------


def list_failed(state: State, provider: Provider) -> tuple[Device, ...]:
    """Return the offered devices that failed their last challenge."""
    record = _find_record(state, provider)
    return () if record is None else tuple(record.devices[index] for index in record.reasons)


def is_being_checked(state: State, provider: Provider) -> bool:
    """Say whether a provider gets no task for now, because its devices are to be challenged."""
    if not state.settings.hardware_interval_seconds:
        return False
    devices = provider.offer.body.devices
    record = _find_record(state, provider)
    if record is None:
        return any(not device.simulated for device in devices)
    if record.round is not None and any(find_class(device) is not CPU_CLASS for device in devices):
        # A task beside it would make an honest device late.
        return True
    if state.now > record.due_at + DRAIN_SECONDS:
        return True
    known = record.passed.keys() | record.reasons.keys()
    return any(not device.simulated and index not in known for index, device in enumerate(devices))


def describe_hardware(state: State, provider: Provider) -> Reason | None:
    """Return why a provider's devices, or some of them, get no tasks; None where all do."""
    record = _find_record(state, provider)
    if record is not None and record.reasons:
        return record.reasons[min(record.reasons)]
    if is_being_checked(state, provider):
        text = "its devices are being challenged"
        return Reason(code="GM-4050", text=text, fault="none")
    return None


def _find_record(state: State, provider: Provider) -> HardwareRecord | None:
    record = state.hardware.records.get(provider.offer.body.provider)
    return record if record and record.devices == provider.offer.body.devices else None


# ---- when ----------------------------------------------------------------------------------


def note_joined(state: State, address: Address, *, is_new_session: bool) -> None:
    """See to it that a provider which joined, or offers other devices, is challenged."""
    if not state.settings.hardware_interval_seconds:
        return
    provider = state.providers[address]
    record = _find_record(state, provider)
    if record is None:
        old = state.hardware.records.get(address)
        record = HardwareRecord(
            devices=provider.offer.body.devices,
            due_at=state.now,
            round=old.round if old else None,
        )
        state.hardware.records[address] = record
    elif not is_new_session:
        return
    elif len(record.passed) < len(record.devices):
        record.due_at = Timestamp(min(record.due_at, state.now + REJOIN_SECONDS))
    set_timer(state, record.due_at, "hardware", key=address)


def restart(state: State) -> None:
    """Forget the rounds that a crash interrupted, and blame nobody."""
    for challenge_round in state.hardware.rounds.values():
        for address in challenge_round.members:
            record = state.hardware.records.get(address)
            if record is not None:
                record.round, record.due_at = None, state.now
    state.hardware.rounds.clear()


def begin_round(state: State, key: bytes) -> list[Effect]:
    """Begin a round with the provider that is due and all idle ones at the same host."""
    record = state.hardware.records.get(key)
    provider = state.providers.get(key)
    if record is None or provider is None or not provider.session:
        return []
    if record.due_at > state.now:
        return []
    if record.round is not None or provider.lease_ids:
        set_timer(state, state.now + BUSY_SECONDS, "hardware", key=key)
        return []
    members = _list_members(state, provider)
    number, state.hardware.next_round = state.hardware.next_round, state.hardware.next_round + 1
    state.hardware.rounds[number] = HardwareRound(number=number, members=members)
    for address in members:
        state.hardware.records[address].round = number
    return [DrawHardwareSecret(round=number)]


def _list_members(state: State, first: Provider) -> tuple[Address, ...]:
    marks = _list_marks(first)
    found = []
    for address, provider in state.providers.items():
        record = state.hardware.records.get(address)
        is_idle = provider.session and not provider.lease_ids
        if record is None or record.round is not None or not is_idle:
            continue
        was_just_checked = state.now < max(record.passed.values(), default=0) + MATE_SECONDS
        if provider is first or (not was_just_checked and marks & _list_marks(provider)):
            found.append(address)
    return tuple(found)


def _list_marks(provider: Provider) -> frozenset[str | bytes]:
    """Return what two offers of one machine, or of one owner, have in common."""
    offer = provider.offer.body
    # A multiaddress begins with /ip4/HOST, /ip6/HOST or /dns/HOST.
    hosts = (address.split("/")[2:3] for address in offer.addresses)
    devices = (device.device_id for device in offer.devices if device.device_id)
    return frozenset([provider.payout, *(host for part in hosts for host in part), *devices])


# ---- one round -----------------------------------------------------------------------------


def take_secret(state: State, event: HardwareSecretDrawn) -> list[Effect]:
    """Challenge every device of every member at once."""
    challenge_round = state.hardware.rounds.get(event.round)
    if challenge_round is None or challenge_round.secret is not None:
        return []
    challenge_round.secret = event.secret
    effects: list[Effect] = []
    for address in challenge_round.members:
        record = state.hardware.records[address]
        for index, device in enumerate(record.devices):
            effects.append(_challenge(state, challenge_round, address, index, device))
    return effects


def _challenge(
    state: State, challenge_round: HardwareRound, address: Address, index: int, device: Device
) -> SendMessage:
    plan = plan_challenge(device)
    task = make_task(
        _get_secret(challenge_round),
        coordinator=state.settings.coordinator,
        provider=address,
        device=index,
        shape=plan.shape,
    )
    answer_by = Timestamp(state.now + plan.answer_seconds)
    ready_by = Timestamp(answer_by + plan.ready_seconds)
    challenge_round.trials[task.challenge] = Trial(
        provider=address, task=task, deadline=answer_by, ready_by=ready_by
    )
    _wake_after(state, challenge_round, answer_by)
    message = HardwareChallenged(task=task, answer_by=answer_by, ready_by=ready_by)
    return SendMessage(recipient=address, message=message)


def take_answer(state: State, sender: Address, message: HardwareAnswered) -> list[Effect]:
    """Keep the root that a device commits to, if it came in time."""
    found = _find_trial(state, sender, message.challenge, TrialStage.MULTIPLYING)
    if found is None:
        return []
    challenge_round, trial = found
    trial.root, trial.stage, trial.deadline = message.root, TrialStage.FILLING, trial.ready_by
    _wake_after(state, challenge_round, trial.deadline)
    return []


def take_ready(state: State, sender: Address, message: HardwareReady) -> list[Effect]:
    """Note that a table is full; walk through all of them at once when the last one is."""
    found = _find_trial(state, sender, message.challenge, TrialStage.FILLING)
    if found is None:
        return []
    challenge_round, trial = found
    trial.stage = TrialStage.READY
    return _go_on(state, challenge_round)


def take_opening(state: State, sender: Address, message: HardwareOpened) -> list[Effect]:
    """Have an opened answer judged, if it came in time."""
    found = _find_trial(state, sender, message.challenge, TrialStage.WALKING)
    if found is None:
        return []
    challenge_round, trial = found
    trial.stage = TrialStage.JUDGING
    secret = _get_secret(challenge_round)
    return [
        JudgeHardware(
            task=trial.task,
            root=trial.root,
            second=derive_second_seed(secret, message.challenge),
            check_seed=derive_check_seed(secret, message.challenge),
            rows=message.rows,
            walks=message.walks,
        )
    ]


def take_judgement(state: State, event: HardwareJudged) -> list[Effect]:
    """Put a device on the book, or take it off."""
    for challenge_round in state.hardware.rounds.values():
        trial = challenge_round.trials.get(event.challenge)
        if trial is not None and trial.stage is TrialStage.JUDGING:
            if event.problem:
                reason = Reason(code="GM-4052", text=event.problem, fault="provider")
                return [*_fail(state, trial, reason), *_go_on(state, challenge_round)]
            trial.stage = TrialStage.PASSED
            record = state.hardware.records[trial.provider]
            if _is_about_record(record, trial):
                record.passed[trial.task.device] = state.now
                record.reasons.pop(trial.task.device, None)
            return _go_on(state, challenge_round)
    return []


def expire_step(state: State, key: bytes) -> list[Effect]:
    """Fail every device of a round whose step is overdue."""
    challenge_round = state.hardware.rounds.get(int.from_bytes(key, "big"))
    if challenge_round is None:
        return []
    effects: list[Effect] = []
    for trial in challenge_round.trials.values():
        if trial.stage in _STEPS and trial.deadline < state.now:
            late = f"{_STEPS[trial.stage]} of its challenge did not come in time"
            reason = Reason(code="GM-4051", text=late, fault="provider")
            effects += _fail(state, trial, reason)
    return effects + _go_on(state, challenge_round)


def _go_on(state: State, challenge_round: HardwareRound) -> list[Effect]:
    trials = challenge_round.trials.values()
    if all(trial.is_over for trial in trials):
        _close(state, challenge_round)
        return []
    if any(trial.stage in (TrialStage.MULTIPLYING, TrialStage.FILLING) for trial in trials):
        return []
    return [
        _draw(state, challenge_round, trial) for trial in trials if trial.stage is TrialStage.READY
    ]


def _draw(state: State, challenge_round: HardwareRound, trial: Trial) -> SendMessage:
    record = state.hardware.records[trial.provider]
    plan = plan_challenge(record.devices[trial.task.device])
    trial.stage = TrialStage.WALKING
    trial.deadline = Timestamp(state.now + plan.opening_seconds)
    _wake_after(state, challenge_round, trial.deadline)
    challenge = trial.task.challenge
    second = derive_second_seed(_get_secret(challenge_round), challenge)
    drawn = HardwareDrawn(challenge=challenge, seed=second, open_by=trial.deadline)
    return SendMessage(recipient=trial.provider, message=drawn)


def _fail(state: State, trial: Trial, reason: Reason) -> list[Effect]:
    trial.stage = TrialStage.FAILED
    record = state.hardware.records[trial.provider]
    if not _is_about_record(record, trial):
        return []
    record.passed.pop(trial.task.device, None)
    record.reasons[trial.task.device] = reason
    device = record.devices[trial.task.device]
    told = Declined(
        about=trial.task.challenge,
        code=reason.code,
        need=reason.text[:200],
        have=f"device {trial.task.device}, {device.model}",
    )
    return [SendMessage(recipient=trial.provider, message=told)]


def _close(state: State, challenge_round: HardwareRound) -> None:
    secret, interval = _get_secret(challenge_round), state.settings.hardware_interval_seconds
    for address in challenge_round.members:
        record = state.hardware.records[address]
        record.round = None
        known = record.passed.keys() | record.reasons.keys()
        if len(known) < len(record.devices):
            # Other devices were offered meanwhile.
            record.due_at = state.now
        elif record.reasons:
            record.due_at = Timestamp(state.now + RETRY_SECONDS)
        else:
            # From half to one and a half of the interval, so that nobody knows when.
            share = int.from_bytes(derive_check_seed(secret, address.rjust(32, b"\0"))[:4], "big")
            wait = interval * (PPM // 2 + share * PPM // 2**32) // PPM
            record.due_at = Timestamp(state.now + wait)
        set_timer(state, record.due_at, "hardware", key=address)
    del state.hardware.rounds[challenge_round.number]


def _find_trial(
    state: State, sender: Address, challenge: Hash32, stage: TrialStage
) -> tuple[HardwareRound, Trial] | None:
    """Return a trial that waits for this message; None where the message is late or said twice."""
    for challenge_round in state.hardware.rounds.values():
        trial = challenge_round.trials.get(challenge)
        if trial is None:
            continue
        if trial.provider != sender:
            raise RemoteProtocolError("this hardware challenge was put to somebody else")
        # What is overdue has failed already: timers fire before every event.
        return (challenge_round, trial) if trial.stage is stage else None
    return None


def _is_about_record(record: HardwareRecord, trial: Trial) -> bool:
    index = trial.task.device
    is_there = index < len(record.devices)
    return is_there and plan_challenge(record.devices[index]).shape == trial.task.shape


def _wake_after(state: State, challenge_round: HardwareRound, deadline: Timestamp) -> None:
    # The deadline's own second still counts.
    set_timer(state, deadline + 1, "hardware-step", key=challenge_round.number.to_bytes(8, "big"))


def _get_secret(challenge_round: HardwareRound) -> Hash32:
    if challenge_round.secret is None:
        raise LocalProtocolError("a round of hardware challenges has no secret yet")
    return challenge_round.secret
