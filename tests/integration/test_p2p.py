"""Sessions between two real processes: exchange, refusal, freezing, death and return."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from gpumarket.adapters.p2p import PeerNetwork, open_network
from gpumarket.adapters.port_claim import claim_folder, claim_port
from gpumarket.adapters.reconnect import Backoff, keep_session
from gpumarket.adapters.session import (
    EndedBy,
    PeerUnreachable,
    RawStream,
    Session,
    SessionClosed,
    StreamClosed,
)
from gpumarket.protocol.errors import InvalidInput
from tests.integration.p2p_peer import (
    DEAF,
    ECHO,
    RAISE,
    RAW_ECHO,
    ROOT,
    TOPIC,
    make_limits,
    start_peer,
)
from tests.patience import PATIENCE

_seeds: Iterator[int] = itertools.count()


@asynccontextmanager
async def open_ours(port: int = 0, **limits: Any) -> AsyncIterator[PeerNetwork]:
    """This process's network, under a fresh key."""
    async with open_network(
        key_seed=f"ours{next(_seeds)}".ljust(32).encode(),
        listen_port=port,
        topics=frozenset({TOPIC}),
        limits=make_limits(**limits),
    ) as network:
        yield network


async def check_echo(session: Session, message: bytes = b"hello") -> None:
    """The session works in both directions."""
    with trio.fail_after(PATIENCE):
        await session.send(message)
        assert await session.receive() == message


async def test_two_processes_exchange_messages_of_any_length() -> None:
    async with start_peer() as peer, open_ours() as network:
        session = await network.dial(peer.address, ECHO)
        assert session.remote_peer_id == peer.peer_id
        for size in (0, 1, 65_535, 65_536, 1 << 20):
            await check_echo(session, b"x" * size)
        await session.aclose()
        assert session.ended_by is EndedBy.US
        assert await peer.read_line() == {"ended": "EndedBy.PEER"}


async def test_messages_sent_before_a_close_arrive() -> None:
    received: list[bytes] = []
    done = trio.Event()

    async def collect(session: Session) -> None:
        try:
            while True:
                received.append(await session.receive())
        finally:
            done.set()

    async with open_ours() as ours, open_ours() as theirs:
        ours.serve(ECHO, collect)
        session = await theirs.dial(ours.addresses[0], ECHO)
        for number in range(200):
            await session.send(b"%d" % number)
        await session.aclose()
        with trio.fail_after(PATIENCE):
            await done.wait()
    assert received == [b"%d" % number for number in range(200)]


async def test_a_message_longer_than_the_peer_accepts_is_refused_before_it_is_sent() -> None:
    async with start_peer(max_frame_bytes=1_000) as peer, open_ours() as network:
        session = await network.dial(peer.address, ECHO)
        with pytest.raises(InvalidInput, match="longer than the peer accepts"):
            await session.send(b"x" * 1_001)
        await check_echo(session, b"x" * 1_000)


async def test_a_handler_that_raises_ends_its_session_only() -> None:
    async with start_peer() as peer, open_ours() as network:
        good = await network.dial(peer.address, ECHO)
        for _ in range(3):
            bad = await network.dial(peer.address, RAISE)
            await bad.send(b"go")
            with trio.fail_after(PATIENCE), pytest.raises(SessionClosed):
                await bad.receive()
        await check_echo(good)


async def test_a_frozen_peer_is_dropped_after_three_missed_heartbeats() -> None:
    async with start_peer() as peer, open_ours(heartbeat_seconds=0.6) as network:
        session = await network.dial(peer.address, ECHO)
        await check_echo(session)
        peer.freeze()
        frozen_at = trio.current_time()
        with trio.fail_after(PATIENCE), pytest.raises(SessionClosed, match="over") as caught:
            await session.receive()
        assert caught.value.code == "GM-8104"
        assert trio.current_time() - frozen_at >= 1.2
        assert session.ended_by is EndedBy.NO_LIFE
        with trio.fail_after(PATIENCE):
            await session.wait_closed()
        assert peer.peer_id not in network.find_connected_peers()


