"""Posting a batch: its evidence first, never after its time, and a refusal that names who."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.perform import perform
from coordinator.world import World
from gpumarket.adapters.chain import ChainFact
from gpumarket.adapters.chain_errors import ContractRefusal, ContractRefused
from gpumarket.adapters.first_blocks import FirstBlocks
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.errors import ChainError, DeadlinePassed
from gpumarket.protocol.ids import Address
from gpumarket.protocol.settlement import Batch, Bill
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    make_address,
    make_hash,
    make_signed_order,
)
from gpumarket.testing.proofs import make_header

ALICE, COORDINATOR = make_address("alice"), make_address("coordinator")


def make_effect(*, post_by: int = NOW + 1) -> effects.PostBatch:
    bills = tuple(
        Bill(order=make_signed_order(signer=name), receipts=(), attestations=())
        for name in ("alice", "bob")
    )
    batch = Batch(
        coordinator=COORDINATOR,
        lanes=(),
        bills=tuple(compute_content_hash(bill) for bill in bills),
    )
    return effects.PostBatch(number=7, batch=batch, bills=bills, post_by=Timestamp(post_by))


@dataclass
class Outside:
    """Chain, content store, clock and log in one; it writes down what happened."""

    refusal: Exception | None = None
    fact: ChainFact | None = None
    done: list[Any] = field(default_factory=list)
    address: Address = COORDINATOR

    def turn(self, *, deadline: int | None) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def add_document(self, data: bytes) -> None:
        self.done.append(data)

    async def head(self) -> tuple[int, int]:
        return 10, NOW

    async def find_fact(self, *_: object, **__: object) -> ChainFact | None:
        return self.fact

    async def is_confirmed(self, _: object) -> bool:
        return True

    async def clear_pool(self) -> None:
        self.done.append("cleared")

    async def post_batch(self, *_: object, deadline: int, not_after: int) -> None:
        assert not_after == min(bill.order.body.settle_by for bill in make_effect().bills)
        if deadline <= NOW:
            raise DeadlinePassed("it is too late")
        self.done.append("posted")
        if self.refusal is not None:
            raise self.refusal
        self.fact = ChainFact("BatchPosted", {"seq": 3}, 11, 0, make_hash("tx"))

    async def read_confirmed_escrow(self, _: object) -> tuple[int, int, int]:
        return 5, 2, 8

    def now(self) -> int:
        return NOW

    def info(self, *_: object, **__: object) -> None:
        """Nobody reads it."""

    warn = info

    def error(self, _: str, *, code: str, reason: str) -> None:
        self.done.append(("error", code))


async def play(outside: Outside, effect: effects.Effect, folder) -> events.Event:
    """Perform one effect; return the only event that answers it."""
    heard: list[events.Event] = []

    async def post(event: events.Event) -> None:
        heard.append(event)

    any_part: Any = outside
    world = World(
        identity=any_part,
        domain=DOMAIN,
        chain=any_part,
        seed_delay_blocks=2,
        content=any_part,
        hall=any_part,
        post=post,
        clock=any_part,
        log=any_part,
        first_blocks=FirstBlocks(folder / "first-blocks.json"),
    )
    await perform(effect, world)
    (event,) = heard
    return event


async def test_a_batch_is_posted_after_its_bills_are_kept(tmp_path):
    effect, outside = make_effect(), Outside()
    event = await play(outside, effect, tmp_path)
    documents = [encode_document(each) for each in (*effect.bills, effect.batch)]
    assert outside.done == [*documents, "posted"]
    assert isinstance(event, events.BatchPosted)
    assert (event.number, event.sequence, event.block) == (7, 3, 11)


async def test_a_batch_is_not_sent_when_its_time_is_over(tmp_path):
    outside = Outside()
    event = await play(outside, make_effect(post_by=NOW), tmp_path)
    assert "posted" not in outside.done
    assert isinstance(event, events.ChainRefused)
    assert (event.call, event.number, event.is_final, event.code) == ("batch", 7, True, "GM-1202")


async def test_a_batch_that_is_on_chain_is_found_also_when_its_time_is_over(tmp_path):
    outside = Outside(fact=ChainFact("BatchPosted", {"seq": 3}, 11, 0, make_hash("tx")))
    event = await play(outside, make_effect(post_by=NOW), tmp_path)
    assert isinstance(event, events.BatchPosted) and "posted" not in outside.done


@pytest.mark.parametrize(
    ("name", "code", "account"),
    [("InsufficientBalance", "GM-3011", ALICE), ("SomethingElse", "GM-3055", b"")],
)
async def test_a_refusal_says_whose_escrow_is_too_small(name, code, account, tmp_path):
    refusal = ContractRefusal(name, {"account": ALICE, "needed": 2, "actual": 1})
    outside = Outside(refusal=ContractRefused(refusal, money="nothing was moved"))
    event = await play(outside, make_effect(), tmp_path)
    assert isinstance(event, events.ChainRefused)
    assert (event.code, event.account, event.is_final) == (code, account, True)


async def test_what_was_mined_too_late_is_late_and_no_fault_of_a_bill(tmp_path):
    refusal = ContractRefusal("TooLate", {"latest": NOW, "actual": NOW + 1})
    outside = Outside(refusal=ContractRefused(refusal, money="gas was spent"))
    event = await play(outside, make_effect(), tmp_path)
    assert isinstance(event, events.ChainRefused)
    assert (event.code, event.account, event.is_final) == ("GM-1202", b"", True)


@dataclass
class Reorganized(Outside):
    """A chain that refuses a seed a few times, as after a reorg."""

    refusals: int = 0
    name: str = "WrongHeader"
    block: int = 20
    confirmations: int = 0

    async def head(self) -> tuple[int, int]:
        self.block += 1
        return self.block, NOW

    async def find_fact(self, *names: object, **_: object) -> ChainFact | None:
        name = str(names[0])
        if name == "Committed":
            return ChainFact(name, {}, 9, 0, make_hash("commit"))
        return self.fact

    async def read_header(self, number: int) -> bytes:
        self.done.append(number)
        return make_header(number)

    async def fix_seed(self, *_: object, **__: object) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise ContractRefused(ContractRefusal(self.name, {}), money="nothing was moved")
        self.fact = ChainFact("SeedFixed", {"seed": make_hash("seed")}, 30, 0, make_hash("tx"))


@pytest.mark.parametrize("name", ["WrongHeader", "UnknownCommitment", "SeedBlockNotReached"])
async def test_a_seed_that_a_reorg_had_refused_is_tried_again_from_a_new_look(name, tmp_path):
    outside = Reorganized(refusals=2, name=name)
    event = await play(outside, make_seed_effect(), tmp_path)
    assert isinstance(event, events.SeedFixed)
    # The core knows the commitment's old block 5; it is in block 9, and its seed comes of 11.
    assert event.block == 11 and [x for x in outside.done if isinstance(x, int)] == [11] * 4


@pytest.mark.parametrize(("name", "tries"), [("WrongHeader", 3), ("WrongNonces", 1)])
async def test_a_seed_that_is_refused_again_and_again_is_refused_for_good(name, tries, tmp_path):
    outside = Reorganized(refusals=99, name=name)
    event = await play(outside, make_seed_effect(), tmp_path)
    assert isinstance(event, events.ChainRefused) and event.is_final
    assert 99 - outside.refusals == tries


def make_seed_effect() -> effects.FixSeed:
    return effects.FixSeed(epoch=1, sequence=0, block=5, nonces=b"n" * 32)


@pytest.mark.parametrize(("code", "is_paused"), [("GM-3012", True), ("GM-3004", False)])
async def test_what_the_coordinator_lacks_is_an_error_in_its_log(code, is_paused, tmp_path):
    outside = Outside(refusal=ChainError("it cannot", code=code))
    event = await play(outside, make_effect(), tmp_path)
    assert isinstance(event, events.ChainRefused)
    assert (event.code, event.is_final) == (code, False)
    assert ("error", code) in outside.done or not is_paused
    assert ("error", code) not in outside.done or is_paused


async def test_what_was_asked_back_is_told_apart(tmp_path):
    event = await play(Outside(), effects.ReadEscrow(requester=ALICE), tmp_path)
    assert isinstance(event, events.EscrowSeen)
    assert (event.balance, event.withdrawing, event.block) == (5, 2, 8)
