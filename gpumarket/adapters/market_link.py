"""
The signed conversation between a coordinator and its members, the providers and verifiers.

A member dials out and keeps one session to each coordinator (`MarketLink`); a coordinator serves
them (`MemberHall`). A member says hello, the coordinator answers with a Welcome, from which the
member learns who its coordinator is; `signed_channel.py` says what counts as a message.

Delivery is not confirmed: after a lost session both sides say again what was not answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import trio

from gpumarket.adapters.logs import Log
from gpumarket.adapters.reconnect import Backoff, keep_session
from gpumarket.adapters.session import Session
from gpumarket.adapters.signed_channel import Hello, LinkIdentity, LinkLimits, SignedChannel
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import ZERO_ADDRESS, Address
from gpumarket.protocol.messages import SESSION_PROTOCOL, Declined, Message, Welcome

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

log = Log("market_link")

__all__ = [
    "CoordinatorHandler",
    "LinkIdentity",
    "LinkLimits",
    "MarketLink",
    "Member",
    "MemberHall",
    "MemberHandler",
    "SessionNetwork",
]


class SessionNetwork(Protocol):
    """What is needed of a `PeerNetwork`."""

    async def dial(self, address: str, protocol: str) -> Session:
        """Open a session; raises PeerUnreachable."""

    def serve(self, protocol: str, handler: Callable[[Session], Awaitable[None]]) -> None:
        """Call `handler` with each session that a peer opens."""


class CoordinatorHandler(Protocol):
    """What a member does about its coordinators; called in order for each session."""

    def make_hello(self) -> Hello:
        """Say who we are and what we offer now."""

    async def handle_joined(self, welcome: Welcome) -> None:
        """Note that a coordinator's session stands."""

    async def handle_lost(self, coordinator: Address) -> None:
        """Note that a coordinator's session ended."""

    async def handle_message(self, coordinator: Address, message: Message) -> None:
        """Take what a coordinator said; raise `RemoteProtocolError` to count it against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A provider or verifier on its session with us."""

    address: Address
    session: int
    """Our number of the session, from 1 and rising."""
    peer_id: str
    hello: Hello


class MemberHandler(Protocol):
    """What a coordinator does about its members; called in order for each session."""

    def make_welcome(self) -> Welcome:
        """Say who we are and where content is."""

    async def handle_joined(self, member: Member) -> Declined | None:
        """Note a member's first or renewed hello; a `Declined` is sent and ends the session."""

    async def handle_left(self, member: Member) -> None:
        """Note that a member's session ended and no newer one took its place."""

    async def handle_message(self, member: Member, message: Message) -> None:
        """Take what a member said; raise `RemoteProtocolError` to count it against it."""


