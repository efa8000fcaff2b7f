"""What a provider does: one function an effect, each safe to perform twice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import trio
from msgspec.structs import replace

from gpumarket.adapters.clock import SystemClock, make_nonce
from gpumarket.adapters.energy import EnergyMeter
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.keys import Identity
from gpumarket.adapters.logs import Log
from gpumarket.adapters.unit_runner import TrainingRun, UnitRunner, measure_tree
from gpumarket.protocol.catalog import find_fault
from gpumarket.protocol.errors import ChainError, ContentError, GpuMarketError, SandboxError
from gpumarket.protocol.ids import Address, Hash32, make_job_id
from gpumarket.protocol.lease import Fault, LeaseOffer, Reason
from gpumarket.protocol.messages import (
    CheckpointTaken,
    Message,
    ResultsOpened,
    RootSigned,
    UnitFinished,
)
from gpumarket.protocol.receipt import Energy
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import MS_PER_SECOND, Amount, format_size
from provider_node.canary import Canary
from provider_node.cheat import Forger
from provider_node.core.effects import (
    CleanUp,
    Effect,
    PrepareUnit,
    ReadFunds,
    RunUnit,
    SendMessage,
    SignCheckpoint,
    SignOpenings,
    SignReceipt,
    SignRoot,
    StopUnit,
    StoreOutput,
)
from provider_node.core.events import (
    AttemptFailed,
    CheckpointStored,
    Event,
    FundsSeen,
    FundsUnknown,
    OutputStored,
    ReceiptSigned,
    UnitPrepared,
    UnitProgressed,
    UnitRan,
)

FETCH_SECONDS_MAX = 600.0
PROGRESS_SECONDS = 0.5
"""Between two messages about the progress of one unit."""
CLEAN_UP_SECONDS_MAX = 60.0
LOG_TAIL_CHARS_MAX = 4_000
LINE_CHARS_MAX = 200
LINE_BYTES_MAX = 4_096
COUNT_MAX = 2**32 - 1
_PROGRESS = re.compile(rb"^progress (\d{1,10})/(\d{1,10})\s*$")


class Link(Protocol):
    """What is needed of the sessions with coordinators."""

    async def send(self, coordinator: Address, message: Message) -> bool:
        """Sign and queue a message; False where there is no session."""


class Bank(Protocol):
    """What is needed of the chain before a lease is taken."""

    async def read_escrow(self, requester: Address) -> Amount:
        """Return a requester's escrow without what it has asked back."""

    async def read_bond(self, coordinator: Address) -> Amount:
        """Return a coordinator's bond without what is being unbonded."""