async def test_a_frozen_peer_with_a_full_pipe_is_dropped_too() -> None:
    async with start_peer() as peer, open_ours(heartbeat_seconds=1.0) as network:
        session = await network.dial(peer.address, ECHO)
        streams = [await network.open_raw(peer.peer_id, RAW_ECHO) for _ in range(60)]
        peer.freeze()

        async def fill(stream: RawStream) -> None:
            # Within the first window of each stream: only the pipe itself can hold it up.
            with suppress(StreamClosed):
                await stream.write(b"x" * 250_000)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(fill, stream)
                await session.wait_closed()
        assert session.ended_by is EndedBy.NO_LIFE
        assert peer.peer_id not in network.find_connected_peers()


async def test_a_quiet_session_lives_on_and_knows_its_round_trip() -> None:
    async with (
        start_peer(heartbeat_seconds=0.5) as peer,
        open_ours(heartbeat_seconds=0.5) as network,
    ):
        session = await network.dial(peer.address, ECHO)
        await trio.sleep(2.5)  # five heartbeats; three that are missed would end it
        await check_echo(session)
        assert session.round_trip_seconds is not None
        assert 0 < session.round_trip_seconds < PATIENCE


async def test_a_killed_peer_is_noticed_within_seconds() -> None:
    async with start_peer() as peer, open_ours() as network:
        session = await network.dial(peer.address, ECHO)
        await peer.kill()
        with trio.fail_after(PATIENCE), pytest.raises(SessionClosed):
            await session.receive()
        assert session.ended_by in {EndedBy.BROKEN, EndedBy.PEER}


async def test_a_peer_that_comes_back_is_reached_at_once() -> None:
    async with open_ours() as network:
        async with start_peer("back") as peer:
            await check_echo(await network.dial(peer.address, ECHO))
        await wait_until(lambda: not network.find_connected_peers())
        # This failure is what libp2p remembers for 60 s.
        with pytest.raises(PeerUnreachable):
            await network.dial(peer.address, ECHO)
        async with start_peer("back", port=peer.port) as again:
            assert again.address == peer.address
            with trio.fail_after(PATIENCE):
                await check_echo(await network.dial(peer.address, ECHO))


async def test_a_peer_that_moved_is_reached_at_its_new_port() -> None:
    async with open_ours() as network:
        async with start_peer("moving") as peer:
            await check_echo(await network.dial(peer.address, ECHO))
        async with start_peer("moving") as moved:
            assert moved.address != peer.address
            with trio.fail_after(PATIENCE):
                await check_echo(await network.dial(moved.address, ECHO))


async def test_a_dial_says_why_it_failed() -> None:
    async with start_peer() as peer, open_ours(dial_seconds_max=1.0) as network:
        with pytest.raises(PeerUnreachable):
            await network.dial(peer.address, "/gpumarket/unknown/1")
        with pytest.raises(InvalidInput):
            await network.dial("/ip4/127.0.0.1/tcp/1", ECHO)
        with pytest.raises(InvalidInput):
            await network.dial("no address", ECHO)
        other = "12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"
        with pytest.raises(PeerUnreachable, match="cannot be reached"):
            await network.dial(peer.address.replace(peer.peer_id, other), ECHO)
        peer.freeze()
        with trio.fail_after(PATIENCE), pytest.raises(PeerUnreachable) as caught:
            await network.dial(peer.address, ECHO)
        assert "no answer" in caught.value.why


async def test_a_refused_protocol_leaves_other_sessions_alone() -> None:
    async with start_peer() as peer, open_ours() as network:
        session = await network.dial(peer.address, ECHO)
        with pytest.raises(PeerUnreachable):
            await network.dial(peer.address, "/gpumarket/unknown/1")
        await check_echo(session)


