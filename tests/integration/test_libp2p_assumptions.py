"""
What adapters/p2p.py takes for granted about py-libp2p 0.8.1, good and bad.

A test that fails after an upgrade names a guard that may now be dropped, or a private name that
has moved. None of this is a wish: each was seen to bite.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import multiaddr
import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network import swarm as swarm_module
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub import rpc_queue
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp import tcp
from libp2p.utils.varint import encode_uvarint

from tests.patience import PATIENCE

PROTOCOL = TProtocol("/gpumarket/assumption/1")
LOOPBACK = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")


def make_host(seed: str, **options: Any) -> Any:
    """A host as libp2p makes it, without any guard of ours."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    return new_host(key_pair=create_new_key_pair(seed.ljust(32).encode()), **options)


@asynccontextmanager
async def run_host(seed: str, **options: Any) -> AsyncIterator[Any]:
    """Run one; its sockets are closed at the end, which libp2p forgets."""
    host = make_host(seed, **options)
    async with host.run(listen_addrs=[LOOPBACK]):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(2):
                for listener in host.get_network().listeners.values():
                    await listener.close()
                for connection in host.get_network().get_connections():
                    await connection.muxed_conn.secured_conn.close()
                    await connection.close()


def find_info(host: Any) -> PeerInfo:
    """Where it listens."""
    (listener,) = host.get_network().listeners.values()
    return PeerInfo(host.get_id(), list(listener.get_addrs()))


