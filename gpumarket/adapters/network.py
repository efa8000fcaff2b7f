"""
This process among its peers: who is served, who is dialed, and what happens when the host dies.

Knows nothing of libp2p; p2p.py runs the host underneath and opens a PeerNetwork.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

import trio

from gpumarket.adapters.logs import Log
from gpumarket.adapters.network_limits import NetworkLimits
from gpumarket.adapters.session import (
    Budget,
    PeerUnreachable,
    RawStream,
    Session,
    StreamClosed,
)
from gpumarket.protocol.errors import GpuMarketError, InvalidInput, Unrecoverable

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

log = Log("network")

BUDGETS_MAX = 4_096
"""Peers whose spending is remembered; each is forgotten once it owes nothing."""
CODE_BAD_GOSSIP = "GM-8106"
CODE_HOST_DIES = "GM-8107"

SessionHandler = Callable[[Session], Awaitable[None]]
RawHandler = Callable[[RawStream], Awaitable[None]]
GossipValidator = Callable[[str, bytes], bool]
"""Given the origin's peer id and the data, says whether to keep and to pass on the message."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer listens and who it must prove to be there."""

    peer_id: str
    multiaddress: str


class Node(Protocol):
    """One run of the host underneath; a dead one is replaced by the next."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The multiaddresses it listens on, each ending in /p2p/<peer id>."""

    def serve_raw(self, protocol: str, handler: RawHandler) -> None:
        """Call `handler` with each inbound stream."""

    async def connect(self, address: PeerAddress) -> None:
        """Make sure of a connection; raises PeerUnreachable."""

    async def open_stream(self, peer_id: str, protocol: str) -> RawStream:
        """Open a stream to a connected peer; raises PeerUnreachable."""

    async def disconnect(self, peer_id: str) -> None:
        """Break off every connection to a peer."""

    def find_connected_peers(self) -> tuple[str, ...]:
        """The ids of the connected peers."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Give one message to the neighbors on a topic."""

    async def join(
        self, topic: str, validator: GossipValidator
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Return what comes on a topic, as (origin's peer id, data)."""


RunNode = Callable[
    [int, Callable[[Node], Awaitable[None]]],
    Awaitable[None],
]
"""Runs one host on a port and calls back when it is up; returns or raises when it is dead."""


@dataclass
class _Subscription:
    validator: GossipValidator
    inbox: trio.MemorySendChannel[tuple[str, bytes]]
    dropped: int = 0


class PeerNetwork:
    """This process's presence among its peers; made by open_network."""

    def __init__(
        self,
        peer_id: str,
        *,
        topics: frozenset[str],
        limits: NetworkLimits,
        parse_address: Callable[[str], PeerAddress],
        nursery: trio.Nursery,
    ) -> None:
        self.peer_id = peer_id
        self.addresses: tuple[str, ...] = ()
        self.limits = limits
        self._topics = topics
        self._parse_address = parse_address
        self._nursery = nursery
        self._node: Node | None = None
        self._node_up = trio.Event()
        self._handlers: dict[str, RawHandler] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._outbound: set[Session] = set()
        self._sessions_of: Counter[str] = Counter()
        self._budgets: dict[str, Budget] = {}
        self._dial_limit = trio.CapacityLimiter(limits.dials_at_once_max)
        self._dial_locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def serve(self, protocol: str, handler: SessionHandler) -> None:
        """
        Call `handler` with each session that a peer opens; the session ends when it returns.

        Whatever the handler raises ends that session only.
        """
        self.serve_raw(protocol, functools.partial(self._serve_session, handler))

    def serve_raw(self, protocol: str, handler: RawHandler) -> None:
        """Call `handler` with each stream that a peer opens; it closes or resets the stream."""
        self._handlers[protocol] = handler
        if self._node is not None:
            self._node.serve_raw(protocol, handler)

    async def dial(self, address: str, protocol: str) -> Session:
        """
        Open a session to a multiaddress that ends in /p2p/<peer id>.

        Returns once the peer has answered on the protocol itself. Raises InvalidInput for a bad
        address, PeerUnreachable otherwise. The caller closes the session.
        """
        peer = self._parse_address(address)
        lock = self._dial_locks.setdefault(peer.peer_id, trio.Lock())
        with self._explain_dial(address):
            async with lock, self._dial_limit:
                session = await self._dial_session(peer, protocol)
        self._nursery.start_soon(self._run_outbound, session)
        return session

    async def open_raw(self, peer_id: str, protocol: str, *, address: str = "") -> RawStream:
        """
        Open an unframed stream to a peer that is connected, or whose `address` is given.

        Raises PeerUnreachable. The caller closes or resets the stream.
        """
        with self._explain_dial(address or peer_id):
            node = await self._wait_node()
            if address:
                await node.connect(self._parse_address(address))
            return await node.open_stream(peer_id, protocol)

    async def disconnect(self, peer_id: str) -> None:
        """Break off every connection to a peer, even one that reads nothing any more."""
        if self._node is not None:
            await self._node.disconnect(peer_id)

    def find_connected_peers(self) -> tuple[str, ...]:
        """The ids of the peers with at least one open connection."""
        return self._node.find_connected_peers() if self._node is not None else ()

    async def publish(self, topic: str, data: bytes) -> None:
        """
        Give one message to the neighbors on a topic; best effort, it may reach nobody.

        Raises InvalidInput for a topic that was not named at the start or data that is too long.
        """
        self._check_topic(topic)
        if len(data) > self.limits.gossip_message_bytes_max:
            # libp2p accepts it and loses it without a word.
            raise InvalidInput(
                "the message is too long to be published",
                code=CODE_BAD_GOSSIP,
                why=f"{len(data)} bytes, at most {self.limits.gossip_message_bytes_max}",
            )
        await (await self._wait_node()).publish(topic, data)

    async def subscribe(
        self, topic: str, validator: GossipValidator
    ) -> trio.MemoryReceiveChannel[tuple[str, bytes]]:
        """
        Receive (origin's peer id, data) of what others publish on a topic and `validator` accepts.

        The origin's signature is checked before. What comes while the channel is full is lost.
        Messages that fail the validator are not passed on to others either.
        """
        self._check_topic(topic)
        if topic in self._subscriptions:
            raise InvalidInput("the topic is subscribed already", code=CODE_BAD_GOSSIP, why=topic)
        inbox, receive = trio.open_memory_channel[tuple[str, bytes]](
            self.limits.gossip_inbox_messages_max
        )
        self._subscriptions[topic] = _Subscription(validator, inbox)
        await self._join_topic(await self._wait_node(), topic)
        return receive

    # Dialing.

    @contextlib.contextmanager
    def _explain_dial(self, whom: str) -> Iterator[None]:
        try:
            with trio.fail_after(self.limits.dial_seconds_max):
                yield
        except trio.TooSlowError:
            why = f"no answer in {self.limits.dial_seconds_max} s"
        except InvalidInput:
            raise
        except GpuMarketError as error:
            why = f"{error.message} {error.why}".strip()
        else:
            return
        raise PeerUnreachable("the peer cannot be reached", why=f"{whom}: {why}")

    async def _dial_session(self, peer: PeerAddress, protocol: str) -> Session:
        if not self._is_connected(peer.peer_id) or self._has_session(peer.peer_id):
            return await self._open_session(peer, protocol)
        # An idle connection to a peer that died without a word stays listed: try, then renew it.
        try:
            with trio.fail_after(self.limits.dial_seconds_max / 2):
                return await self._open_session(peer, protocol)
        except trio.TooSlowError:
            await self.disconnect(peer.peer_id)
        except GpuMarketError:
            if self._is_connected(peer.peer_id):
                raise
        return await self._open_session(peer, protocol)

    async def _open_session(self, peer: PeerAddress, protocol: str) -> Session:
        node = await self._wait_node()
        await node.connect(peer)
        session = self._make_session(await node.open_stream(peer.peer_id, protocol))
        await session.shake_hands()
        return session

    async def _run_outbound(self, session: Session) -> None:
        self._outbound.add(session)
        try:
            await session.run()
        finally:
            self._outbound.discard(session)

    def _make_session(self, stream: RawStream) -> Session:
        peer_id = stream.remote_peer_id
        return Session(
            stream,
            limits=self.limits.session,
            budget=self._find_budget(peer_id),
            drop_peer=functools.partial(self.disconnect, peer_id),
        )

    def _is_connected(self, peer_id: str) -> bool:
        return peer_id in self.find_connected_peers()

    def _has_session(self, peer_id: str) -> bool:
        is_dialed = any(session.remote_peer_id == peer_id for session in self._outbound)
        return is_dialed or self._sessions_of[peer_id] > 0

    # Being dialed.

    async def _serve_session(self, handler: SessionHandler, stream: RawStream) -> None:
        peer_id = stream.remote_peer_id
        if self._sessions_of[peer_id] >= self.limits.sessions_per_peer_max:
            await stream.reset()
            return
        with counted(self._sessions_of, peer_id), contextlib.suppress(StreamClosed):
            session = self._make_session(stream)
            await session.shake_hands()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                try:
                    await handler(session)
                except StreamClosed:
                    log.info("a session ended", peer=peer_id, ended_by=str(session.ended_by))
                finally:
                    await session.aclose()

    def _find_budget(self, peer_id: str) -> Budget:
        if peer_id not in self._budgets and len(self._budgets) >= BUDGETS_MAX:
            self._budgets = {k: v for k, v in self._budgets.items() if not v.is_idle()}
        if len(self._budgets) >= BUDGETS_MAX:
            self._budgets.pop(next(iter(self._budgets)))
        return self._budgets.setdefault(peer_id, Budget(self.limits.session))

    # Gossip.

    def _check_topic(self, topic: str) -> None:
        if topic not in self._topics:
            raise InvalidInput(
                "the topic was not named when the network was opened",
                code=CODE_BAD_GOSSIP,
                why=f"{topic} is not among {sorted(self._topics)}",
            )

    async def _join_topic(self, node: Node, topic: str) -> None:
        subscription = self._subscriptions[topic]
        messages = await node.join(topic, subscription.validator)
        self._nursery.start_soon(self._deliver_gossip, messages, subscription)

    async def _deliver_gossip(
        self, messages: AsyncIterator[tuple[str, bytes]], subscription: _Subscription
    ) -> None:
        async for origin, data in messages:
            if origin == self.peer_id:
                continue
            try:
                subscription.inbox.send_nowait((origin, data))
            except trio.WouldBlock:
                subscription.dropped += 1
            except trio.BrokenResourceError:
                return

    # Keeping a host alive.

    async def run_forever(
        self, run_node: RunNode, port: int, *, task_status: TaskStatus[None]
    ) -> None:
        """
        Run hosts one after the other until cancelled; a dead one is replaced on the same port.

        Handlers and subscriptions carry over; open sessions, connections and gossip under way do
        not. Raises what the first host raises before it is up, and Unrecoverable when hosts die
        too often.
        """
        limits = self.limits
        deaths: list[float] = []

        async def enter(node: Node) -> None:
            await self._enter_node(node)
            if not deaths:
                task_status.started()

        while len(deaths) <= limits.restarts_max:
            try:
                await run_node(self._find_port(port), enter)
            # The supervisor: whatever kills a host, the process must stay reachable.
            except* Exception as group:
                if not self.addresses:
                    raise
                log.error("the libp2p host died", error=find_cause(group))
            self._leave_node()
            now = trio.current_time()
            deaths = [t for t in deaths if now - t < limits.restart_window_seconds] + [now]
            await trio.sleep(limits.restart_pause_seconds)
        raise Unrecoverable("the libp2p host dies again and again", code=CODE_HOST_DIES)

    def _find_port(self, port: int) -> int:
        # Port 0 is chosen once: after a restart the peers must find us where we were.
        return int(self.addresses[0].split("/tcp/")[1].split("/")[0]) if self.addresses else port

    async def _enter_node(self, node: Node) -> None:
        self.addresses = node.addresses
        for protocol, handler in self._handlers.items():
            node.serve_raw(protocol, handler)
        self._node = node
        self._node_up.set()
        for topic in tuple(self._subscriptions):
            await self._join_topic(node, topic)

    def _leave_node(self) -> None:
        self._node = None
        self._node_up = trio.Event()
        for session in tuple(self._outbound):
            session.break_off("the libp2p host died")

    async def _wait_node(self) -> Node:
        while self._node is None:
            await self._node_up.wait()
        return self._node


@contextlib.contextmanager
def counted(counter: Counter[str], key: str) -> Iterator[None]:
    """Count the key while the context lasts; a count of zero takes no room."""
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if counter[key] <= 0:
            del counter[key]


def find_cause(error: BaseException) -> str:
    """The innermost first exception in one line: libp2p wraps five deep."""
    for _ in range(16):
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    return f"{type(error).__name__}: {error}"[:300]
