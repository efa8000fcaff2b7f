"""Whatever bytes arrive, decoders give a value or RemoteProtocolError; what we write reads back."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol import unixfs
from gpumarket.protocol.bitswap import (
    Presence,
    Want,
    decode_message_untrusted,
    encode_message,
)
from gpumarket.protocol.car import CarDecoder, decode_car_untrusted, encode_car
from gpumarket.protocol.cids import (
    Codec,
    ContentId,
    compute_cid,
    decode_cid_bytes_untrusted,
    decode_cid_untrusted,
    format_cid,
)
from gpumarket.protocol.dagpb import Link, decode_node_untrusted, encode_node
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.unixfs import (
    KUBO_V0,
    KUBO_V1,
    Block,
    Layout,
    build_directory,
    build_file,
    decode_unixfs_untrusted,
    read_file,
    walk_blocks,
)
from gpumarket.protocol.varint import VARINT_MAX, decode_varint_untrusted, encode_varint

cids = st.builds(
    ContentId, st.sampled_from(list(Codec)), st.binary(min_size=32, max_size=32), st.just(1)
) | st.builds(ContentId, st.just(Codec.DAG_PB), st.binary(min_size=32, max_size=32), st.just(0))
blocks = st.binary(max_size=200).map(lambda data: Block(compute_cid(data, Codec.RAW), data))
names = st.text(min_size=1, max_size=20).filter(unixfs.is_plain_name)
wants = st.builds(
    Want, cids, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**31 - 1)
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def mutate(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for place, value in edits:
        if value == 256 and out:
            del out[place % len(out)]
        elif out:
            out[place % len(out)] = value % 256
    return bytes(out)


edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 256)), min_size=1, max_size=4)


@given(st.integers(0, VARINT_MAX))
def test_a_varint_reads_back(value: int) -> None:
    data = encode_varint(value)
    assert decode_varint_untrusted(data, 0) == (value, len(data))


@given(cids)
def test_a_cid_reads_back_from_text_and_bytes(cid: ContentId) -> None:
    assert decode_cid_untrusted(format_cid(cid)) == cid
    assert decode_cid_bytes_untrusted(bytes(cid)) == cid


@given(
    st.integers(0, 3_000),
    st.lists(st.integers(0, 2**20), max_size=6),
    st.sampled_from([KUBO_V0, KUBO_V1]),
)
def test_a_file_reads_back_however_it_was_cut(size: int, places: list[int], layout: Layout) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Small chunks and narrow nodes: a few kilobytes make a graph many levels deep.
        patch.setattr(unixfs, "CHUNK_BYTES", 16)
        patch.setattr(unixfs, "LINKS_PER_NODE", 3)
        data = bytes(i * 7 % 251 for i in range(size))
        whole = list(build_file([data], layout))
        store = {block.cid: block.data for block in whole}
        root = whole[-1].cid
        assert [block.cid for block in build_file(cut(data, places), layout)] == [
            block.cid for block in whole
        ]
        assert b"".join(read_file(root, store.__getitem__)) == data
        assert set(walk_blocks(root, store.__getitem__)) == set(store)
        assert decode_unixfs_untrusted(root, store[root]).file_bytes == size


@given(st.dictionaries(names, st.binary(max_size=50), max_size=12))
def test_a_directory_reads_back_in_one_order(files: dict[str, bytes]) -> None:
    entries = {}
    for name, data in files.items():
        builder = unixfs.FileBuilder()
        assert [*builder.add(data), *builder.finish()]
        entries[name] = builder.root
    block, _ = build_directory(entries)
    again, _ = build_directory(dict(reversed(entries.items())))
    assert block == again
    node = decode_unixfs_untrusted(block.cid, block.data)
    assert {link.name: link.cid for link in node.links} == {n: e.cid for n, e in entries.items()}


@given(st.lists(blocks, max_size=8), st.lists(st.integers(0, 2**16), max_size=8))
def test_a_car_reads_back_however_it_arrives(content: list[Block], places: list[int]) -> None:
    roots = [block.cid for block in content[:2]]
    data = b"".join(encode_car(roots, content))
    assert list(decode_car_untrusted(cut(data, places), bytes_max=10**6, roots=roots)) == content
    if content:
        with pytest.raises(RemoteProtocolError):
            list(decode_car_untrusted([data[:-1]], bytes_max=10**6))


@given(st.lists(wants, max_size=5), st.lists(blocks, max_size=3), st.lists(cids, max_size=3))
def test_a_bitswap_message_reads_back(
    asked: list[Want], sent: list[Block], known: list[ContentId]
) -> None:
    presences = [Presence(cid, has=index % 2 == 0) for index, cid in enumerate(known)]
    data = encode_message(wants=asked, blocks=sent, presences=presences)
    _, start = decode_varint_untrusted(data, 0)
    message = decode_message_untrusted(data[start:])
    assert message.wants == tuple(asked)
    assert message.blocks == tuple(block.data for block in sent)
    assert message.presences == tuple(presences)


FILE = list(build_file([bytes(600_000)]))[-1]
DIRECTORY = build_directory({"a": unixfs.Entry(FILE.cid, 1, 2), "b": unixfs.Entry(FILE.cid, 3, 4)})[
    0
]
MESSAGE = encode_message(
    wants=[Want(FILE.cid, wants_refusal=True)], blocks=[FILE], presences=[Presence(FILE.cid, True)]
)[2:]
CAR = b"".join(encode_car([FILE.cid], [FILE, DIRECTORY]))


def decode_all_of_car(data: bytes) -> list[Block]:
    return list(decode_car_untrusted([data[:50], data[50:]], bytes_max=10**6))


def decode_as_text(data: bytes) -> ContentId:
    return decode_cid_untrusted(data.decode("latin1"))


def decode_as_unixfs(data: bytes) -> object:
    return decode_unixfs_untrusted(ContentId(Codec.DAG_PB, bytes(32)), data)


def decode_as_car_stream(data: bytes) -> object:
    decoder = CarDecoder(bytes_max=10**6)
    found = [block for byte in data for block in decoder.feed_untrusted(bytes((byte,)))]
    decoder.finish_untrusted()
    return found


DECODERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (decode_as_text, format_cid(FILE.cid).encode()),
    (decode_as_text, format_cid(ContentId(Codec.DAG_PB, FILE.cid.digest, 0)).encode()),
    (decode_cid_bytes_untrusted, bytes(FILE.cid)),
    (decode_node_untrusted, encode_node([Link(FILE.cid, "name", 5)], b"data")),
    (decode_as_unixfs, FILE.data),
    (decode_as_unixfs, DIRECTORY.data),
    (decode_message_untrusted, MESSAGE),
    (decode_all_of_car, CAR),
    (decode_as_car_stream, CAR),
]


@pytest.mark.parametrize(("decode", "valid"), DECODERS)
def test_hostile_bytes_give_a_value_or_a_remote_protocol_error(
    decode: Callable[[bytes], object], valid: bytes
) -> None:
    accepted = refused = 0

    def attempt(data: bytes) -> None:
        nonlocal accepted, refused
        try:
            decode(data)
            accepted += 1
        except RemoteProtocolError:
            refused += 1

    @given(st.binary(max_size=300))
    def try_random(data: bytes) -> None:
        attempt(data)

    @given(edits)
    def try_mutated(changes: list[tuple[int, int]]) -> None:
        attempt(mutate(valid, changes))

    decode(valid)
    try_random()
    try_mutated()
    for length in range(len(valid)):
        attempt(valid[:length])
    assert refused > 0
    # A mutated archive or CID text almost never names its own bytes again; the others often do.
    if decode in (decode_cid_bytes_untrusted, decode_node_untrusted, decode_message_untrusted):
        assert accepted > 0


@given(st.binary(max_size=300))
def test_a_node_that_is_accepted_has_one_spelling_of_its_links(data: bytes) -> None:
    try:
        node = decode_node_untrusted(data)
    except RemoteProtocolError:
        return
    again = decode_node_untrusted(encode_node(node.links, node.data))
    assert again == node
