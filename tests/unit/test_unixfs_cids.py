"""Our CIDs are those of an independent implementation, and hostile graphs are refused."""

import hashlib
import json
from pathlib import Path

import pytest

from gpumarket.protocol.cids import (
    Codec,
    ContentId,
    compute_cid,
    decode_cid_bytes_untrusted,
    decode_cid_untrusted,
    format_cid,
    parse_cid,
)
from gpumarket.protocol.dagpb import Link, decode_node_untrusted, encode_node
from gpumarket.protocol.errors import InvalidInput, LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.unixfs import (
    KUBO_V0,
    Block,
    Entry,
    FileBuilder,
    FileKind,
    build_directory,
    build_file,
    decode_unixfs_untrusted,
    is_plain_name,
    read_file,
    walk_blocks,
)
from gpumarket.protocol.varint import (
    decode_varint_untrusted,
    encode_bytes_field,
    encode_varint_field,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "unixfs.json").read_text("utf-8"))


def make_bytes(size: int) -> bytes:
    return hashlib.shake_256(b"unixfs vectors").digest(size)


def build_entry(data: bytes) -> Entry:
    builder = FileBuilder()
    for _ in (*builder.add(data), *builder.finish()):
        pass
    return builder.root


def make_file_node(data: bytes, sizes: list[int], links: list[Link], *, length: int) -> Block:
    inner = encode_varint_field(1, FileKind.FILE) + encode_bytes_field(2, data)
    inner += encode_varint_field(3, length)
    inner += b"".join(encode_varint_field(4, size) for size in sizes)
    block = encode_node(links, inner)
    return Block(compute_cid(block, Codec.DAG_PB), block)


def make_kind(kind: int) -> Block:
    block = encode_node((), encode_varint_field(1, kind))
    return Block(compute_cid(block, Codec.DAG_PB), block)


@pytest.mark.parametrize(("size", "cid"), VECTORS["files"].items())
def test_a_file_has_the_cid_that_helia_gives_it(size: str, cid: str) -> None:
    data = make_bytes(int(size))
    pieces = [data[at : at + 1_000_003] for at in range(0, len(data), 1_000_003)]
    *_, root = build_file(pieces)
    assert format_cid(root.cid) == cid


def test_a_directory_has_the_cid_that_helia_gives_it() -> None:
    sizes = VECTORS["directory"]["entries"]
    _, sub = build_directory({"ünï": build_entry(make_bytes(sizes["sub/ünï"]))})
    names = ["Z", "a", "a.b"]
    block, _ = build_directory(
        {"sub": sub, **{name: build_entry(make_bytes(sizes[name])) for name in names}}
    )
    assert format_cid(block.cid) == VECTORS["directory"]["cid"]


def test_the_well_known_empty_things_have_their_well_known_names() -> None:
    *_, file = build_file([])
    assert format_cid(file.cid) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    *_, old = build_file([], KUBO_V0)
    assert format_cid(old.cid) == "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"
    directory, _ = build_directory({})
    assert (
        format_cid(directory.cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkrei",
        "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQ0",
        "zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk\u0443",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",
        "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU",
        "b" * 5_000,
    ],
)
def test_a_text_that_is_no_canonical_cid_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_cid_untrusted(text)
    with pytest.raises(InvalidInput):
        parse_cid(text)


@pytest.mark.parametrize(
    "prefix",
    [
        b"\x01\x55\x00\x20",  # identity
        b"\x01\x55\x13\x20",  # sha2-512
        b"\x01\x55\x12\x1f",
        b"\x02\x55\x12\x20",
        b"\x01\x56\x12\x20",
        b"\x81\x00\x55\x12\x20",  # the version in two bytes
    ],
)
def test_a_binary_cid_of_another_hash_codec_or_version_is_refused(prefix: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_cid_bytes_untrusted(prefix + bytes(32))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 10])
def test_a_varint_that_is_cut_or_long_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_varint_untrusted(data, 0)