async def test_a_sender_to_a_peer_that_never_reads_is_held_back_and_then_told() -> None:
    limits: dict[str, Any] = {
        "outbox_bytes_max": 200_000,
        "inbox_bytes_max": 200_000,
        "stream_window_bytes_max": 500_000,
    }
    async with start_peer(**limits) as peer, open_ours(**limits) as network:
        session = await network.dial(peer.address, DEAF)
        sent = 0
        with trio.fail_after(PATIENCE), suppress(SessionClosed):
            while True:
                await session.send(b"x" * 50_000)
                sent += 50_000
        # The two queues, twice the window and one batch on its way: no more than that.
        assert 256 << 10 <= sent < 2_000_000
        await check_echo(await network.dial(peer.address, ECHO))


async def test_a_peer_above_its_rate_is_slowed_down_and_not_dropped() -> None:
    async with start_peer(frames_per_second=50, frames_burst=10) as peer, open_ours() as network:
        session = await network.dial(peer.address, ECHO)
        started_at = trio.current_time()
        for _ in range(60):
            await session.send(b"x")
        for _ in range(60):
            assert await session.receive() == b"x"
        assert trio.current_time() - started_at > 0.8


async def test_a_peer_has_a_limited_number_of_sessions() -> None:
    async with start_peer(sessions_per_peer_max=2) as peer, open_ours() as network:
        sessions = [await network.dial(peer.address, ECHO) for _ in range(2)]
        with pytest.raises(PeerUnreachable):
            await network.dial(peer.address, ECHO)
        await sessions[0].aclose()
        await peer.read_line()
        await check_echo(await network.dial(peer.address, ECHO))
        await check_echo(sessions[1])


async def test_connection_slots_are_given_back() -> None:
    async with start_peer(connections_max=4) as peer:
        for _ in range(8):
            async with open_ours() as network:
                await check_echo(await dial_once_there_is_room(network, peer.address))


async def dial_once_there_is_room(network: PeerNetwork, address: str) -> Session:
    """A slot is free again when the other process has closed the connection, a moment later."""
    with trio.fail_after(PATIENCE):
        while True:
            with suppress(PeerUnreachable):
                return await network.dial(address, ECHO)
            await trio.sleep(0.1)


async def test_a_dialer_beyond_the_connection_limit_is_told() -> None:
    async with start_peer(connections_max=1) as peer, open_ours() as first:
        await check_echo(await first.dial(peer.address, ECHO))
        async with open_ours(dial_seconds_max=3.0) as second:
            with pytest.raises(PeerUnreachable):
                await second.dial(peer.address, ECHO)


async def test_a_raw_stream_carries_bytes_both_ways() -> None:
    async with start_peer() as peer, open_ours() as network:
        stream = await network.open_raw(peer.peer_id, RAW_ECHO, address=peer.address)
        data = bytes(range(256)) * 400
        await stream.write(data)
        await stream.close()
        echoed = b""
        with trio.fail_after(PATIENCE):
            while piece := await stream.read(10_000):
                echoed += piece
        assert echoed == data
        with pytest.raises(PeerUnreachable):
            await network.open_raw(peer.peer_id, "/gpumarket/unknown/1")


async def test_a_kept_session_is_dialed_again_until_cancelled() -> None:
    talks: list[str] = []

    async def talk(session: Session) -> None:
        await check_echo(session)
        talks.append(session.remote_peer_id)
        await session.wait_closed()

    async with open_ours() as network, start_peer("kept") as peer:
        async with trio.open_nursery() as nursery:

            async def keep() -> None:
                await keep_session(
                    network,
                    peer.address,
                    ECHO,
                    on_session=talk,
                    draw_jitter=lambda: 0.0,
                    backoff=Backoff(first_seconds=0.1, seconds_max=0.4),
                )

            nursery.start_soon(keep)
            await wait_until(lambda: len(talks) == 1)
            await peer.kill()
            await trio.sleep(1)
            async with start_peer("kept", port=peer.port):
                await wait_until(lambda: len(talks) == 2)
                nursery.cancel_scope.cancel()
    assert talks == [peer.peer_id, peer.peer_id]


