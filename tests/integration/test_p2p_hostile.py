"""What an anonymous peer may try: after each attack a good peer is still served."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from gpumarket.adapters.p2p import PeerNetwork, open_network
from gpumarket.adapters.session import PeerUnreachable, RawStream, StreamClosed
from gpumarket.protocol.frames import FRAME_VERSION, FrameKind, Hello, encode_frame, encode_hello
from tests.integration.p2p_peer import (
    DEAF,
    ECHO,
    RAW_ECHO,
    TOPIC,
    PeerProcess,
    make_limits,
    start_peer,
)
from tests.patience import PATIENCE

MESHSUB = "/meshsub/1.1.0"
HELLO = encode_hello(Hello(version=FRAME_VERSION, max_frame_bytes=1 << 20))
Attack = Callable[[PeerProcess, PeerNetwork], Awaitable[None]]


@asynccontextmanager
async def open_as(seed: str) -> AsyncIterator[PeerNetwork]:
    """A network of its own, good or bad."""
    async with open_network(
        key_seed=seed.ljust(32).encode(),
        listen_port=0,
        topics=frozenset({TOPIC}),
        limits=make_limits(dial_seconds_max=PATIENCE),
    ) as network:
        yield network


async def write_raw(
    victim: PeerProcess, bad: PeerNetwork, protocol: str, data: bytes
) -> RawStream | None:
    """Open a stream and write; a refusal is as good as an answer."""
    try:
        stream = await bad.open_raw(victim.peer_id, protocol, address=victim.address)
        await stream.write(data)
    except (PeerUnreachable, StreamClosed):
        return None
    return stream


def encode_rpc(rpc: rpc_pb2.RPC) -> bytes:
    """A gossip message as it goes over the wire."""
    body = rpc.SerializeToString()
    return encode_uvarint(len(body)) + body


async def send_garbage_over_tcp(victim: PeerProcess, _bad: PeerNetwork) -> None:
    for _ in range(20):
        stream = await trio.open_tcp_stream("127.0.0.1", victim.port)
        await stream.send_all(os.urandom(5_000))
        await stream.aclose()


async def send_garbage_to_every_protocol(victim: PeerProcess, bad: PeerNetwork) -> None:
    protocols = (
        ECHO,
        RAW_ECHO,
        MESHSUB,
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
    )
    for protocol in protocols:
        for data in (
            os.urandom(300),
            encode_uvarint(1 << 40) + os.urandom(100),
            encode_uvarint(20) + os.urandom(20),
            b"\xff" * 30,
            b"\x00" * 30,
        ):
            stream = await write_raw(victim, bad, protocol, data)
            if stream is not None:
                await stream.reset()


async def send_garbage_protobuf_as_gossip(victim: PeerProcess, bad: PeerNetwork) -> None:
    for body in (os.urandom(50), b"\x0a\xff\xff\xff", b"\x12\x05\x12\x03\xff\xfe\xfd", b""):
        await write_raw(victim, bad, MESHSUB, encode_uvarint(len(body)) + body)


async def send_gossip_with_a_key_that_is_none(victim: PeerProcess, bad: PeerNetwork) -> None:
    # libp2p raises on it outside of the stream's handler, in a task of the host itself.
    for from_id, key in ((b"\x12\x20" + b"x" * 32, b"garbage"), (b"", b""), (b"\x01", b"\xff" * 9)):
        rpc = rpc_pb2.RPC()
        message = rpc.publish.add(data=b"x", from_id=from_id, seqno=b"1", signature=b"s", key=key)
        message.topicIDs.append(TOPIC)
        await write_raw(victim, bad, MESHSUB, encode_rpc(rpc))


async def send_gossip_under_another_name(victim: PeerProcess, bad: PeerNetwork) -> None:
    keys = create_new_key_pair(b"k" * 32)
    rpc = rpc_pb2.RPC()
    message = rpc.publish.add(data=b"forged", seqno=b"1")
    message.from_id = ID.from_base58(victim.peer_id).to_bytes()
    message.topicIDs.append(TOPIC)
    message.signature = keys.private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
    message.key = keys.public_key.serialize()
    await write_raw(victim, bad, MESHSUB, encode_rpc(rpc))


async def send_odd_gossip_control(victim: PeerProcess, bad: PeerNetwork) -> None:
    rpc = rpc_pb2.RPC()
    rpc.control.graft.add().topicID = "nosuch"
    rpc.control.ihave.add().messageIDs.append(b"\xff\xfe")
    rpc.control.iwant.add().messageIDs.append(b"zz")
    rpc.control.prune.add().topicID = TOPIC
    for number in range(1_000):
        rpc.subscriptions.add(subscribe=True, topicid=f"topic{number}")
    for _ in range(3):
        await write_raw(victim, bad, MESHSUB, encode_rpc(rpc))


async def send_frames_that_lie(victim: PeerProcess, bad: PeerNetwork) -> None:
    for data in (
        HELLO + b"\xff\xff\xff\xff\x00" + b"x" * 1_000,
        HELLO + encode_frame(FrameKind.HELLO, b"12345"),
        HELLO + b"\x00\x00\x00\x00\x00",
        HELLO + b"\x00\x00\x00\x01\x09",
        encode_frame(FrameKind.DATA, b"no hello"),
    ):
        stream = await write_raw(victim, bad, ECHO, data)
        assert stream is not None
        with trio.fail_after(PATIENCE), suppress(StreamClosed):
            while await stream.read(65_536):
                pass


async def open_idle_streams(victim: PeerProcess, bad: PeerNetwork) -> None:
    opened = [await write_raw(victim, bad, RAW_ECHO, b"") for _ in range(100)]
    # Its gossip stream counts too.
    assert 50 <= sum(stream is not None for stream in opened) <= 64


async def send_garbage_below_the_streams(victim: PeerProcess, bad: PeerNetwork) -> None:
    await write_raw(victim, bad, ECHO, HELLO)
    node: Any = bad._node
    (connection,) = node._swarm.get_connections()
    await connection.muxed_conn.secured_conn.write(os.urandom(2_000))


@pytest.mark.parametrize(
    "attack",
    [
        send_garbage_over_tcp,
        send_garbage_to_every_protocol,
        send_garbage_protobuf_as_gossip,
        send_gossip_with_a_key_that_is_none,
        send_gossip_under_another_name,
        send_odd_gossip_control,
        send_frames_that_lie,
        open_idle_streams,
        send_garbage_below_the_streams,
    ],
)
async def test_the_host_and_its_good_peers_survive(attack: Attack) -> None:
    async with start_peer("victim", hello_seconds_max=2.0) as victim, open_as("good") as good:
        session = await good.dial(victim.address, ECHO)
        async with open_as("bad") as bad:
            await attack(victim, bad)
            await trio.sleep(0.5)
        # The session from before shows that no new host was started behind it.
        with trio.fail_after(PATIENCE):
            await session.send(b"still there")
            assert await session.receive() == b"still there"
        async with open_as("new") as new:
            fresh = await new.dial(victim.address, ECHO)
            await fresh.send(b"hello")
            assert await fresh.receive() == b"hello"


async def test_a_frame_that_lies_ends_only_its_own_session() -> None:
    async with start_peer("victim") as victim, open_as("both") as both:
        session = await both.dial(victim.address, ECHO)
        await send_frames_that_lie(victim, both)
        with trio.fail_after(PATIENCE):
            await session.send(b"still there")
            assert await session.receive() == b"still there"


async def test_silent_connections_of_one_ip_do_not_keep_new_peers_out() -> None:
    async with start_peer("victim", connections_max=64) as victim, AsyncExitStack() as silent:
        for _ in range(200):
            socket = silent.enter_context(trio.socket.socket())
            # Another address than the one that the good peer comes from.
            await socket.bind(("127.0.0.2", 0))
            await socket.connect(("127.0.0.1", victim.port))
        async with open_as("new") as new:
            with trio.fail_after(PATIENCE):
                session = await new.dial(victim.address, ECHO)
                await session.send(b"hello")
                assert await session.receive() == b"hello"


async def test_a_peer_that_ignores_its_window_is_dropped() -> None:
    async with (
        start_peer("victim", buffered_bytes_per_connection_max=4 << 20) as victim,
        open_as("bad") as bad,
        open_as("good") as good,
    ):
        session = await good.dial(victim.address, ECHO)
        before = victim.measure_memory()
        stream: Any = await bad.open_raw(victim.peer_id, DEAF, address=victim.address)
        await stream.write(HELLO)
        muxed = stream._stream.muxed_stream
        sent = 0
        with trio.fail_after(PATIENCE), suppress(StreamClosed):
            while sent < 1 << 30:
                muxed.send_window = 1 << 20
                await stream.write(encode_frame(FrameKind.DATA, b"x" * 500_000))
                sent += 500_000
        assert sent < 100 << 20
        assert victim.measure_memory() - before < 60 << 20
        with trio.fail_after(PATIENCE):
            await session.send(b"still there")
            assert await session.receive() == b"still there"


async def test_only_noise_and_yamux_are_offered() -> None:
    async with start_peer("victim") as victim:
        for protocol in ("/plaintext/2.0.0", "/tls/1.0.0", "/secio/1.0.0", "/yamux/1.0.0"):
            assert await ask_for(victim, protocol) == "na"
        assert await ask_for(victim, "/noise") == "/noise"


async def ask_for(victim: PeerProcess, protocol: str) -> str:
    """What a bare TCP connection is answered when it asks for a security protocol."""
    async with await trio.open_tcp_stream("127.0.0.1", victim.port) as stream:
        for line in ("/multistream/1.0.0", protocol):
            await stream.send_all(encode_uvarint(len(line) + 1) + line.encode() + b"\n")
        answer = b""
        with trio.fail_after(PATIENCE):
            while answer.count(b"\n") < 2:
                answer += await stream.receive_some(1_000)
        return answer.split(b"\n")[1][1:].decode()
