"""Deeds: what must be on chain once, done once, whatever dies or is reorganized meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from coordinator.world import World
from gpumarket.adapters.chain import ChainFact
from gpumarket.adapters.chain_errors import ContractRefused
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, LostRace
from gpumarket.protocol.units import Timestamp

BLOCK_POLL_SECONDS = 0.25
BLOCK_WAIT_SECONDS_MAX = 600.0
TRIES_MAX = 3
"""Of one deed, when others are faster or a reorg takes it away; the core asks again after these."""
OF_A_REORG = ("WrongHeader", "UnknownCommitment", "SeedBlockNotReached")
"""Refusals that may be over once the chain is read again."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that must be on chain once, and the event that shows it."""

    name: str
    wanted: Mapping[str, object]
    """Arguments of the event, our address among them."""
    from_block: int
    """It was not there before."""
    deadline: Timestamp | None = None
    """From when on it must not be done any more."""


async def do_once(deed: Deed, act: Callable[[], Awaitable[object]], world: World) -> ChainFact:
    """
    Return the confirmed event of a deed, and do the deed only if it was not done.

    Looking and acting share a turn: between them no other transaction of ours can be mined, not
    even one that this process sent before it died.
    """
    refusal: ChainError | None = None
    for _ in range(TRIES_MAX):
        try:
            async with world.chain.turn(deadline=deed.deadline):
                if await _look_for(deed, world) is None:
                    await act()
        except (LostRace, BrokenPrecondition) as error:
            # Perhaps because somebody did this very thing: a seed may be fixed by anybody.
            refusal = error
            if isinstance(error, BrokenPrecondition) and not await _is_there_after_all(deed, world):
                if not _may_pass(error):
                    raise
                await wait_for_block((await world.chain.head())[0] + 1, world)
                continue
        fact = await _wait_confirmed(deed, world)
        if fact is not None:
            return fact
    raise refusal or ChainError(f"{deed.name} was on chain {TRIES_MAX} times and did not stay")


def _may_pass(error: BrokenPrecondition) -> bool:
    """Say whether a refusal may come of a reorg between what was read and what was tried."""
    return isinstance(error, ContractRefused) and error.refusal.name in OF_A_REORG


async def _look_for(deed: Deed, world: World) -> ChainFact | None:
    return await world.chain.find_fact(deed.name, from_block=deed.from_block, wanted=deed.wanted)


async def _is_there_after_all(deed: Deed, world: World) -> bool:
    # A refusal is final for the core: nothing that an earlier run sent may come after it.
    await world.chain.clear_pool()
    return await _look_for(deed, world) is not None


async def _wait_confirmed(deed: Deed, world: World) -> ChainFact | None:
    """Return the event once it is deep enough; None where it is not, or no longer, on chain."""
    for _ in range(int(BLOCK_WAIT_SECONDS_MAX / BLOCK_POLL_SECONDS)):
        fact = await _look_for(deed, world)
        if fact is None or await world.chain.is_confirmed(fact):
            return fact
        await trio.sleep(BLOCK_POLL_SECONDS)
    raise ChainError(f"{deed.name} was not confirmed in {BLOCK_WAIT_SECONDS_MAX:.0f} s")


async def find_first_block(deed: bytes, world: World) -> int:
    """Return a block before which a deed, by its hash, was never tried."""
    return await world.first_blocks.find(deed, head=(await world.chain.head())[0])


async def wait_for_block(number: int, world: World) -> None:
    """Return once a block is there; raise `ChainError` where it does not come in time."""
    for _ in range(int(BLOCK_WAIT_SECONDS_MAX / BLOCK_POLL_SECONDS)):
        if (await world.chain.head())[0] >= number:
            return
        await trio.sleep(BLOCK_POLL_SECONDS)
    raise ChainError(f"block {number} did not come in {BLOCK_WAIT_SECONDS_MAX:.0f} s")