def test_the_wait_between_dials_grows_to_its_bound_and_is_spread() -> None:
    backoff = Backoff(first_seconds=1.0, factor=2.0, seconds_max=10.0)
    assert [backoff.compute_wait(n, 1.0) for n in range(5)] == [1.0, 2.0, 4.0, 8.0, 10.0]
    assert backoff.compute_wait(100_000, 0.0) == 5.0


async def test_a_dead_host_is_replaced_with_its_handlers_and_address() -> None:
    async def echo(session: Session) -> None:
        while True:
            await session.send(await session.receive())

    async with (
        open_ours(restart_pause_seconds=0.1, gossip_reminder_seconds=0.5) as ours,
        open_ours() as theirs,
    ):
        ours.serve(ECHO, echo)
        inbox = await ours.subscribe(TOPIC, lambda *_: True)
        session = await theirs.dial(ours.addresses[0], ECHO)
        address = ours.addresses[0]
        old = kill_host(ours)
        with trio.fail_after(PATIENCE), pytest.raises(SessionClosed):
            await session.receive()
        await wait_replaced(ours, old)
        assert ours.addresses[0] == address
        await check_echo(await theirs.dial(address, ECHO))
        await theirs.subscribe(TOPIC, lambda *_: True)
        with trio.fail_after(PATIENCE):
            while True:
                await theirs.publish(TOPIC, b"again")
                with trio.move_on_after(0.5):
                    assert await inbox.receive() == (theirs.peer_id, b"again")
                    break


async def test_a_dead_host_leaves_no_listener_behind() -> None:
    async with open_ours(restart_pause_seconds=0.1) as ours:
        port = int(ours.addresses[0].split("/tcp/")[1].split("/")[0])
        await wait_replaced(ours, kill_host(ours))
        assert count_listeners(port) == 1
    assert count_listeners(port) == 0


def count_listeners(port: int) -> int:
    """Sockets that listen on a TCP port of this machine, as the kernel lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


async def test_a_host_that_dies_again_and_again_is_given_up() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="again and again")):
        async with open_ours(restart_pause_seconds=0.1, restarts_max=1) as ours:
            for _ in range(2):
                await wait_replaced(ours, kill_host(ours))


async def test_a_second_host_on_a_port_is_refused() -> None:
    async with open_ours() as first:
        port = int(first.addresses[0].split("/tcp/")[1].split("/")[0])
        with pytest.raises(InvalidInput, match="not free") as caught:
            async with open_ours(port=port):
                raise AssertionError("it started")
        assert caught.value.code == "GM-8101"


def test_a_claim_on_a_port_is_seen_by_other_processes(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from gpumarket.adapters.port_claim import claim_folder, claim_port\n"
        "from gpumarket.protocol.errors import InvalidInput\n"
        "for claim in (lambda: claim_port('127.0.0.1', 47391),\n"
        "              lambda: claim_folder(pathlib.Path(sys.argv[1]))):\n"
        "    try:\n"
        "        with claim(): print('free')\n"
        "    except InvalidInput as error: print(error.code)\n"
    )

    def ask() -> list[str]:
        command = [sys.executable, "-c", program, str(tmp_path / "data")]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout.split()

    with claim_port("127.0.0.1", 47391), claim_folder(tmp_path / "data"):
        assert ask() == ["GM-8101", "GM-8101"]
    assert ask() == ["free", "free"]


async def wait_until(is_true: Any, seconds_max: float = PATIENCE) -> None:
    """Wait for a condition that another task brings about."""
    with trio.fail_after(seconds_max):
        while not is_true():
            await trio.sleep(0.02)


async def wait_replaced(network: PeerNetwork, old: Any) -> None:
    """Wait for the host after one that was killed, until it is in all its topics again."""

    def is_whole() -> bool:
        node: Any = network._node
        topics = set(network._subscriptions)
        return node not in (None, old) and topics <= set(node._pubsub.topic_ids)

    await wait_until(is_whole)


def kill_host(network: PeerNetwork) -> Any:
    """End the libp2p host as a bug in one of its tasks would; return it."""

    async def fail() -> None:
        raise RuntimeError("a bug in libp2p")

    node: Any = network._node
    node._swarm.manager.run_task(fail)
    return node
