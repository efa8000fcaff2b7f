"""A peer that lies, floods or stalls, over real libp2p, against one honest node of ours."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from gpumarket.adapters.bitswap import PROTOCOLS
from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.p2p import PeerNetwork, open_network
from gpumarket.adapters.peer_link import MessageReader
from gpumarket.adapters.session import RawStream, StreamClosed
from gpumarket.protocol.bitswap import (
    MESSAGE_BYTES_MAX,
    BitswapMessage,
    Presence,
    Want,
    decode_message_untrusted,
    encode_message,
)
from gpumarket.protocol.cids import Codec, ContentId, compute_cid, format_cid
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.unixfs import Block, build_file
from gpumarket.protocol.varint import encode_bytes_field, encode_varint
from tests.patience import PATIENCE

MB = 10**6
DATA = hashlib.shake_256(b"hostile").digest(3 * MB)
BLOCKS = list(build_file([DATA]))
STORE = {block.cid.digest: block.data for block in BLOCKS}
ROOT = format_cid(BLOCKS[-1].cid)

Answer = Callable[[BitswapMessage], list[bytes]]


def answer_honestly(message: BitswapMessage) -> list[bytes]:
    """What any Bitswap peer with all blocks answers."""
    replies = []
    for want in message.wants:
        if want.is_have_only:
            replies.append(encode_message(presences=[Presence(want.cid, has=True)]))
        elif not want.is_cancel:
            replies.append(encode_message(blocks=[Block(want.cid, STORE[want.cid.digest])]))
    return replies


def flip(data: bytes) -> bytes:
    return data[:100] + bytes((data[100] ^ 1,)) + data[101:]


class Liar:
    """Answers as told, from the `honest_answers`-th message on; remembers what it was sent."""

    def __init__(self, network: PeerNetwork, answer: Answer) -> None:
        self.network = network
        self.asked: list[ContentId] = []
        self._answer = answer
        for protocol in PROTOCOLS:
            network.serve_raw(protocol, self._receive)

    async def _receive(self, stream: RawStream) -> None:
        reader = MessageReader(stream)
        try:
            answers = await self.network.open_raw(stream.remote_peer_id, PROTOCOLS[0])
            while (body := await reader.read(MESSAGE_BYTES_MAX)) is not None:
                message = decode_message_untrusted(body)
                self.asked += [want.cid for want in message.wants if not want.is_have_only]
                for reply in self._answer(message):
                    await answers.write(reply)
        except StreamClosed:
            await stream.reset()


@asynccontextmanager
async def run_liar(answer: Answer) -> AsyncIterator[Liar]:
    async with open_network(key_seed=b"L" * 32, listen_port=0) as network:
        yield Liar(network, answer)


@asynccontextmanager
async def run_node(folder: Path) -> AsyncIterator[tuple[EmbeddedNode, str]]:
    seed = hashlib.sha256(str(folder).encode()).digest()
    async with (
        open_network(key_seed=seed, listen_port=0) as network,
        open_node(network, folder, quota_bytes=2**28) as node,
    ):
        yield node, network.addresses[0]


class Flipper:
    """Honest for some blocks, then flips one bit in each."""

    def __init__(self, honest_blocks: int) -> None:
        self._honest_left = honest_blocks

    def __call__(self, message: BitswapMessage) -> list[bytes]:
        replies = []
        for want in message.wants:
            if want.is_have_only or want.is_cancel:
                replies += answer_honestly(BitswapMessage(wants=(want,)))
                continue
            self._honest_left -= 1
            data = STORE[want.cid.digest]
            sent = data if self._honest_left >= 0 else flip(data)
            replies.append(encode_message(blocks=[Block(want.cid, sent)]))
        return replies


async def test_one_flipped_bit_is_found_at_its_block_and_the_peer_is_refused(
    tmp_path: Path,
) -> None:
    async with run_liar(Flipper(4)) as liar, run_node(tmp_path / "n") as (node, _):
        address = liar.network.addresses[0]
        with pytest.raises(ContentError) as caught:
            await node.fetch(ROOT, sources=[address], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert caught.value.code == "GM-6014"
        assert liar.network.peer_id in caught.value.why
        stat = await node.stat(ROOT)
        assert stat.block_count == 4, "what came before the lie is kept, the lie is not"


async def test_the_other_peer_is_used_when_one_lies(tmp_path: Path) -> None:
    async with (
        run_liar(Flipper(2)) as liar,
        run_node(tmp_path / "honest") as (honest, good),
        run_node(tmp_path / "n") as (node, _),
    ):
        assert await honest.add_bytes(DATA) == ROOT
        bad = liar.network.addresses[0]
        await node.fetch(ROOT, sources=[bad, good], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert await node.read_bytes(ROOT) == DATA


def send_garbage(_: BitswapMessage) -> list[bytes]:
    return [encode_varint(40) + bytes(range(200, 240))]


def send_oversized(_: BitswapMessage) -> list[bytes]:
    return [encode_varint(MESSAGE_BYTES_MAX + 1) + bytes(1000)]


def send_huge_block(message: BitswapMessage) -> list[bytes]:
    block = bytes(3 * 2**20)
    body = encode_bytes_field(3, encode_bytes_field(1, b"\x01\x55\x12\x20"))
    body = encode_bytes_field(
        3, encode_bytes_field(1, b"\x01\x55\x12\x20") + encode_bytes_field(2, block)
    )
    return [*answer_honestly(message), encode_varint(len(body)) + body]


def send_unwanted(message: BitswapMessage) -> list[bytes]:
    unwanted = Block(compute_cid(b"not asked for", Codec.RAW), b"not asked for")
    return [*answer_honestly(message), encode_message(blocks=[unwanted])]


@pytest.mark.parametrize("answer", [send_garbage, send_oversized, send_huge_block, send_unwanted])
async def test_a_peer_that_breaks_the_protocol_is_refused_and_the_node_lives(
    answer: Answer, tmp_path: Path
) -> None:
    async with (
        run_liar(answer) as liar,
        run_node(tmp_path / "honest") as (honest, good),
        run_node(tmp_path / "n") as (node, _),
    ):
        bad = liar.network.addresses[0]
        with pytest.raises(ContentError) as caught:
            await node.fetch(ROOT, sources=[bad], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert caught.value.code == "GM-6014"
        await honest.add_bytes(DATA)
        await node.fetch(ROOT, sources=[bad, good], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert await node.read_bytes(ROOT) == DATA
        assert node.measure_store().used_bytes < 3.1 * MB, "nothing unwanted was stored"


async def test_blocks_that_nobody_asked_for_are_not_stored(tmp_path: Path) -> None:
    async with (
        open_network(key_seed=b"P" * 32, listen_port=0) as pusher,
        run_node(tmp_path / "n") as (node, address),
    ):
        peer_id = address.rpartition("/")[2]
        stream = await pusher.open_raw(peer_id, PROTOCOLS[0], address=address)
        with trio.fail_after(PATIENCE), pytest.raises(StreamClosed):
            while True:
                await stream.write(encode_message(blocks=BLOCKS[:1]))
                await trio.sleep(0.01)
        assert node.measure_store().used_bytes == 0


async def test_a_peer_that_promises_and_sends_nothing_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumarket.adapters.fetching.STALL_S", 1.0)

    def promise(message: BitswapMessage) -> list[bytes]:
        return [
            reply
            for want in message.wants
            if want.is_have_only
            for reply in answer_honestly(BitswapMessage(wants=(want,)))
        ]

    async with (
        run_liar(promise) as liar,
        run_node(tmp_path / "honest") as (honest, good),
        run_node(tmp_path / "n") as (node, _),
    ):
        await honest.add_bytes(DATA)
        bad = liar.network.addresses[0]
        await node.fetch(ROOT, sources=[bad, good], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert liar.asked
        assert await node.read_bytes(ROOT) == DATA


async def test_a_peer_that_answers_have_with_the_small_block_itself_is_understood(
    tmp_path: Path,
) -> None:
    # Kubo does so for blocks up to 1 KiB.
    def answer(message: BitswapMessage) -> list[bytes]:
        wants = [want for want in message.wants if not want.is_cancel]
        return [encode_message(blocks=[Block(want.cid, STORE[want.cid.digest])]) for want in wants]

    async with run_liar(answer) as peer, run_node(tmp_path / "n") as (node, _):
        address = peer.network.addresses[0]
        await node.fetch(ROOT, sources=[address], deadline_s=PATIENCE, max_bytes=4 * MB)
        assert await node.read_bytes(ROOT) == DATA


async def test_a_want_list_without_end_costs_a_bounded_ledger(tmp_path: Path) -> None:
    async with (
        open_network(key_seed=b"P" * 32, listen_port=0) as asker,
        run_node(tmp_path / "n") as (node, address),
    ):
        peer_id = address.rpartition("/")[2]
        stream = await asker.open_raw(peer_id, PROTOCOLS[0], address=address)
        for round_number in range(4):
            wants = [
                Want(
                    ContentId(
                        Codec.RAW, hashlib.sha256(bytes((round_number, i % 256, i >> 8))).digest()
                    )
                )
                for i in range(2_000)
            ]
            await stream.write(encode_message(wants=wants))
        # The node still answers somebody else, and remembers at most 1,024 wants of this one.
        cid = await node.add_bytes(DATA)
        async with run_node(tmp_path / "other") as (other, _):
            await other.fetch(cid, sources=[address], deadline_s=PATIENCE, max_bytes=4 * MB)
        link = node._bitswap._links[asker.peer_id]
        assert 0 < len(link.waiting) <= 1_024
        await stream.reset()


async def test_an_answer_larger_than_was_asked_for_is_cut_off_by_its_length(
    tmp_path: Path,
) -> None:
    async with (
        open_network(key_seed=b"P" * 32, listen_port=0) as pusher,
        run_node(tmp_path / "n") as (_, address),
    ):
        peer_id = address.rpartition("/")[2]
        stream = await pusher.open_raw(peer_id, PROTOCOLS[0], address=address)
        await stream.write(encode_varint(MESSAGE_BYTES_MAX))
        with trio.fail_after(PATIENCE):
            await expect_end(stream.read)


async def expect_end(read: Callable[[int], Awaitable[bytes]]) -> None:
    with suppress(StreamClosed):
        assert await read(1) == b""