def test_a_wrong_block_in_a_file_is_found_before_its_bytes_are_given() -> None:
    whole = list(build_file([bytes(300_000)]))
    store = {block.cid: block.data for block in whole}
    leaf = whole[1].cid
    store[leaf] = b"x" + store[leaf][1:]
    received = []
    with pytest.raises(RemoteProtocolError):
        for piece in read_file(whole[-1].cid, store.__getitem__):
            received.append(piece)  # noqa: PERF402  the pieces before the error are wanted
    assert b"".join(received) == bytes(262_144)


def test_a_child_of_another_length_than_promised_is_refused() -> None:
    leaf = Block(compute_cid(b"four", Codec.RAW), b"four")
    node = make_file_node(b"", [5], [Link(leaf.cid, "", 4)], length=5)
    store = dict([leaf, node])
    with pytest.raises(RemoteProtocolError, match="promised"):
        list(read_file(node.cid, store.__getitem__))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (make_kind(FileKind.HAMT_SHARD), "HAMT"),
        (make_kind(FileKind.SYMLINK), "symlink"),
        (make_kind(FileKind.METADATA), "metadata"),
        (make_kind(9), "kind"),
        (make_file_node(b"abc", [], [], length=4), "add up"),
        (make_file_node(b"", [1], [], length=1), "as many sizes"),
        (
            make_file_node(b"", [0], [Link(compute_cid(b"", Codec.RAW), "", 0)], length=0),
            "empty part",
        ),
    ],
)
def test_nodes_that_we_cannot_serve_safely_are_refused(block: Block, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        decode_unixfs_untrusted(block.cid, block.data)


def test_a_directory_with_one_name_twice_or_out_of_order_is_refused() -> None:
    cid = compute_cid(b"", Codec.RAW)
    inner = encode_varint_field(1, FileKind.DIRECTORY)
    twice = encode_node([Link(cid, "a", 0), Link(cid, "a", 0)], inner)
    with pytest.raises(RemoteProtocolError, match="twice"):
        decode_unixfs_untrusted(compute_cid(twice, Codec.DAG_PB), twice)
    unordered = encode_node([Link(cid, "b", 0), Link(cid, "a", 0)], inner)
    with pytest.raises(RemoteProtocolError, match="order"):
        decode_node_untrusted(unordered)


def test_a_file_nested_without_end_is_refused() -> None:
    block = make_file_node(b"x", [], [], length=1)
    store = dict([block])
    for _ in range(40):
        block = make_file_node(b"", [1], [Link(block.cid, "", 1)], length=1)
        store[block.cid] = block.data
    with pytest.raises(RemoteProtocolError, match="deep"):
        list(read_file(block.cid, store.__getitem__))


def test_a_graph_that_links_one_block_in_two_ways_is_walked_in_both() -> None:
    *parts, root = build_file([bytes(600_000)])
    as_raw = ContentId(Codec.RAW, root.cid.digest)
    top = encode_node(
        [Link(as_raw, "a", 1), Link(root.cid, "b", 1)],
        encode_varint_field(1, FileKind.DIRECTORY),
    )
    top_cid = compute_cid(top, Codec.DAG_PB)
    store = {block.cid.digest: block.data for block in (*parts, root)} | {top_cid.digest: top}
    walked = {cid.digest for cid in walk_blocks(top_cid, lambda cid: store[cid.digest])}
    assert walked == set(store)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "x" * 256, "\udc80"]
)
def test_a_name_that_could_leave_its_folder_is_not_plain(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(InvalidInput):
        build_directory({name: build_entry(b"")})


def test_a_directory_that_kubo_would_shard_is_refused_with_advice() -> None:
    entry = build_entry(b"")
    with pytest.raises(InvalidInput, match="too large") as caught:
        build_directory({f"{index:064d}": entry for index in range(3_000)})
    assert caught.value.hints


def test_an_unfinished_file_has_no_root() -> None:
    with pytest.raises(LocalProtocolError):
        assert FileBuilder().root
