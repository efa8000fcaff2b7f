"""
The libp2p host under a PeerNetwork: TCP, Noise, Yamux and gossipsub, with its traps closed.

The only file that imports libp2p. py-libp2p 0.8.1 is young: docs/adr/0006-libp2p.md lists what
bites and what is done about it here, and tests/integration/test_libp2p_assumptions.py fails
when one of these facts changes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network import swarm as swarm_module
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection as swarm_connection_module
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux as yamux_module
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service

from gpumarket.adapters.logs import Log
from gpumarket.adapters.network import (
    BUDGETS_MAX,
    GossipValidator,
    Node,
    PeerAddress,
    PeerNetwork,
    RawHandler,
    counted,
    find_cause,
)
from gpumarket.adapters.network_limits import NetworkLimits
from gpumarket.adapters.port_claim import claim_port
from gpumarket.adapters.session import PeerUnreachable, RawStream, StreamClosed
from gpumarket.protocol.errors import GpuMarketError, InvalidInput
from gpumarket.protocol.token_bucket import TokenBucket

__all__ = ["NetworkLimits", "PeerNetwork", "open_network", "parse_peer_address"]

log = Log("p2p")

KEY_SEED_BYTES = 32
HAPPY_EYEBALLS_SECONDS = 0.01
"""libp2p sleeps its head start in full even after the dial has succeeded: 250 ms by default."""
ABORT_SECONDS_MAX = 2.0
PUBLISH_QUEUE_MAX = 16
"""libp2p drops what a neighbor has no room for, 32 messages: our own wait for room before that."""
PUBLISH_WAIT_SECONDS = 0.01
PUBLISH_WAITS_MAX = 100
CODE_BAD_ADDRESS = "GM-8105"


@contextlib.asynccontextmanager
async def open_network(
    *,
    key_seed: bytes,
    listen_port: int,
    host: str = "127.0.0.1",
    topics: frozenset[str] = frozenset(),
    limits: NetworkLimits | None = None,
) -> AsyncIterator[PeerNetwork]:
    """
    Listen on a port (0 picks one) as the peer that `key_seed` (32 bytes, Ed25519) names.

    `topics` are all gossip topics this process will ever use. Raises InvalidInput, GM-8101 if
    another process has the port, and Unrecoverable when the host cannot be kept alive.
    """
    if len(key_seed) != KEY_SEED_BYTES:
        raise InvalidInput(f"a peer key has {KEY_SEED_BYTES} bytes", why=f"{len(key_seed)} given")
    limits = limits or NetworkLimits()
    key_pair = create_new_key_pair(key_seed)
    run_node = functools.partial(_run_node, key_pair, host, topics, limits)
    with claim_port(host, listen_port):
        async with trio.open_nursery() as nursery:
            network = PeerNetwork(
                str(ID.from_pubkey(key_pair.public_key)),
                topics=topics,
                limits=limits,
                parse_address=parse_peer_address,
                nursery=nursery,
            )
            await nursery.start(network.run_forever, run_node, listen_port)
            try:
                yield network
            finally:
                nursery.cancel_scope.cancel()


def parse_peer_address(address: str) -> PeerAddress:
    """Read a multiaddress that ends in /p2p/<peer id>; raises InvalidInput."""
    peer = _parse_peer_info(address)
    return PeerAddress(peer_id=str(peer.peer_id), multiaddress=address)


class _Stream:
    """A RawStream on a libp2p stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.remote_peer_id = str(stream.muxed_conn.peer_id)

    async def read(self, bytes_max: int) -> bytes:
        with _raising(StreamClosed, "the stream broke"):
            try:
                return bytes(await self._stream.read(bytes_max))
            except StreamEOF:
                return b""

    async def write(self, data: bytes) -> None:
        with _raising(StreamClosed, "the stream broke"):
            await self._stream.write(data)

    async def close(self) -> None:
        with _raising(StreamClosed, "the stream broke"):
            await self._stream.close()

    async def reset(self) -> None:
        # Breaking off a broken stream raises whatever broke it; there is nothing left to do.
        with contextlib.suppress(Exception):
            await self._stream.reset()


