"""What a coordinator does before the court on chain: it accuses, and moves cases on when due."""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.deeds import wait_for_block
from coordinator.world import World
from gpumarket.adapters.chain_errors import ContractRefused
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, GpuMarketError
from gpumarket.protocol.header import HISTORY_WINDOW
from gpumarket.protocol.ids import Address
from gpumarket.protocol.juries import CaseRecord
from gpumarket.protocol.units import U32

OF_ITS_MOMENT = ("WrongEligible",)
"""Refusals that a block later may be over: another verifier has been listed for long enough."""


async def open_case(effect: effects.OpenCase, world: World) -> None:
    """Accuse a receipt unless somebody did, and say which case it is."""
    try:
        case = await _accuse(effect, world)
    except GpuMarketError as error:
        is_of_moment = isinstance(error, ContractRefused) and error.refusal.name in OF_ITS_MOMENT
        is_final = isinstance(error, BrokenPrecondition) and not is_of_moment
        await _refuse(effect, error, world, is_final=is_final)
        return
    world.log.info("a result is before a jury", case=case, receipt=effect.receipt_hash)
    now = world.clock.now()
    await world.post(events.CaseOpened(at=now, receipt_hash=effect.receipt_hash, case=case))


async def _accuse(effect: effects.OpenCase, world: World) -> int:
    chain = world.chain
    async with chain.turn():
        known = await chain.read_trial(effect.receipt_hash)
        if known is not None:
            return known.case
        eligible = await chain.count_eligible()
        if eligible < effect.jurors_min:
            raise BrokenPrecondition(
                f"{eligible} verifiers have been listed long enough to sit, "
                f"{effect.jurors_min} are wanted",
                money="nothing was sent",
            )
        await chain.accuse_receipt(effect.order, effect.receipt, eligible=eligible)
    known = await chain.read_trial(effect.receipt_hash)
    if known is None:
        raise ChainError("a case was opened and did not stay", money="its bond is back")
    return known.case


async def move_case(effect: effects.MoveCase, world: World) -> None:
    """Take a step of a case if it is still to be taken, and say where the case stands."""
    try:
        await _step(effect, world)
        seen = await _look(effect, world)
    except GpuMarketError as error:
        await _refuse(effect, error, world, is_final=False)
        return
    await world.post(seen)


async def _step(effect: effects.MoveCase, world: World) -> None:
    chain, case = world.chain, await world.chain.read_case(effect.case)
    if effect.step == "seat" and case is not None and not case.is_seated:
        seed_block = case.draw_block + world.seed_delay_blocks
        # One more: the transaction must be tried on top of a block that has the seed's below it.
        await wait_for_block(seed_block + max(1, chain.confirmations), world)
    async with chain.turn():
        case = await chain.read_case(effect.case)
        if case is None or case.level != effect.level:
            return
        try:
            await _take(effect, case, world)
        except BrokenPrecondition:
            if await chain.read_case(effect.case) == case:
                raise


async def _take(effect: effects.MoveCase, case: CaseRecord, world: World) -> None:
    chain = world.chain
    match effect.step:
        case "seat" if not case.is_seated:
            seed_block = case.draw_block + world.seed_delay_blocks
            if (await chain.head())[0] > seed_block + HISTORY_WINDOW:
                await chain.redraw(effect.case)
            else:
                await chain.seat_jury(effect.case, await chain.read_header(seed_block))
        case "decide" if not case.verdict:
            votes = [(vote.seat, vote.attestation) for vote in effect.votes]
            await chain.decide(effect.case, effect.jury, votes)
        case "escalate" if not case.verdict:
            await chain.escalate(effect.case)
        case "close":
            await chain.close(effect.case, effect.voters)
        case _:
            return


async def _look(effect: effects.MoveCase, world: World) -> events.CaseSeen:
    now, name = world.clock.now(), effect.receipt_hash
    case = await world.chain.read_case(effect.case)
    if case is None:
        # Closed. Without a verdict nothing is kept of it, so that it can be tried again.
        trial = await world.chain.read_trial(name)
        is_same = trial is not None and trial.case == effect.case
        return events.CaseSeen(
            at=now,
            receipt_hash=name,
            level=effect.level,
            jury=effect.jury,
            verdict=U32(trial.verdict) if trial is not None and is_same else U32(0),
            voters=effect.voters,
            deadline=now,
            is_over=True,
        )
    jury = await _find_names("JurySeated", "jury", case, world) if case.is_seated else ()
    voters = await _find_names("Decided", "voters", case, world) if case.verdict else ()
    return events.CaseSeen(
        at=now,
        receipt_hash=name,
        level=case.level,
        jury=jury,
        verdict=case.verdict,
        voters=voters,
        deadline=case.deadline,
        is_over=False,
    )


async def _find_names(
    event: str, argument: str, case: CaseRecord, world: World
) -> tuple[Address, ...]:
    wanted = {"id": case.case, "level": case.level}
    fact = await world.chain.find_fact(event, from_block=case.draw_block, wanted=wanted)
    if fact is None:
        raise ChainError(f"case {case.case} stands on chain without its {event}")
    return tuple(fact.args[argument])


async def _refuse(
    effect: effects.OpenCase | effects.MoveCase,
    error: GpuMarketError,
    world: World,
    *,
    is_final: bool,
) -> None:
    world.log.warn("a case does not move on", receipt=effect.receipt_hash, reason=error.message)
    now, text = world.clock.now(), error.message[:200]
    await world.post(
        events.CaseRefused(at=now, receipt_hash=effect.receipt_hash, is_final=is_final, text=text)
    )
