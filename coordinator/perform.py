"""
What a coordinator does: one function an effect, each safe to perform twice.

Failures that the market expects become events; anything else ends the process, on purpose,
because the journal brings it back to a state that is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from coordinator.core import effects, events
from gpumarket.adapters.chain import Chain, ChainFact
from gpumarket.adapters.clock import SystemClock, make_nonce
from gpumarket.adapters.content import EmbeddedNode
from gpumarket.adapters.keys import Identity
from gpumarket.adapters.logs import Log
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, ContentError, GpuMarketError
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address
from gpumarket.protocol.messages import LeaseProposed, Message
from gpumarket.protocol.signing import Domain, keccak256

SEED_POLL_SECONDS = 0.25
SEED_WAIT_SECONDS_MAX = 600.0
FETCH_SECONDS_MAX = 240.0

Post = Callable[[events.Event], Awaitable[None]]


class Hall(Protocol):
    """What is needed of the sessions with members."""

    async def send(self, member: Address, message: Message) -> bool:
        """Sign and queue a message; False where that member has no session."""

    def expel(self, member: Address, *, session: int, reason: str) -> None:
        """End a member's session; session 0 is whatever session it has."""


@dataclass(slots=True)
class World:
    """Everything outside: the chain, the content store, the members, the time."""

    identity: Identity
    domain: Domain
    chain: Chain
    seed_delay_blocks: int
    content: EmbeddedNode
    hall: Hall
    post: Post
    clock: SystemClock
    log: Log
    first_block: int = 0
    """Where the contract's events begin."""


async def perform(effect: effects.Effect, world: World) -> None:
    """Do one effect and post the event that answers it."""
    match effect:
        case effects.SendMessage():
            await world.hall.send(effect.recipient, effect.message)
        case effects.ProposeLease():
            await _propose_lease(effect, world)
        case effects.CloseSession():
            world.log.warn("a peer broke the protocol", peer=effect.peer, reason=effect.text)
            world.hall.expel(effect.peer, session=effect.session, reason=effect.text)
        case effects.DrawNonce():
            nonce = make_nonce()
            now = world.clock.now()
            await world.post(events.NonceDrawn(at=now, epoch=effect.epoch, nonce=nonce))
        case effects.CommitEpoch():
            await _commit_epoch(effect, world)
        case effects.FixSeed():
            await _fix_seed(effect, world)
        case effects.PostBatch():
            await _post_batch(effect, world)
        case effects.ReadEscrow():
            await _read_escrow(effect, world)
        case effects.FetchOutput():
            await _fetch_output(effect, world)
        case effects.PublishDocument():
            await world.content.add_document(effect.data)


async def _propose_lease(effect: effects.ProposeLease, world: World) -> None:
    lease = world.identity.key.sign(effect.lease, world.domain).as_signed()
    await world.hall.send(effect.lease.provider, LeaseProposed(lease=lease))


async def _commit_epoch(effect: effects.CommitEpoch, world: World) -> None:
    try:
        await world.content.add_document(encode_document(effect.document))
        data_hash = compute_content_hash(effect.document)
        fact = await _find_fact(world, "Committed", root=effect.root, dataHash=data_hash)
        if fact is None:
            await world.chain.commit(effect.root, effect.nonce_hash, data_hash)
            fact = await _find_fact(world, "Committed", root=effect.root, dataHash=data_hash)
        if fact is None:
            raise ChainError("a commitment was mined but its event is not there")
        header = await world.chain.read_header(fact.block)
    except GpuMarketError as error:
        await _post_refused(effect, error, world)
        return
    world.log.info("epoch committed", epoch=effect.epoch, block=fact.block, root=effect.root)
    await world.post(
        events.EpochCommitted(
            at=world.clock.now(),
            epoch=effect.epoch,
            sequence=fact.args["seq"],
            block=fact.block,
            block_hash=keccak256(header),
            tx=fact.tx_hash,
        )
    )


async def _fix_seed(effect: effects.FixSeed, world: World) -> None:
    number = effect.block + world.seed_delay_blocks
    me = world.identity.address
    try:
        # One more: the transaction must be tried on top of a block that already has B* below it.
        await _wait_for_block(number + 1, world)
        header = await world.chain.read_header(number)
        fact = await _find_fact(world, "SeedFixed", seq=effect.sequence)
        if fact is None:
            await world.chain.fix_seed(me, effect.sequence, header=header, nonces=effect.nonces)
            fact = await _find_fact(world, "SeedFixed", seq=effect.sequence)
        if fact is None:
            raise ChainError("a seed was fixed but its event is not there")
    except GpuMarketError as error:
        await _post_refused(effect, error, world)
        return
    world.log.info("seed fixed", epoch=effect.epoch, block=number, seed=fact.args["seed"])
    await world.post(
        events.SeedFixed(
            at=world.clock.now(),
            epoch=effect.epoch,
            seed=fact.args["seed"],
            mix_hash=decode_header_untrusted(header).mix_hash,
            block=number,
            header_rlp=header,
            tx=fact.tx_hash,
        )
    )


