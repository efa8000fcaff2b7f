"""
Folders of the disk as content, and back.

Reading follows no symbolic link, and writing creates only what did not exist, under names that
cannot leave the target folder: the names inside a CID were chosen by a stranger.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from gpumarket.protocol.cids import ContentId, format_cid
from gpumarket.protocol.errors import ContentError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.unixfs import (
    DEPTH_MAX,
    KUBO_V1,
    Block,
    Entry,
    FileBuilder,
    GetBlock,
    Layout,
    UnixNode,
    build_directory,
    is_plain_name,
    read_below,
    read_block,
)

ENTRIES_MAX = 100_000
"""Files and folders of one tree, added or written."""
READ_BYTES = 2**20

PutBlock = Callable[[Block], None]


class Allowance:
    """What one walk over a tree may still use."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_left = bytes_max
        self._entries_left = ENTRIES_MAX

    def use_entry(self) -> None:
        """Count one file or folder."""
        self._entries_left -= 1
        if self._entries_left < 0:
            raise ContentError(f"a tree of more than {ENTRIES_MAX} entries", code="GM-6013")

    def use_bytes(self, count: int) -> None:
        """Count bytes of content; raises `ContentError` GM-6013 when they are too many."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise ContentError(
                f"the content is larger than the {self._bytes_max} bytes allowed", code="GM-6013"
            )


class TreeAdder:
    """Turns files and folders into blocks, which go to `put_block` as they become whole."""

    def __init__(self, put_block: PutBlock, layout: Layout = KUBO_V1) -> None:
        self._put_block = put_block
        self._layout = layout
        self._allowance = Allowance(2**63)

    def add_file(self, path: Path) -> Entry:
        """Add one regular file; anything else, also a symbolic link, is refused."""
        with _translate_os_errors(path):
            return self._add_file(path)

    def add_directory(self, path: Path, depth_left: int = DEPTH_MAX) -> Entry:
        """Add a folder and all below it."""
        self._allowance.use_entry()
        if depth_left == 0:
            raise InvalidInput(f"{path} lies more than {DEPTH_MAX} folders deep", code="GM-6011")
        entries = {}
        with _translate_os_errors(path):
            children = sorted(os.scandir(path), key=lambda child: child.name)
        for child in children:
            if child.is_dir(follow_symlinks=False):
                entries[child.name] = self.add_directory(path / child.name, depth_left - 1)
            else:
                entries[child.name] = self.add_file(path / child.name)
        block, entry = build_directory(entries, self._layout)
        self._put_block(block)
        return entry

    def _add_file(self, path: Path) -> Entry:
        self._allowance.use_entry()
        builder = FileBuilder(self._layout)
        # Non-blocking, so that a named pipe does not hold us before we see what it is.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{path} is not a regular file", code="GM-6011")
            while piece := file.read(READ_BYTES):
                for block in builder.add(piece):
                    self._put_block(block)
        for block in builder.finish():
            self._put_block(block)
        return builder.root


def read_content(root: ContentId, get_block: GetBlock, *, bytes_max: int) -> bytes:
    """Read a whole file or document into memory, at most `bytes_max`."""
    node = read_block(root, get_block)
    if node.is_directory:
        raise ContentError(f"{format_cid(root)} is a directory", code="GM-6018")
    allowance = Allowance(bytes_max)
    allowance.use_bytes(node.file_bytes)
    return b"".join(read_below(node, get_block))


def export_tree(root: ContentId, path: Path, get_block: GetBlock, *, bytes_max: int) -> None:
    """
    Write content to `path`, which must not exist.

    Names that are not plain are refused before anything under them is written. On failure what
    was written is left for the caller to see, except a file that is not whole.
    """
    if path.is_symlink() or path.exists():
        raise InvalidInput(f"{path} exists already", code="GM-6019")
    _export(root, path, get_block, Allowance(bytes_max), DEPTH_MAX)


def _export(
    cid: ContentId, path: Path, get_block: GetBlock, allowance: Allowance, depth_left: int
) -> None:
    allowance.use_entry()
    if depth_left == 0:
        raise RemoteProtocolError(f"a tree of more than {DEPTH_MAX} folders in each other")
    node = read_block(cid, get_block)
    with _translate_os_errors(path):
        if not node.is_directory:
            allowance.use_bytes(node.file_bytes)
            _write_file(node, path, get_block)
            return
        path.mkdir()
        for link in node.links:
            if not is_plain_name(link.name):
                raise RemoteProtocolError(f"a tree holds the name {link.name[:80]!r}")
            _export(link.cid, path / link.name, get_block, allowance, depth_left - 1)


def _write_file(node: UnixNode, path: Path, get_block: GetBlock) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o644), "wb") as file:
        try:
            file.writelines(read_below(node, get_block))
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ContentError(
            f"{path} cannot be read or written: {error.strerror}", code="GM-6031"
        ) from error
