"""
What a coordinator does: one function an effect, each safe to perform twice.

Failures that the market expects become events; anything else ends the process, on purpose,
because the journal brings it back to a state that is known.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

from coordinator.core import effects, events
from coordinator.core.batching import OWN_FAULTS
from coordinator.court import move_case, open_case
from coordinator.deeds import Deed, do_once, find_first_block, wait_for_block
from coordinator.world import World
from gpumarket.adapters.chain_errors import ContractRefused
from gpumarket.adapters.checkpoints import check_word
from gpumarket.adapters.clock import make_nonce
from gpumarket.adapters.first_blocks import REORG_BLOCKS
from gpumarket.hardware.answering import check_answer
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.errors import (
    BrokenPrecondition,
    ChainError,
    ContentError,
    DeadlinePassed,
    GpuMarketError,
    RemoteProtocolError,
)
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.lease import make_assignment
from gpumarket.protocol.messages import LeaseProposed
from gpumarket.protocol.signing import keccak256

FETCH_SECONDS_MAX = 240.0


async def perform(effect: effects.Effect, world: World) -> None:  # noqa: C901  one case for each effect
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
            await _draw_secrets(effect, world)
        case effects.CommitEpoch():
            await _commit_epoch(effect, world)
        case effects.FixSeed():
            await _fix_seed(effect, world)
        case effects.PostBatch():
            await _post_batch(effect, world)
        case effects.OpenCase():
            await open_case(effect, world)
        case effects.MoveCase():
            await move_case(effect, world)
        case effects.ReadEscrow():
            await _read_escrow(effect, world)
        case effects.FetchOutput():
            await _fetch_output(effect, world)
        case effects.FetchCheckpoint():
            await _keep_checkpoint(effect, world)
        case effects.PublishDocument():
            await world.content.add_document(effect.data)
        case effects.DrawHardwareSecret():
            now = world.clock.now()
            drawn = events.HardwareSecretDrawn(at=now, round=effect.round, secret=make_nonce())
            await world.post(drawn)
        case effects.JudgeHardware():
            await _judge_hardware(effect, world)


async def _draw_secrets(effect: effects.DrawNonce, world: World) -> None:
    drawn = events.NonceDrawn(
        at=world.clock.now(),
        epoch=effect.epoch,
        nonce=make_nonce(),
        canary_salt=make_nonce(),
    )
    await world.post(drawn)


async def _propose_lease(effect: effects.ProposeLease, world: World) -> None:
    key, domain = world.identity.key, world.domain
    proposed = LeaseProposed(
        lease=key.sign(effect.lease, domain).as_signed(),
        assignment=key.sign(make_assignment(effect.lease), domain).as_signed(),
    )
    await world.hall.send(effect.lease.provider, proposed)


async def _commit_epoch(effect: effects.CommitEpoch, world: World) -> None:
    me = world.identity.address
    try:
        await world.content.add_document(encode_document(effect.document))
        data_hash = compute_content_hash(effect.document)
        wanted = {"committer": me, "root": effect.root, "dataHash": data_hash}
        fact = await do_once(
            Deed("Committed", wanted, await find_first_block(effect.root, world)),
            lambda: world.chain.commit(effect.root, effect.nonce_hash, data_hash),
            world,
        )
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
    me = world.identity.address
    first_block = max(0, effect.block - REORG_BLOCKS)
    wanted = {"committer": me, "seq": effect.sequence}

    async def find_number() -> int:
        # A reorg may have moved the commitment, and the block of its seed with it.
        found = await world.chain.find_fact("Committed", from_block=first_block, wanted=wanted)
        return (effect.block if found is None else found.block) + world.seed_delay_blocks

    async def fix() -> None:
        header = await world.chain.read_header(await find_number())
        await world.chain.fix_seed(
            me,
            effect.sequence,
            header=header,
            nonces=effect.nonces,
            from_block=first_block,
        )

    try:
        # One more: the transaction must be tried on top of a block that already has B* below it.
        await wait_for_block(await find_number() + max(1, world.chain.confirmations), world)
        fact = await do_once(Deed("SeedFixed", wanted, first_block), fix, world)
        number = await find_number()
        header = await world.chain.read_header(number)
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

    # Should it be mined when nobody expects it any more, the contract refuses what would be late.
    not_after = min(bill.order.body.settle_by for bill in effect.bills)

    async def post() -> None:
        lanes = effect.batch.lanes
        await world.chain.post_batch(data_hash, lanes, deadline=effect.post_by, not_after=not_after)

    try:
        for document in (*effect.bills, effect.batch):
            await world.content.add_document(encode_document(document))
        first_block = await find_first_block(data_hash, world)
        wanted = {"coordinator": world.identity.address, "dataHash": data_hash}
        fact = await do_once(
            Deed("BatchPosted", wanted, first_block, deadline=effect.post_by),
            post,
            world,
        )
    except GpuMarketError as error:
        await _post_refused(effect, error, world)
        return
    world.log.info("batch posted", number=effect.number, block=fact.block, tx=fact.tx_hash)
    await world.post(
        events.BatchPosted(
            at=world.clock.now(),
            number=effect.number,
            sequence=fact.args["seq"],
            block=fact.block,
            tx=fact.tx_hash,
        )
    )


async def _read_escrow(effect: effects.ReadEscrow, world: World) -> None:
    try:
        # A batch is known to the core once it is confirmed: the balance must not be ahead of that.
        balance, withdrawing, block = await world.chain.read_confirmed_escrow(effect.requester)
    except ChainError as error:
        world.log.warn("an escrow could not be read", requester=effect.requester, reason=error)
        return
    await world.post(
        events.EscrowSeen(
            at=world.clock.now(),
            requester=effect.requester,
            balance=balance,
            withdrawing=withdrawing,
            block=block,
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


async def _keep_checkpoint(effect: effects.FetchCheckpoint, world: World) -> None:
    segment = effect.segment
    try:
        with tempfile.TemporaryDirectory() as folder:
            problem = await check_word(
                world.content,
                segment,
                effect.before,
                sources=effect.sources,
                deadline_s=FETCH_SECONDS_MAX,
                bytes_max=effect.bytes_max,
                folder=Path(folder),
            )
        if not problem:
            name = f"checkpoint-{effect.order_hash.hex()}-{segment.unit}-{segment.index}"
            await world.content.pin(segment.folder, name)
    except ContentError as error:
        world.log.warn(
            "a checkpoint could not be kept", lease=effect.lease_id, reason=error.message
        )
        return
    now, lease_id, index = world.clock.now(), effect.lease_id, segment.index
    world.log.info("checkpoint kept", lease=lease_id, step=segment.step_to, problem=problem)
    if problem:
        await world.post(
            events.CheckpointRefused(at=now, lease_id=lease_id, index=index, text=problem)
        )
    else:
        await world.post(events.CheckpointKept(at=now, lease_id=lease_id, index=index))


async def _judge_hardware(effect: effects.JudgeHardware, world: World) -> None:
    def check() -> str:
        try:
            check_answer(
                effect.task,
                root=effect.root,
                second=effect.second,
                check_seed=effect.check_seed,
                rows=effect.rows,
                walks=effect.walks,
            )
        except RemoteProtocolError as error:
            return error.message[:200]
        return ""

    # Seconds of arithmetic for a large device: not where everybody else is served.
    problem = await trio.to_thread.run_sync(check, limiter=world.judges)
    challenge = effect.task.challenge
    judged = events.HardwareJudged(at=world.clock.now(), challenge=challenge, problem=problem)
    await world.post(judged)


async def _post_refused(
    effect: effects.CommitEpoch | effects.FixSeed | effects.PostBatch,
    error: GpuMarketError,
    world: World,
) -> None:
    epoch, number = 0, 0
    call: events.ChainCall
    match effect:
        case effects.CommitEpoch():
            call, epoch = "commit", effect.epoch
        case effects.FixSeed():
            call, epoch = "seed", effect.epoch
        case effects.PostBatch():
            call, number = "batch", effect.number
    code, account = _name_refusal(error)
    world.log.warn("the chain refused", call=call, reason=error.message, why=error.why)
    if call == "batch" and code in OWN_FAULTS:
        world.log.error("nothing is posted until this is mended", code=code, reason=error.message)
    await world.post(
        events.ChainRefused(
            at=world.clock.now(),
            call=call,
            epoch=epoch,
            number=number,
            is_final=isinstance(error, BrokenPrecondition),
            code=code,
            text=error.message[:200],
            account=account,
        )
    )


def _name_refusal(error: GpuMarketError) -> tuple[str, bytes]:
    """Return the code of a refusal and, where it is about one requester's escrow, whose."""
    is_late = isinstance(error, ContractRefused) and error.refusal.name == "TooLate"
    if is_late or isinstance(error, DeadlinePassed):
        return "GM-1202", b""
    if isinstance(error, ContractRefused) and error.refusal.name == "InsufficientBalance":
        return "GM-3011", bytes(error.refusal.args["account"])
    return error.code, b""
