"""What a verifier does: one function an effect, each safe to perform twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from gpumarket.adapters.clock import SystemClock, make_nonce
from gpumarket.adapters.content import ContentStore
from gpumarket.adapters.keys import Identity
from gpumarket.adapters.logs import Log
from gpumarket.adapters.toploc import check_toploc
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.ids import Address, make_job_id
from gpumarket.protocol.messages import CheckDone, CheckRequested, CheckSealed, Declined, Message
from gpumarket.protocol.signing import Domain
from verifier.core.effects import (
    CompareOutputs,
    Effect,
    ReplayUnit,
    SendAttestation,
    SendDeclined,
    SendSeal,
)
from verifier.core.events import Event, OutputsCompared, ReplayFailed, UnitReplayed
from verifier.outputs import FETCH_SECONDS_MAX, Bench, compare
from verifier.segments import Replayed, compare_segments, replay_segments


class Link(Protocol):
    """What is needed of the sessions with coordinators."""

    async def send(self, coordinator: Address, message: Message) -> bool:
        """Sign and queue a message; False where there is no session."""


@dataclass(slots=True)
class World:
    """Everything outside: content, sandbox, coordinators, the time."""

    identity: Identity
    domain: Domain
    content: ContentStore
    runner: UnitRunner
    link: Link
    post: Callable[[Event], Awaitable[None]]
    clock: SystemClock
    log: Log
    folder: Path
    replaying: set[bytes] = field(default_factory=set)
    """Receipts whose replay goes on, so that a repeated effect does not start a second."""
    comparing: set[bytes] = field(default_factory=set)
    """Likewise those whose outputs are being compared."""


async def perform(effect: Effect, world: World) -> None:
    """Do one effect and post the event that answers it."""
    match effect:
        case ReplayUnit():
            await _replay(effect, world)
        case SendSeal():
            seal = world.identity.key.sign(effect.seal, world.domain).as_signed()
            await world.link.send(effect.coordinator, CheckSealed(seal=seal))
        case CompareOutputs():
            await _compare(effect, world)
        case SendAttestation():
            signed = world.identity.key.sign(effect.attestation, world.domain).as_signed()
            done = CheckDone(attestation=signed, evidence=effect.evidence)
            await world.link.send(effect.coordinator, done)
        case SendDeclined():
            declined = Declined(
                about=effect.receipt_hash, code=effect.code, need=effect.need, have=effect.have
            )
            await world.link.send(effect.coordinator, declined)


async def _replay(effect: ReplayUnit, world: World) -> None:
    request = effect.request
    if request.receipt_hash in world.replaying:
        return
    world.replaying.add(request.receipt_hash)
    name = request.receipt_hash.hex()
    replay = replay_segments if request.segments else _replay_whole
    started = trio.current_time()
    try:
        # Before any work: with a seal of ours on it, a check that we cannot judge pays nobody.
        await trio.to_thread.run_sync(check_toploc, request.job.verify.comparison)
        replayed = await replay(request, world.runner, name)
        await world.runner.clean(name, is_output_kept=True)
    except GpuMarketError as error:
        world.log.warn("a unit could not be replayed", receipt=name, reason=error.message)
        await world.post(
            ReplayFailed(
                receipt_hash=request.receipt_hash,
                code=error.code,
                text=error.message,
                at=world.clock.now(),
            )
        )
        return
    finally:
        world.replaying.discard(request.receipt_hash)
    seconds = round(trio.current_time() - started, 2)
    world.log.info("unit replayed", unit=request.unit, receipt=name, seconds=seconds)
    await world.post(
        UnitReplayed(
            receipt_hash=request.receipt_hash,
            output=replayed.output,
            exit_code=replayed.exit_code,
            duration_ms=replayed.duration_ms,
            nonce=make_nonce(),
            at=world.clock.now(),
        )
    )


async def _replay_whole(request: CheckRequested, runner: UnitRunner, name: str) -> Replayed:
    job = request.job
    await runner.prepare(job, sources=request.sources, deadline_s=FETCH_SECONDS_MAX)
    job_id = make_job_id(request.order_hash)
    result = await runner.run(job, request.unit, name=name, job_id=job_id)
    output, _ = await runner.store(name)
    return Replayed(output, 0 if result.is_success else result.exit_code or 1, result.wall_ms)


async def _compare(effect: CompareOutputs, world: World) -> None:
    receipt_hash = effect.request.receipt_hash
    if receipt_hash in world.comparing:
        return
    world.comparing.add(receipt_hash)
    try:
        bench = Bench(content=world.content, runner=world.runner, folder=world.folder)
        if effect.segments is None:
            outcome = await compare(effect, bench)
        else:
            outcome = await compare_segments(effect, world.content, world.folder)
    finally:
        world.comparing.discard(receipt_hash)
    world.log.info("outputs compared", verdict=outcome.verdict.name, comparison=outcome.sentence)
    await world.post(
        OutputsCompared(
            receipt_hash=receipt_hash,
            verdict=outcome.verdict,
            rule=outcome.rule,
            comparison=outcome.sentence,
            at=world.clock.now(),
        )
    )
