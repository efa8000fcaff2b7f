"""Signed sessions over real libp2p hosts: what is refused, and that honest ones live on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.market_link import (
    LinkIdentity,
    LinkLimits,
    MarketLink,
    Member,
    MemberHall,
)
from gpumarket.adapters.p2p import open_network
from gpumarket.adapters.reconnect import Backoff
from gpumarket.adapters.session import Session, SessionClosed
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.messages import (
    FRAME_BYTES_MAX,
    SESSION_PROTOCOL,
    Declined,
    LeaseAccepted,
    Message,
    ProviderHello,
    Welcome,
    seal_message,
)
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import (
    DOMAIN,
    change,
    make_address,
    make_hash,
    make_key,
    make_offer,
    sign,
)
from tests.patience import PATIENCE

LIMITS = LinkLimits(bad_messages_max=3, hello_seconds_max=2.0)
CLOCK = SystemClock()


@dataclass
class Desk:
    """A coordinator that writes down what it is told."""

    joined: list[Member] = field(default_factory=list)
    left: list[Member] = field(default_factory=list)
    heard: list[tuple[Address, Message]] = field(default_factory=list)
    refuse_with: Declined | None = None

    def make_welcome(self) -> Welcome:
        return Welcome(coordinator=make_address("coordinator"), content_peers=())

    async def handle_joined(self, member: Member) -> Declined | None:
        self.joined.append(member)
        return self.refuse_with

    async def handle_left(self, member: Member) -> None:
        self.left.append(member)

    async def handle_message(self, member: Member, message: Message) -> None:
        self.heard.append((member.address, message))


@dataclass
class Node:
    """A provider that writes down what it is told."""

    peer_id: str
    name: str = "provider-1"
    joined: list[Welcome] = field(default_factory=list)
    lost: list[Address] = field(default_factory=list)
    heard: list[tuple[Address, Message]] = field(default_factory=list)

    def make_hello(self) -> ProviderHello:
        return make_hello(self.name, self.peer_id)

    async def handle_joined(self, welcome: Welcome) -> None:
        self.joined.append(welcome)

    async def handle_lost(self, coordinator: Address) -> None:
        self.lost.append(coordinator)

    async def handle_message(self, coordinator: Address, message: Message) -> None:
        self.heard.append((coordinator, message))


def make_hello(name: str, peer_id: str, **changes: object) -> ProviderHello:
    now = CLOCK.now()
    offer = make_offer(name, peer_id=peer_id, issued_at=now, expires_at=now + 60)
    return ProviderHello(offer=sign(change(offer, **changes), name))


def identity(name: str) -> LinkIdentity:
    return LinkIdentity(make_key(name), DOMAIN, CLOCK)


@dataclass
class Market:
    """One coordinator, and a way to dial it."""

    hall: MemberHall
    desk: Desk
    address: str
    limits: LinkLimits = LIMITS

    @asynccontextmanager
    async def join(self, name: str = "provider-1") -> AsyncIterator[tuple[MarketLink, Node]]:
        async with open_network(key_seed=os.urandom(32), listen_port=0) as network:
            node = Node(network.peer_id, name)
            link = MarketLink(
                network,
                identity(name),
                node,
                draw_jitter=lambda: 0.0,
                limits=LIMITS,
                backoff=Backoff(first_seconds=0.1, seconds_max=0.2),
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(link.run, [self.address])
                await until(lambda: bool(node.joined))
                yield link, node
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def dial_raw(self) -> AsyncIterator[tuple[Session, str]]:
        """A session on which a test says what it likes, and the peer id it comes from."""
        async with open_network(key_seed=os.urandom(32), listen_port=0) as network:
            session = await network.dial(self.address, SESSION_PROTOCOL)
            try:
                yield session, network.peer_id
            finally:
                await session.aclose()


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    async with open_network(key_seed=os.urandom(32), listen_port=0) as network:
        desk = Desk()
        hall = MemberHall(network, identity("coordinator"), desk, limits=LIMITS)
        yield Market(hall, desk, network.addresses[0])


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.02)


def seal(
    message: Message, *, by: str = "attacker", to: str = "coordinator", number: int = 1, **when: int
) -> bytes:
    return seal_message(
        message,
        key=make_key(by),
        domain=DOMAIN,
        recipient=make_address(to),
        sequence=number,
        now=Timestamp(when.get("now", CLOCK.now())),
    )


def accepted(name: str) -> LeaseAccepted:
    return LeaseAccepted(lease_id=make_hash(name))


async def test_messages_go_both_ways_and_each_side_knows_who_spoke(market: Market) -> None:
    async with market.join() as (link, node):
        provider, coordinator = make_address("provider-1"), make_address("coordinator")
        assert link.connected == (coordinator,)
        assert await link.send(coordinator, accepted("a"))
        assert await market.hall.send(provider, accepted("b"))
        await until(lambda: market.desk.heard and node.heard)
        assert market.desk.heard == [(provider, accepted("a"))]
        assert node.heard == [(coordinator, accepted("b"))]
        assert market.desk.joined[0].session == 1
    await until(lambda: market.desk.left)
    assert not market.hall.members
    assert not await market.hall.send(provider, accepted("b"))


async def test_many_tasks_send_at_once_and_nothing_is_lost_or_refused(market: Market) -> None:
    async with market.join() as (link, _):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(link.send, make_address("coordinator"), accepted(str(number)))
        await until(lambda: len(market.desk.heard) == 100)
        assert not market.hall.refused


async def test_a_renewed_hello_arrives_as_the_same_session(market: Market) -> None:
    async with market.join() as (link, _):
        await link.announce()
        await until(lambda: len(market.desk.joined) == 2)
        assert [member.session for member in market.desk.joined] == [1, 1]


async def test_a_newer_session_takes_the_place_of_the_older(market: Market) -> None:
    async with market.dial_raw() as (first, first_peer), market.dial_raw() as (second, peer):
        await first.send(seal(make_hello("provider-1", first_peer), by="provider-1"))
        await until(lambda: len(market.desk.joined) == 1)
        await second.send(seal(make_hello("provider-1", peer), by="provider-1"))
        await until(lambda: len(market.desk.joined) == 2)
        with trio.fail_after(PATIENCE):
            await first.wait_closed()
        assert not market.desk.left
        assert market.hall.members[make_address("provider-1")].peer_id == peer


async def test_a_lost_session_is_dialed_again(market: Market) -> None:
    async with market.join() as (link, node):
        await market.hall._seats[make_address("provider-1")].channel.session.aclose()
        await until(lambda: len(node.joined) == 2)
        assert node.lost == [make_address("coordinator")]
        assert await link.send(make_address("coordinator"), accepted("again"))


def drop_signature(message: Message) -> bytes:
    frame = seal(message, number=9)
    return frame[:-70] + bytes(70)


BAD_FRAMES: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: os.urandom(200),
    "one byte": lambda: b"x",
    "another document": lambda: encode_document(make_offer()),
    "unsigned": lambda: drop_signature(accepted("x")),
    "signed by somebody else": lambda: seal(accepted("x"), by="stranger", number=9),
    "for somebody else": lambda: seal(accepted("x"), to="other-coordinator", number=9),
    "late": lambda: seal(accepted("x"), number=9, now=CLOCK.now() - 300),
    "from the future": lambda: seal(accepted("x"), number=9, now=CLOCK.now() + 300),
    "a repeat": lambda: seal(accepted("x"), number=1),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
async def test_a_bad_frame_is_dropped_and_too_many_end_that_session_only(
    market: Market, kind: str
) -> None:
    async with market.join() as (link, _), market.dial_raw() as (session, peer_id):
        await session.send(seal(make_hello("attacker", peer_id)))
        await until(lambda: len(market.desk.joined) == 2)
        await session.send(BAD_FRAMES[kind]())
        await session.send(seal(accepted("good"), number=2))
        await until(lambda: market.desk.heard)
        assert market.desk.heard == [(make_address("attacker"), accepted("good"))]
        assert market.hall.refused.total() == 1
        for _ in range(LIMITS.bad_messages_max):
            await session.send(BAD_FRAMES[kind]())
        with trio.fail_after(PATIENCE):
            await session.wait_closed()
        assert await link.send(make_address("coordinator"), accepted("honest"))
        await until(lambda: (make_address("provider-1"), accepted("honest")) in market.desk.heard)


async def test_an_oversized_frame_ends_that_session_only(market: Market) -> None:
    async with market.join() as (link, _), market.dial_raw() as (session, _peer_id):
        session._peer_max_frame_bytes = 4 * FRAME_BYTES_MAX  # an attacker ignores what we accept
        await session.send(bytes(FRAME_BYTES_MAX + 1))
        with trio.fail_after(PATIENCE):
            await session.wait_closed()
        assert await link.send(make_address("coordinator"), accepted("honest"))
        await until(lambda: market.desk.heard)


def hello_of_another_peer(peer_id: str) -> tuple[ProviderHello, str]:
    return make_hello("attacker", peer_id + "x"), "attacker"


def hello_replayed_for_the_victim(peer_id: str) -> tuple[ProviderHello, str]:
    return make_hello("provider-1", peer_id), "attacker"


def hello_signed_by_another(peer_id: str) -> tuple[ProviderHello, str]:
    offer = make_hello("provider-1", peer_id).offer.body
    return ProviderHello(offer=sign(offer, "attacker")), "attacker"


def hello_with_a_broken_signature(peer_id: str) -> tuple[ProviderHello, str]:
    offer = make_hello("attacker", peer_id).offer
    broken = Signed(body=offer.body, signer=offer.signer, signature=bytes(65))
    return ProviderHello(offer=broken), "attacker"


def hello_that_expired(peer_id: str) -> tuple[ProviderHello, str]:
    return make_hello("attacker", peer_id, expires_at=CLOCK.now() - 5), "attacker"


@pytest.mark.parametrize(
    "make_bad",
    [
        hello_of_another_peer,
        hello_replayed_for_the_victim,
        hello_signed_by_another,
        hello_with_a_broken_signature,
        hello_that_expired,
    ],
)
async def test_a_false_hello_joins_nobody(
    market: Market, make_bad: Callable[[str], tuple[ProviderHello, str]]
) -> None:
    async with market.dial_raw() as (session, peer_id):
        hello, signer = make_bad(peer_id)
        await session.send(seal(hello, by=signer))
        await until(lambda: market.hall.refused.total() == 1)
        assert not market.hall.members
        with trio.fail_after(PATIENCE):
            await session.wait_closed()


async def test_a_session_that_begins_with_anything_else_is_ended(market: Market) -> None:
    async with market.dial_raw() as (session, _):
        await session.send(seal(accepted("x")))
        with trio.fail_after(PATIENCE):
            await session.wait_closed()
        assert not market.hall.members


async def test_a_coordinator_may_decline_a_member(market: Market) -> None:
    market.desk.refuse_with = Declined(about=make_hash("offer"), code="stake", need="500", have="0")
    async with market.dial_raw() as (session, peer_id):
        await session.send(seal(make_hello("attacker", peer_id)))
        with trio.fail_after(PATIENCE):
            await session.receive()
            await session.receive()
            with pytest.raises(SessionClosed):
                await session.receive()


async def test_a_member_takes_no_orders_from_a_false_coordinator() -> None:
    """The dialed peer answers with garbage, another's welcome, and orders before any welcome."""
    answers = [
        os.urandom(100),
        seal(accepted("order"), by="coordinator", to="provider-1"),
        seal(
            Welcome(coordinator=make_address("coordinator"), content_peers=()),
            by="attacker",
            to="provider-1",
        ),
    ]

    async def lie(session: Session) -> None:
        for answer in answers:
            await session.send(answer)
        await session.wait_closed()

    async with (
        open_network(key_seed=os.urandom(32), listen_port=0) as theirs,
        open_network(key_seed=os.urandom(32), listen_port=0) as ours,
    ):
        theirs.serve(SESSION_PROTOCOL, lie)
        node = Node(ours.peer_id)
        link = MarketLink(
            ours,
            identity("provider-1"),
            node,
            draw_jitter=lambda: 0.0,
            limits=LinkLimits(bad_messages_max=3, hello_seconds_max=0.5),
        )
        with trio.move_on_after(1.5):
            await link.run(list(theirs.addresses))
        assert link.refused.total() >= 3
        assert not node.joined
        assert not node.heard


async def test_what_the_handler_refuses_counts_against_the_member(market: Market) -> None:
    async def refuse(member: Member, message: Message) -> None:
        raise RemoteProtocolError("nonsense")

    market.desk.handle_message = refuse  # type: ignore[method-assign]  # one method of the desk is another
    async with market.dial_raw() as (session, peer_id):
        await session.send(seal(make_hello("attacker", peer_id)))
        for number in range(2, LIMITS.bad_messages_max + 3):
            await session.send(seal(accepted("x"), number=number))
        with trio.fail_after(PATIENCE):
            await session.wait_closed()
    assert market.hall.refused.total() == LIMITS.bad_messages_max + 1