class _LibNode:
    """One libp2p host with its gossip, guarded."""

    def __init__(self, host: Any, pubsub: Any, limits: NetworkLimits) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._pubsub = pubsub
        self._limits = limits

    @property
    def addresses(self) -> tuple[str, ...]:
        """The multiaddresses it listens on, each ending in /p2p/<peer id>."""
        listeners = self._swarm.listeners.values()
        found = [str(address) for listener in listeners for address in listener.get_addrs()]
        return tuple(f"{address}/p2p/{self._host.get_id()}" for address in found)

    def serve_raw(self, protocol: str, handler: RawHandler) -> None:
        """Call `handler` with each inbound stream."""

        async def handle(stream: Any) -> None:
            await handler(_Stream(stream))

        self._host.set_stream_handler(TProtocol(protocol), handle)

    async def connect(self, address: PeerAddress) -> None:
        """Make sure of a connection; raises PeerUnreachable."""
        peer = _parse_peer_info(address.multiaddress)
        # One failed dial blocks a peer for 60 s, even if it is back after one.
        self._swarm.unblock_peer(peer.peer_id)
        # libp2p dials only the first TCP address that it remembers: forget where the peer was.
        self._host.get_peerstore().clear_addrs(peer.peer_id)
        with _raising(PeerUnreachable, "the dial failed"):
            await self._host.connect(peer)

    async def open_stream(self, peer_id: str, protocol: str) -> RawStream:
        """Open a stream to a connected peer; raises PeerUnreachable."""
        with _raising(PeerUnreachable, "the stream was refused"):
            stream = await self._host.new_stream(_parse_peer_id(peer_id), [TProtocol(protocol)])
        return _Stream(stream)

    async def disconnect(self, peer_id: str) -> None:
        """Break off every connection to a peer."""
        for connection in self._swarm.get_connections(_parse_peer_id(peer_id)):
            await _abort_connection(connection)

    def find_connected_peers(self) -> tuple[str, ...]:
        """The ids of the connected peers."""
        return tuple(str(peer) for peer in self._swarm.get_connections_map())

    async def publish(self, topic: str, data: bytes) -> None:
        """Give one message to the neighbors on a topic, once they have room or a second later."""
        for _ in range(PUBLISH_WAITS_MAX):
            if max(map(len, self._pubsub.peer_queues.values()), default=0) < PUBLISH_QUEUE_MAX:
                break
            await trio.sleep(PUBLISH_WAIT_SECONDS)
        await self._pubsub.publish(topic, data)

    async def join(
        self, topic: str, validator: GossipValidator
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Return what comes on a topic, as (origin's peer id, data)."""

        def accept(_forwarder: ID, message: Any) -> bool:
            if list(message.topicIDs) != [topic]:
                return False
            if len(message.data) > self._limits.gossip_message_bytes_max:
                return False
            return validator(str(ID(message.from_id)), bytes(message.data))

        self._pubsub.set_topic_validator(topic, accept, False)
        return _read_gossip(await self._pubsub.subscribe(topic))

    async def close_sockets(self) -> None:
        """
        Stop listening and break off every connection.

        A libp2p host that is cancelled leaves its sockets open; a listener left behind would
        share the port with the next host and take every other connection of it.
        """
        for listener in self._swarm.listeners.values():
            await _close_shielded(listener.close)
        for connection in self._swarm.get_connections():
            await _abort_connection(connection)


async def _read_gossip(source: Any) -> AsyncIterator[tuple[str, bytes]]:
    # Ends with the host: its subscription channels close.
    with contextlib.suppress(trio.EndOfChannel, trio.ClosedResourceError):
        while True:
            message = await source.get()
            yield str(ID(message.from_id)), bytes(message.data)


async def _run_node(
    key_pair: KeyPair,
    ip: str,
    topics: frozenset[str],
    limits: NetworkLimits,
    port: int,
    enter: Callable[[Node], Awaitable[None]],
) -> None:
    """Run one host until it dies, calling `enter` once it listens."""
    host = _build_host(key_pair, limits)
    pubsub, router = _build_pubsub(host, topics, limits)
    node = _LibNode(host, pubsub, limits)
    address = multiaddr.Multiaddr(f"/ip4/{ip}/tcp/{port}")
    async with host.run(listen_addrs=[address]):
        try:
            if not node.addresses:
                why = str(address)
                raise InvalidInput("the host cannot listen", code=CODE_BAD_ADDRESS, why=why)
            async with background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                await enter(node)
                await _remind(pubsub, limits.gossip_reminder_seconds)
        finally:
            await node.close_sockets()


async def _remind(pubsub: Any, pause_seconds: float) -> None:
    """
    Tell all neighbors again and again what we subscribe to, until cancelled.

    libp2p says it once a connection. A neighbor that learns late that our connection before broke
    forgets with it what the new one said, and would never give us a message again.
    """
    while True:
        await trio.sleep(pause_seconds)
        await pubsub.message_all_peers(pubsub.get_hello_packet().SerializeToString())


def _build_host(key_pair: KeyPair, limits: NetworkLimits) -> Any:
    swarm_module._HAPPY_EYEBALLS_DELAY = HAPPY_EYEBALLS_SECONDS
    # A reader that falls behind holds this much for each stream; the default is 16 MiB.
    yamux_module.MAX_WINDOW_SIZE = limits.stream_window_bytes_max
    # This module logs through the root logger, which would install a handler on stderr.
    vars(swarm_connection_module)["logging"] = logging.getLogger("libp2p.network.connection")
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(
        key_pair=key_pair,
        # The default also offers TLS, secio and plaintext, and mplex as the muxer.
        sec_opt={NOISE_PROTOCOL_ID: noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL_ID): Yamux},
        resource_manager=_build_resource_manager(limits),
        connection_config=_build_connection_config(limits),
        disable_identify_address_discovery=True,
    )
    swarm: Any = host.get_network()
    # Whoever dials has its own backoff.
    swarm.retry_config = RetryConfig(max_retries=0)
    # It dials every peer that it remembers, whatever the watermarks say; we say whom to dial.
    swarm.auto_connector.maybe_connect = trio.lowlevel.checkpoint
    _guard_streams(swarm, limits)
    _guard_upgrades(swarm, limits)
    _guard_windows(swarm, limits)
    return host


def _build_resource_manager(limits: NetworkLimits) -> ResourceManager:
    # The circuit breaker and the degradation let one bad peer close the host to all others.
    return ResourceManager(
        limits=ResourceLimits(
            # A connection counts twice until its handshake is over; the real bound is below.
            max_connections=2 * limits.connections_max,
            max_memory_mb=limits.memory_mb_max,
            max_streams=limits.streams_max,
        ),
        connection_limits=ConnectionLimits(
            max_pending_inbound=limits.connections_max,
            max_pending_outbound=limits.dials_at_once_max,
            max_established_inbound=limits.connections_max,
            max_established_outbound=limits.connections_max,
            max_established_per_peer=limits.connections_per_peer_max,
            max_established_total=limits.connections_max,
        ),
        memory_limits=MemoryConnectionLimits(),
        connections_per_peer_per_sec=limits.connections_per_peer_per_second,
        burst_connections_per_peer=limits.connections_per_peer_burst,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


def _build_connection_config(limits: NetworkLimits) -> ConnectionConfig:
    return ConnectionConfig(
        max_connections=limits.connections_max,
        min_connections=0,
        low_watermark=0,
        high_watermark=limits.connections_max,
        max_connections_per_peer=limits.connections_per_peer_max,
        dial_timeout=limits.dial_seconds_max,
        inbound_upgrade_timeout=limits.upgrade_seconds_max,
        outbound_upgrade_timeout=limits.upgrade_seconds_max,
    )


def _build_pubsub(host: Any, topics: frozenset[str], limits: NetworkLimits) -> tuple[Any, Any]:
    router = GossipSub(
        protocols=[PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        # IHAVE goes only to peers outside their back-off: 60 s starves a pruned peer.
        prune_back_off=1,
        # It counts our own messages and drops them without a word; see _guard_gossip.
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(
        host,
        router,
        strict_signing=True,
        allowed_topics=topics,
        max_subscriptions_per_peer=limits.gossip_topics_per_peer_max,
        max_inbound_rpc_size=limits.gossip_message_bytes_max * 4,
    )
    _guard_gossip(pubsub, limits)
    return pubsub, router


def _guard_streams(swarm: Any, limits: NetworkLimits) -> None:
    """Let no exception of a stream handler, libp2p's or ours, end the host."""
    inner = swarm.common_stream_handler
    streams_of: Counter[str] = Counter()

    async def handle(stream: Any) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        if streams_of[peer_id] >= limits.streams_per_peer_max:
            await _Stream(stream).reset()
            return
        with counted(streams_of, peer_id):
            try:
                await inner(stream)
            # A guard; trio.Cancelled is no Exception and passes, also out of a group.
            except* Exception as group:
                log.warn("a stream handler failed", peer=peer_id, error=find_cause(group))
                await _close_shielded(_Stream(stream).reset)

    swarm.set_stream_handler(handle)


def _guard_upgrades(swarm: Any, limits: NetworkLimits) -> None:
    """Bound the handshakes under way per IP, and give a connection's slot back at its end."""
    inner = swarm.upgrade_inbound_raw_conn
    pending_of: Counter[str] = Counter()

    async def upgrade(raw: Any, address: Any) -> None:
        ip = (raw.get_remote_address() or ("",))[0]
        if pending_of[ip] >= limits.pending_connections_per_ip_max:
            raise SwarmException("too many handshakes from one IP")
        try:
            with counted(pending_of, ip):
                muxed = await inner(raw, address)
            # libp2p holds the inbound slot until the host stops, unless this raises.
            await muxed.event_closed.wait()
            raise SwarmException("the connection is over")
        finally:
            # When it is cancelled libp2p forgets the socket.
            await _close_shielded(raw.close)

    swarm.upgrade_inbound_raw_conn = upgrade


def _guard_windows(swarm: Any, limits: NetworkLimits) -> None:
    """Hang up on a peer that sends beyond its windows, which libp2p only logs."""
    inner = swarm.add_conn

    async def add(muxed: Any, *args: Any, **kwargs: Any) -> Any:
        read = muxed._read_data_body

        async def read_bounded(length: int) -> bytes:
            held = sum(map(len, muxed.stream_buffers.values())) + length
            if held > limits.buffered_bytes_per_connection_max:
                log.warn("a peer ignores its window and is dropped", peer=str(muxed.peer_id))
                # The one exception that ends the connection here; others lose the frame's place.
                raise trio.TooSlowError
            return bytes(await read(length))

        # libp2p makes a Yamux of its own, whatever class it is given for the protocol.
        muxed._read_data_body = read_bounded
        return await inner(muxed, *args, **kwargs)

    swarm.add_conn = add


def _guard_gossip(pubsub: Any, limits: NetworkLimits) -> None:
    """Bound what a neighbor sends, and survive what libp2p's signature check raises."""
    inner = pubsub.push_msg
    buckets: dict[str, TokenBucket] = {}

    def is_welcome(forwarder: str) -> bool:
        now_ms = int(trio.current_time() * 1_000)
        if forwarder not in buckets:
            if len(buckets) >= BUDGETS_MAX:
                buckets.pop(next(iter(buckets)))
            buckets[forwarder] = TokenBucket(
                per_second=limits.gossip_messages_per_second,
                burst=limits.gossip_messages_burst,
                now_ms=now_ms,
            )
        return buckets[forwarder].try_take(1, now_ms=now_ms)

    async def push(forwarder: ID, message: Any) -> None:
        # Not in the validator: its verdict is remembered by message, and one neighbor's
        # flood would condemn the same message from all others.
        if forwarder != pubsub.my_id and not is_welcome(str(forwarder)):
            return
        try:
            await inner(forwarder, message)
        # A guard: this runs in a task of the host, whose end would be the host's.
        except* Exception as group:
            log.warn("a gossip message failed", peer=str(forwarder), error=find_cause(group))

    pubsub.push_msg = push


async def _abort_connection(connection: Any) -> None:
    """Close the socket first: a goodbye to a frozen peer would wait for ever behind a full pipe."""
    await _close_shielded(connection.muxed_conn.secured_conn.close)
    await _close_shielded(connection.close)


async def _close_shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close something even while being cancelled, without waiting for ever."""
    with (
        trio.CancelScope(shield=True),
        trio.move_on_after(ABORT_SECONDS_MAX),
        # What is broken already raises whatever broke it.
        contextlib.suppress(Exception),
    ):
        await close()


@contextlib.contextmanager
def _raising(error_type: type[GpuMarketError], message: str) -> Iterator[None]:
    """Turn whatever libp2p, its transports and parsers raise into one error of ours."""
    try:
        yield
    except GpuMarketError:
        raise
    # They raise their own, trio's and bare exceptions; the one place that translates them.
    except Exception as error:
        raise error_type(message, why=find_cause(error)) from None


def _parse_peer_info(address: str) -> PeerInfo:
    with _raising(InvalidInput, "this is no peer address"):
        return info_from_p2p_addr(multiaddr.Multiaddr(address))


def _parse_peer_id(peer_id: str) -> ID:
    with _raising(InvalidInput, "this is no peer id"):
        return ID.from_string(peer_id)