def find_leaves(error: BaseException) -> list[BaseException]:
    """What a nest of exception groups holds."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in find_leaves(inner)]
    return [error]


def test_the_version_is_the_one_that_was_examined() -> None:
    assert importlib.metadata.version("libp2p") == "0.8.1"


def test_plaintext_and_mplex_are_offered_by_default() -> None:
    upgrader = make_host("defaults").get_network().upgrader
    offered = set(upgrader.security_multistream.transports)
    assert {"/plaintext/2.0.0", "/secio/1.0.0", "/noise"} <= offered
    assert "/mplex/6.7.0" in set(upgrader.muxer_multistream.transports)


def test_the_names_that_are_replaced_exist() -> None:
    assert swarm_module._HAPPY_EYEBALLS_DELAY in {0.25, 0.01}
    assert yamux.MAX_WINDOW_SIZE >= 1 << 20
    assert "MAX_WINDOW_SIZE" in inspect.getsource(yamux.YamuxStream._apply_autotune_epoch)
    assert list(inspect.signature(yamux.Yamux._read_data_body).parameters) == ["self", "length"]
    swarm = make_host("names").get_network()
    for name in ("upgrade_inbound_raw_conn", "add_conn", "unblock_peer", "retry_config"):
        assert hasattr(swarm, name)
    assert inspect.iscoroutinefunction(swarm.auto_connector.maybe_connect)
    assert hasattr(swarm_connection, "logging")


def test_yamux_is_made_whatever_class_is_given() -> None:
    # So the window guard sits on each connection, not in a subclass.
    assert "yamux_conn = Yamux(" in inspect.getsource(MuxerMultistream.new_conn)


def test_a_window_that_is_exceeded_is_only_logged() -> None:
    source = inspect.getsource(yamux.Yamux.handle_incoming)
    assert "peer exceeded" in source
    assert "except trio.TooSlowError" in source


def test_ports_are_shared_without_a_word() -> None:
    assert "SO_REUSEPORT" in inspect.getsource(tcp._set_reuse_flags)


def test_defaults_that_we_override_are_what_they_were() -> None:
    config = ConnectionConfig()
    assert (config.max_connections, config.min_connections) == (300, 50)
    defaults = {k: p.default for k, p in inspect.signature(GossipSub.__init__).parameters.items()}
    assert defaults["heartbeat_interval"] == 120
    assert defaults["prune_back_off"] == 60
    assert defaults["max_messages_per_topic_per_second"] == 10.0
    assert rpc_queue.OutBoundQueueSize == 32


def test_a_failed_peer_is_remembered_for_a_minute() -> None:
    cache = swarm_module._NegativePeerCache()
    cache.mark_failed("peer")
    assert cache.is_blocked("peer")
    assert cache._ttl == 60.0


async def test_a_host_that_ends_goes_on_listening() -> None:
    host = make_host("undead")
    async with host.run(listen_addrs=[LOOPBACK]):
        (listener,) = host.get_network().listeners.values()
        port = find_info(host).addrs[0].value_for_protocol("tcp")
    with trio.fail_after(PATIENCE):
        await (await trio.open_tcp_stream("127.0.0.1", int(port))).aclose()
    await listener.close()


async def test_two_hosts_listen_on_one_port() -> None:
    async with run_host("first") as first:
        port = find_info(first).addrs[0].value_for_protocol("tcp")
        second = make_host("second")
        address = multiaddr.Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")
        async with second.run(listen_addrs=[address]):
            assert second.get_network().listeners


async def test_a_dial_sleeps_its_head_start_even_after_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swarm_module, "_HAPPY_EYEBALLS_DELAY", 0.6)
    async with run_host("first") as first, run_host("second") as second:
        started_at = trio.current_time()
        await second.connect(find_info(first))
        assert trio.current_time() - started_at >= 0.6


async def test_a_failed_dial_blocks_the_peer_until_it_is_unblocked() -> None:
    async with run_host("second") as second:
        second.get_network().retry_config.max_retries = 0
        async with run_host("gone") as gone:
            info = find_info(gone)
        with pytest.raises(SwarmException):
            await second.connect(info)
        with pytest.raises(SwarmException, match="negative cache"):
            await second.connect(info)
        second.get_network().unblock_peer(info.peer_id)
        with pytest.raises(SwarmException, match="unable to connect"):
            await second.connect(info)


async def test_only_the_first_remembered_address_is_dialed() -> None:
    async with run_host("first") as first, run_host("second") as second:
        second.get_network().retry_config.max_retries = 0
        info = find_info(first)
        old = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/1")
        with pytest.raises(SwarmException):
            await second.connect(PeerInfo(info.peer_id, [old, *info.addrs]))
        second.get_network().unblock_peer(info.peer_id)
        second.get_peerstore().clear_addrs(info.peer_id)
        await second.connect(info)


async def test_an_exception_in_any_stream_handler_ends_an_unguarded_host() -> None:
    async def fail(_stream: Any) -> None:
        raise ValueError("a bug in a handler")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with run_host("victim") as victim, run_host("peer") as peer:
            victim.set_stream_handler(PROTOCOL, fail)
            await peer.connect(find_info(victim))
            await peer.new_stream(victim.get_id(), [PROTOCOL])
            await trio.sleep(5)
    assert "a bug in a handler" in {str(leaf) for leaf in find_leaves(caught.value)}


@pytest.mark.parametrize("is_garbage", [True, False])
async def test_one_gossip_message_ends_an_unguarded_host(is_garbage: bool) -> None:
    """Garbage in the stream's handler; a key that is none in a task of the host itself."""
    rpc = rpc_pb2.RPC()
    message = rpc.publish.add(data=b"x", from_id=b"\x12\x20", seqno=b"1", signature=b"s", key=b"k")
    message.topicIDs.append("t")
    body = b"\x0a\xff\xff\xff" if is_garbage else rpc.SerializeToString()
    with pytest.raises(BaseExceptionGroup):
        async with run_host("victim") as victim, run_host("peer") as peer:
            router = GossipSub([PROTOCOL_ID_V11], degree=3, degree_low=2, degree_high=4)
            pubsub = Pubsub(victim, router)
            async with background_trio_service(pubsub), background_trio_service(router):
                await pubsub.subscribe("t")
                await peer.connect(find_info(victim))
                stream = await peer.new_stream(victim.get_id(), [PROTOCOL_ID_V11])
                await stream.write(encode_uvarint(len(body)) + body)
                await trio.sleep(5)


async def test_an_inbound_slot_is_never_given_back() -> None:
    config = ConnectionConfig(
        max_connections=2, min_connections=0, low_watermark=0, high_watermark=2
    )
    async with run_host("hub", connection_config=config) as hub:
        for number in range(2):
            async with run_host(f"guest{number}") as guest:
                await guest.connect(find_info(hub))
            await trio.sleep(0.5)
        assert hub.get_network().get_connections() == []
        assert hub.get_network()._inbound_limiter.available_tokens == 0


async def test_the_auto_connector_ignores_a_low_watermark_of_nothing() -> None:
    config = ConnectionConfig(min_connections=0, low_watermark=0, auto_connect_interval=0.2)
    async with run_host("first") as first, run_host("eager", connection_config=config) as eager:
        info = find_info(first)
        eager.get_peerstore().add_addrs(info.peer_id, info.addrs, 60)
        with trio.move_on_after(5):
            while not eager.get_network().get_connections():
                await trio.sleep(0.05)
        assert eager.get_network().get_connections(), "nobody asked it to dial"