class MarketLink:
    """A member's sessions: one to each coordinator, dialed again whenever it is lost."""

    def __init__(
        self,
        network: SessionNetwork,
        identity: LinkIdentity,
        handler: CoordinatorHandler,
        *,
        draw_jitter: Callable[[], float],
        limits: LinkLimits | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        """Bad messages by code."""
        self._network = network
        self._identity = identity
        self._handler = handler
        self._draw_jitter = draw_jitter
        self._limits = limits or LinkLimits()
        self._backoff = backoff
        self._channels: dict[Address, SignedChannel] = {}
        self._known: dict[str, Address] = {}

    @property
    def connected(self) -> tuple[Address, ...]:
        """The coordinators whose session stands."""
        return tuple(self._channels)

    async def run(
        self,
        addresses: Sequence[str],
        *,
        task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a session to each address (multiaddresses with a peer id) until cancelled."""
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(self._keep, address)
            task_status.started()

    async def send(self, coordinator: Address, message: Message) -> bool:
        """Sign and queue a message; False where there is no session to that coordinator."""
        channel = self._channels.get(coordinator)
        return channel is not None and await channel.send(message)

    async def announce(self) -> None:
        """Say hello again on every session: the offer or card is new."""
        for channel in tuple(self._channels.values()):
            await channel.send(self._handler.make_hello())

    async def _keep(self, address: str) -> None:
        async def converse(session: Session) -> None:
            await self._converse(address, session)

        await keep_session(
            self._network,
            address,
            SESSION_PROTOCOL,
            on_session=converse,
            draw_jitter=self._draw_jitter,
            backoff=self._backoff,
        )

    async def _converse(self, address: str, session: Session) -> None:
        channel = SignedChannel(
            session,
            self._identity,
            limits=self._limits,
            refused=self.refused,
            # Once learned, a coordinator's key does not change behind its peer id.
            peer=self._known.get(address, ZERO_ADDRESS),
        )
        welcome = await self._greet(channel)
        if channel.peer in self._channels:
            raise RemoteProtocolError("this coordinator has a session already")
        self._known[address] = channel.peer
        self._channels[channel.peer] = channel
        log.info("joined a coordinator", coordinator=channel.peer, address=address)
        try:
            await self._handler.handle_joined(welcome)
            while True:
                message = await channel.receive()
                try:
                    await self._handler.handle_message(channel.peer, message)
                except RemoteProtocolError as error:
                    channel.refuse(error)
        finally:
            del self._channels[channel.peer]
            await self._handler.handle_lost(channel.peer)

    async def _greet(self, channel: SignedChannel) -> Welcome:
        await channel.send(self._handler.make_hello())
        with trio.move_on_after(self._limits.hello_seconds_max):
            answer = await channel.receive()
            if isinstance(answer, Welcome):
                return answer
            raise RemoteProtocolError("the coordinator did not answer with a welcome")
        raise RemoteProtocolError("the coordinator did not answer our hello in time")


@dataclass(slots=True)
class _Seat:
    """A member with the channel to it."""

    member: Member
    channel: SignedChannel = field(repr=False)


class MemberHall:
    """A coordinator's sessions: one for each member, a newer one takes the older one's place."""

    def __init__(
        self,
        network: SessionNetwork,
        identity: LinkIdentity,
        handler: MemberHandler,
        *,
        limits: LinkLimits | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        """Bad messages by code."""
        self._identity = identity
        self._handler = handler
        self._limits = limits or LinkLimits()
        self._seats: dict[Address, _Seat] = {}
        self._sessions = 0
        network.serve(SESSION_PROTOCOL, self._receive_member)

    @property
    def members(self) -> Mapping[Address, Member]:
        """Who is connected."""
        return MappingProxyType({address: seat.member for address, seat in self._seats.items()})

    async def send(self, member: Address, message: Message) -> bool:
        """Sign and queue a message; False where that member has no session."""
        seat = self._seats.get(member)
        return seat is not None and await seat.channel.send(message)

    def expel(self, member: Address, *, session: int, reason: str) -> None:
        """End a member's session; session 0 is whatever session it has."""
        seat = self._seats.get(member)
        if seat is not None and session in (0, seat.member.session):
            seat.channel.session.break_off(reason)

    async def _receive_member(self, session: Session) -> None:
        channel = SignedChannel(session, self._identity, limits=self._limits, refused=self.refused)
        try:
            await self._seat_member(channel, await self._await_hello(channel))
        except RemoteProtocolError as error:
            log.warn("a session was ended", peer=session.remote_peer_id, reason=error.message)

    async def _await_hello(self, channel: SignedChannel) -> Hello:
        with trio.move_on_after(self._limits.hello_seconds_max) as timer:
            message = await channel.receive()
        if timer.cancelled_caught:
            raise RemoteProtocolError("no hello came in time")
        if not isinstance(message, Hello):
            raise RemoteProtocolError("a member begins with a hello")
        return message

    async def _seat_member(self, channel: SignedChannel, hello: Hello) -> None:
        before = self._seats.get(channel.peer)
        if before is None and len(self._seats) >= self._limits.members_max:
            raise RemoteProtocolError(
                "every seat is taken", why=f"{self._limits.members_max} members"
            )
        self._sessions += 1
        member = Member(
            address=channel.peer,
            session=self._sessions,
            peer_id=channel.session.remote_peer_id,
            hello=hello,
        )
        seat = self._seats[channel.peer] = _Seat(member, channel)
        if before is not None:
            before.channel.session.break_off("the member opened a newer session")
        try:
            # The welcome comes first: whatever else is sent must find a member that knows us.
            if await channel.send(self._handler.make_welcome()):
                await self._converse(seat)
        finally:
            if self._seats.get(channel.peer) is seat:
                del self._seats[channel.peer]
                await self._handler.handle_left(seat.member)

    async def _converse(self, seat: _Seat) -> None:
        channel = seat.channel
        if not await self._admit(seat):
            return
        while True:
            message = await channel.receive()
            try:
                if isinstance(message, Hello):
                    self._renew(seat, message)
                    if not await self._admit(seat):
                        return
                else:
                    await self._handler.handle_message(seat.member, message)
            except RemoteProtocolError as error:
                channel.refuse(error)

    async def _admit(self, seat: _Seat) -> bool:
        declined = await self._handler.handle_joined(seat.member)
        if declined is not None:
            await seat.channel.send(declined)
        return declined is None

    def _renew(self, seat: _Seat, hello: Hello) -> None:
        if type(hello) is not type(seat.member.hello):
            raise RemoteProtocolError("a member does not change its role in a session")
        seat.member = Member(
            address=seat.member.address,
            session=seat.member.session,
            peer_id=seat.member.peer_id,
            hello=hello,
        )