async def _post_batch(effect: effects.PostBatch, world: World) -> None:
    data_hash = compute_content_hash(effect.batch)
    try:
        await world.content.add_document(encode_document(effect.batch))
        fact = await _find_fact(world, "BatchPosted", dataHash=data_hash)
        if fact is None:
            await world.chain.post_batch(data_hash, effect.batch.lanes)
            fact = await _find_fact(world, "BatchPosted", dataHash=data_hash)
        if fact is None:
            raise ChainError("a batch was posted but its event is not there")
    except GpuMarketError as error:
        await _post_refused(effect, error, world)
        return
    world.log.info("batch posted", order=effect.order_hash, block=fact.block, tx=fact.tx_hash)
    await world.post(
        events.BatchPosted(
            at=world.clock.now(),
            order_hash=effect.order_hash,
            part=effect.part,
            sequence=fact.args["seq"],
            block=fact.block,
            tx=fact.tx_hash,
        )
    )


async def _read_escrow(effect: effects.ReadEscrow, world: World) -> None:
    try:
        block, _ = await world.chain.head()
        balance = await world.chain.read_escrow(effect.requester)
    except ChainError as error:
        world.log.warn("an escrow could not be read", requester=effect.requester, reason=error)
        return
    await world.post(
        events.EscrowSeen(
            at=world.clock.now(), requester=effect.requester, balance=balance, block=block
        )
    )


async def _fetch_output(effect: effects.FetchOutput, world: World) -> None:
    content = world.content
    try:
        await content.fetch(
            effect.cid,
            sources=effect.sources,
            deadline_s=FETCH_SECONDS_MAX,
            max_bytes=effect.bytes_max,
        )
        await content.pin(effect.cid, f"output-{effect.lease_id.hex()}")
        stat = await content.stat(effect.cid)
    except ContentError as error:
        await world.post(
            events.OutputMissing(
                at=world.clock.now(),
                lease_id=effect.lease_id,
                cid=effect.cid,
                code=error.code,
                text=error.message,
            )
        )
        return
    await world.post(
        events.OutputFetched(
            at=world.clock.now(),
            lease_id=effect.lease_id,
            cid=effect.cid,
            size_bytes=stat.stored_bytes,
        )
    )


# ---- the chain ---------------------------------------------------------------------------------


async def _find_fact(world: World, name: str, **expected: object) -> ChainFact | None:
    """Return our own newest event of this name with these arguments, if there is one."""
    owner = "coordinator" if name == "BatchPosted" else "committer"
    wanted = {**expected, owner: world.identity.address}
    for fact in reversed(await world.chain.read_facts(world.first_block)):
        if fact.name == name and all(fact.args[key] == value for key, value in wanted.items()):
            return fact
    return None


async def _wait_for_block(number: int, world: World) -> None:
    for _ in range(int(SEED_WAIT_SECONDS_MAX / SEED_POLL_SECONDS)):
        if (await world.chain.head())[0] >= number:
            return
        await trio.sleep(SEED_POLL_SECONDS)
    raise ChainError(f"block {number} did not come in {SEED_WAIT_SECONDS_MAX:.0f} s")


async def _post_refused(
    effect: effects.CommitEpoch | effects.FixSeed | effects.PostBatch,
    error: GpuMarketError,
    world: World,
) -> None:
    epoch, order_hash, part = 0, bytes(32), 0
    call: events.ChainCall
    match effect:
        case effects.CommitEpoch():
            call, epoch = "commit", effect.epoch
        case effects.FixSeed():
            call, epoch = "seed", effect.epoch
        case effects.PostBatch():
            call, order_hash, part = "batch", effect.order_hash, effect.part
    world.log.warn("the chain refused", call=call, reason=error.message, why=error.why)
    await world.post(
        events.ChainRefused(
            at=world.clock.now(),
            call=call,
            epoch=epoch,
            order_hash=order_hash,
            part=part,
            is_final=isinstance(error, BrokenPrecondition),
            code=error.code,
            text=error.message[:200],
        )
    )