@dataclass(slots=True)
class _Task:
    """What goes on for a lease right now."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_over: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class World:
    """Everything outside: keys, sandbox, content, coordinators, the chain, the time."""

    identity: Identity
    domain: Domain
    runner: UnitRunner
    link: Link
    bank: Bank
    post: Callable[[Event], Awaitable[None]]
    clock: SystemClock
    log: Log
    note_phase: Callable[[str, float], None]
    """Told how many seconds a phase of a unit took."""
    forger: Forger | None = None
    canary: Canary | None = None
    energy: EnergyMeter = field(default_factory=EnergyMeter)
    tasks: dict[Hash32, _Task] = field(default_factory=dict)


async def perform(effect: Effect, world: World) -> None:
    """Do one effect and post the event that answers it."""
    match effect:
        case SendMessage(coordinator=coordinator, message=message):
            await world.link.send(coordinator, await _add_note(message, world))
        case ReadFunds():
            await _read_funds(effect, world)
        case PrepareUnit(lease=lease):
            await _work(world, lease.lease_id, "fetch", lambda: _prepare(effect, world))
        case RunUnit(lease=lease):
            await _work(world, lease.lease_id, "run", lambda: _run(effect, world))
        case StoreOutput(lease_id=lease_id):
            await _work(world, lease_id, "upload", lambda: _store(lease_id, world))
        case SignReceipt():
            await _sign_receipt(effect, world)
        case SignCheckpoint(coordinator=coordinator, lease_id=lease_id, state=state):
            signed_state = world.identity.key.sign(state, world.domain).as_signed()
            taken = CheckpointTaken(lease_id=lease_id, state=signed_state)
            await world.link.send(coordinator, taken)
        case SignRoot(coordinator=coordinator, root=root):
            signed = world.identity.key.sign(root, world.domain).as_signed()
            await world.link.send(coordinator, RootSigned(root=signed))
        case SignOpenings():
            await _sign_openings(effect, world)
        case StopUnit(lease_id=lease_id):
            await _stop(lease_id, world)
        case CleanUp():
            await _clean_up(effect, world)


async def _read_funds(effect: ReadFunds, world: World) -> None:
    requester, coordinator = effect.requester, effect.coordinator
    try:
        escrow = await world.bank.read_escrow(requester)
        bond = await world.bank.read_bond(coordinator)
    except ChainError as error:
        world.log.warn("an escrow could not be read", requester=requester, reason=error.message)
        await world.post(
            FundsUnknown(
                at=world.clock.now(), requester=requester, coordinator=coordinator, code=error.code
            )
        )
        return
    await world.post(
        FundsSeen(
            at=world.clock.now(),
            requester=requester,
            coordinator=coordinator,
            escrow=escrow,
            bond=bond,
        )
    )


async def _work(
    world: World, lease_id: Hash32, phase: str, step: Callable[[], Awaitable[Event]]
) -> None:
    """Run one step of a lease so that it can be stopped, and post how it ended."""
    task = world.tasks[lease_id] = _Task()
    started = trio.current_time()
    try:
        with task.scope:
            await _report(world, lease_id, phase)
            answer = await _try(world, lease_id, step)
    finally:
        if world.tasks.get(lease_id) is task:
            del world.tasks[lease_id]
        task.is_over.set()
    if task.scope.cancelled_caught:
        return
    seconds = trio.current_time() - started
    world.note_phase(phase, seconds)
    world.log.info(
        "a step of a lease is over",
        lease=lease_id,
        phase=phase,
        seconds=round(seconds, 2),
        outcome=type(answer).__name__,
        reason=answer.reason.text if isinstance(answer, AttemptFailed) else None,
    )
    await world.post(answer)


async def _try(world: World, lease_id: Hash32, step: Callable[[], Awaitable[Event]]) -> Event:
    try:
        return await step()
    except trio.TooSlowError:
        text = "image and inputs did not arrive in time"
        reason = Reason(code="GM-6001", text=text, fault="network")
    except GpuMarketError as error:
        text = f"{error.message}; {error.why}" if error.why else error.message
        reason = Reason(code=error.code, text=text[:500], fault=cast(Fault, find_fault(error)))
    return AttemptFailed(at=world.clock.now(), lease_id=lease_id, reason=reason)


async def _report(world: World, lease_id: Hash32, phase: str) -> None:
    await world.post(
        UnitProgressed(at=world.clock.now(), lease_id=lease_id, phase=phase, done=0, total=0)
    )


# ---- fetching, running, storing ------------------------------------------------------------


async def _prepare(effect: PrepareUnit, world: World) -> Event:
    lease = effect.lease
    left = max(1.0, float(lease.deadline - world.clock.now()))
    brought = await world.runner.prepare(
        lease.job,
        sources=lease.sources,
        deadline_s=min(left, FETCH_SECONDS_MAX),
        checkpoints=() if effect.resume is None else (effect.resume,),
    )
    return UnitPrepared(at=world.clock.now(), lease_id=lease.lease_id, bytes_in=brought)


async def _run(effect: RunUnit, world: World) -> Event:
    lease = effect.lease
    if world.forger is not None and world.forger.take_unit():
        return await _forge(lease, world.forger, world)
    result, energy = await _run_watched(effect, world)
    failure = find_failure(lease, result)
    now = world.clock.now()
    if failure is not None:
        return AttemptFailed(
            at=now,
            lease_id=lease.lease_id,
            reason=failure,
            exit_code=min(max(0, result.exit_code), COUNT_MAX),
            log_tail=make_log_tail(result),
        )
    if world.canary is not None and world.canary.picks(lease):
        await _forge_on_purpose(lease, world.canary, world)
    if world.forger is not None:
        output = world.runner.find_output(name_run(lease.lease_id))
        await trio.to_thread.run_sync(world.forger.study, lease, output, result.wall_ms)
    # The engine may note the start of a very short program after its end.
    ran_ms = max(1, result.wall_ms)
    return UnitRan(at=now, lease_id=lease.lease_id, duration_ms=ran_ms, energy=energy)


async def _run_watched(effect: RunUnit, world: World) -> tuple[RunResult, Energy | None]:
    """Run the program, report its progress meanwhile, and measure what it uses."""
    meter, energy = ProgressMeter(), await world.energy.begin(effect.device_ids)
    outcome: RunResult | GpuMarketError
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_progress, effect.lease.lease_id, meter, world)
        nursery.start_soon(energy.keep_sampling)
        try:
            outcome = await _run_program(effect, meter, world)
        except GpuMarketError as error:
            # Raised below: out of a nursery it would come inside a group.
            outcome = error
        nursery.cancel_scope.cancel()
    if isinstance(outcome, GpuMarketError):
        raise outcome
    return outcome, await energy.finish()


async def _run_program(effect: RunUnit, meter: ProgressMeter, world: World) -> RunResult:
    lease, name = effect.lease, name_run(effect.lease.lease_id)
    return await world.runner.run(
        lease.job,
        lease.unit,
        name=name,
        job_id=make_job_id(lease.order.body.compute_struct_hash()),
        device_ids=effect.device_ids,
        on_output=meter.take,
        training=_make_training_run(effect, world),
    )


def _make_training_run(effect: RunUnit, world: World) -> TrainingRun | None:
    """Say how a training task runs to its end, and keep each checkpoint as it comes."""
    lease, runner = effect.lease, world.runner
    if lease.job.checkpoint is None:
        return None
    number = effect.checkpoints
    before = None if effect.resume is None else runner.find_input(effect.resume)

    async def keep(copy: Path) -> None:
        nonlocal number, before
        facts = await runner.store_checkpoint(
            copy, name=name_run(lease.lease_id), number=number, before=before
        )
        number, before = number + 1, copy
        size = await trio.to_thread.run_sync(measure_tree, copy)
        now, lease_id = world.clock.now(), lease.lease_id
        stored = CheckpointStored(at=now, lease_id=lease_id, facts=facts, stored_bytes=size)
        await world.post(stored)

    return TrainingRun(stop_at=lease.job.checkpoint.steps, resume=effect.resume, on_checkpoint=keep)


async def _forge(lease: LeaseOffer, forger: Forger, world: World) -> Event:
    output = world.runner.find_output(name_run(lease.lease_id))
    duration_ms = await trio.to_thread.run_sync(forger.forge, lease, output)
    world.log.warn("devnet cheat: a unit was forged", lease=lease.lease_id, unit=lease.unit)
    # It lets the time pass that it will charge for: a claim of more would be refused.
    await trio.sleep(duration_ms / MS_PER_SECOND)
    return UnitRan(at=world.clock.now(), lease_id=lease.lease_id, duration_ms=duration_ms)


async def _forge_on_purpose(lease: LeaseOffer, canary: Canary, world: World) -> None:
    """Make an honest output wrong for the operator; the note of it goes with the receipt."""
    name = name_run(lease.lease_id)
    honest, _ = await world.runner.store(name)
    output = world.runner.find_output(name)
    is_forged = await trio.to_thread.run_sync(canary.forge, lease, output, honest)
    world.log.info("a canary's turn", lease=lease.lease_id, unit=lease.unit, forged=is_forged)


async def _add_note(message: Message, world: World) -> Message:
    # In one message with the receipt: no crash and no new session can part the two.
    if not isinstance(message, UnitFinished) or world.canary is None:
        return message
    note = await trio.to_thread.run_sync(
        world.canary.make_note, message.lease_id, message.receipt.body
    )
    if note is None:
        return message
    return replace(message, canary=world.identity.key.sign(note, world.domain).as_signed())


async def _report_progress(lease_id: Hash32, meter: ProgressMeter, world: World) -> None:
    while True:
        await trio.sleep(PROGRESS_SECONDS)
        if meter.take_changed():
            await world.post(
                UnitProgressed(
                    at=world.clock.now(),
                    lease_id=lease_id,
                    phase="run",
                    done=meter.done,
                    total=meter.total,
                    line=meter.line,
                )
            )


async def _store(lease_id: Hash32, world: World) -> Event:
    name = name_run(lease_id)
    if not world.runner.find_output(name).is_dir():
        raise SandboxError("the output was lost before it was stored", fault="provider")
    output, size = await world.runner.store(name)
    return OutputStored(
        at=world.clock.now(),
        lease_id=lease_id,
        output=output,
        output_bytes=size,
        salt=make_nonce(),
    )


# ---- signing -------------------------------------------------------------------------------


async def _sign_receipt(effect: SignReceipt, world: World) -> None:
    signed = world.identity.key.sign(effect.receipt, world.domain).as_signed()
    await world.post(ReceiptSigned(at=world.clock.now(), lease_id=effect.lease_id, receipt=signed))


async def _sign_openings(effect: SignOpenings, world: World) -> None:
    key, domain = world.identity.key, world.domain
    openings = tuple(key.sign(opening, domain).as_signed() for opening in effect.openings)
    await world.link.send(effect.coordinator, ResultsOpened(epoch=effect.epoch, openings=openings))


# ---- ending --------------------------------------------------------------------------------


async def _stop(lease_id: Hash32, world: World) -> None:
    task = world.tasks.get(lease_id)
    if task is not None:
        task.scope.cancel()
    try:
        await world.runner.stop(name_run(lease_id))
    except SandboxError as error:
        world.log.warn("a container could not be stopped", lease=lease_id, reason=error.message)


async def _clean_up(effect: CleanUp, world: World) -> None:
    task = world.tasks.get(effect.lease_id)
    if task is not None:
        with trio.move_on_after(CLEAN_UP_SECONDS_MAX):
            await task.is_over.wait()
    try:
        await world.runner.clean(
            name_run(effect.lease_id),
            is_output_kept=effect.is_output_kept,
            checkpoints=effect.checkpoints,
        )
        if world.canary is not None and not effect.is_output_kept:
            await trio.to_thread.run_sync(world.canary.forget, effect.lease_id)
    except (ContentError, OSError, shutil.Error) as error:
        # What stays is swept at the next start.
        world.log.warn("a lease was not cleaned up", lease=effect.lease_id, reason=str(error))


# ---- what a run said and how it ended ------------------------------------------------------


class ProgressMeter:
    """Keeps the last line a program printed and the last `progress A/B` among them."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.line = ""
        self._rest = b""
        self._is_changed = False

    def take(self, _stream: str, chunk: bytes) -> None:
        """Take what the program wrote; quick, and bounded whatever it writes."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-LINE_BYTES_MAX:]
        for line in lines:
            self._take_line(line)

    def take_changed(self) -> bool:
        """Say whether anything is new since the last call."""
        is_changed, self._is_changed = self._is_changed, False
        return is_changed

    def _take_line(self, line: bytes) -> None:
        found = _PROGRESS.match(line)
        if found is not None:
            self.done, self.total = (min(int(part), COUNT_MAX) for part in found.groups())
        else:
            self.line = _clean_text(line[-LINE_BYTES_MAX:])[:LINE_CHARS_MAX]
        self._is_changed = True


def name_run(lease_id: Hash32) -> str:
    """Name a lease's run folder and container."""
    return lease_id.hex()


def find_failure(lease: LeaseOffer, result: RunResult) -> Reason | None:
    """Return why a run is worth nothing, or None where it ended well."""
    limits, outputs = lease.job.limits, lease.job.outputs
    if result.is_timed_out:
        code, text = "GM-5102", f"it ran longer than {limits.run_seconds} s"
    elif result.is_output_over_limit:
        allowed = format_size(outputs[0].bytes_max) if outputs else "the default"
        code, text = "GM-5103", f"its output is over {allowed}"
    elif result.is_oom_killed:
        memory = format_size(lease.job.resources.memory_bytes)
        code, text = "GM-5104", f"it used more memory than {memory}"
    elif result.exit_code != 0:
        code, text = "GM-5101", f"the program ended with exit code {result.exit_code}"
    else:
        return None
    return Reason(code=code, text=text, fault="requester")


def make_log_tail(result: RunResult) -> str:
    """Return the end of what a program printed, errors last."""
    text = _clean_text(result.stdout_tail) + _clean_text(result.stderr_tail)
    return text[-LOG_TAIL_CHARS_MAX:]


def _clean_text(data: bytes) -> str:
    text = data.decode(errors="replace")
    return "".join(
        character for character in text if character.isprintable() or character in "\n\t"
    )
