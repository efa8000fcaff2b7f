"""
Packing: a file or folder of this machine as blocks, named before anything is sent.

A tree is read twice: once for its name, size and counts, once to send it. So nothing is copied
to disk, and content that changed in between is noticed by its root.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gpumarket.protocol.car import encode_car
from gpumarket.protocol.cids import ContentId, format_cid
from gpumarket.protocol.errors import ContentError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.image_needs import ImageNeeds, decode_image_needs_untrusted
from gpumarket.protocol.unixfs import DEPTH_MAX, Block, Entry, FileBuilder, build_directory

READ_BYTES: Final = 2**20
UPLOAD_PIECE_BYTES: Final = 2**20
FILES_MAX: Final = 100_000
"""Files and folders of one tree."""
MANIFEST_BYTES_MAX: Final = 2**20
TEXT_BYTES_MAX: Final = 2**36
"""The longest text, unpacked, whose lines are counted."""
_GZIP_WBITS: Final = 31
DIGEST_RECORD = "image.json"
"""What image builders leave beside an archive; its `config_digest` must be the archive's."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A tree of this machine that has been read once."""

    path: Path
    root: ContentId
    file_bytes: int
    total_bytes: int
    file_count: int
    line_count: int | None
    """Lines of all files together, a last one without its newline counted; None if not counted."""

    @property
    def cid(self) -> Cid:
        """The CID as text."""
        return format_cid(self.root)


class _Counts:
    """What one walk counts on its way."""

    def __init__(self, *, has_lines: bool) -> None:
        self.entries = 0
        self.files = 0
        self.lines = 0
        self.has_lines = has_lines

    def add_entry(self, path: Path) -> None:
        self.entries += 1
        if self.entries > FILES_MAX:
            raise InvalidInput(f"{path}: a tree of more than {FILES_MAX} entries", code="GM-6011")


class _LineCounter:
    """Counts the lines of a text that comes in pieces; a gzipped file counts by its text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inflater = zlib.decompressobj(wbits=_GZIP_WBITS) if path.suffix == ".gz" else None
        self._text_bytes = 0
        self._last = b"\n"
        self.lines = 0

    def feed(self, piece: bytes) -> None:
        if self._inflater is None:
            self._count(piece)
            return
        try:
            # Bounded steps: a small file may hold an endless text.
            while piece:
                if self._inflater.eof:  # gzip files may be joined; each is a member
                    self._inflater = zlib.decompressobj(wbits=_GZIP_WBITS)
                self._count(self._inflater.decompress(piece, READ_BYTES))
                piece = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise self._refuse(str(error)) from error

    def finish(self) -> int:
        if self._inflater is not None:
            self._count(self._inflater.flush())
            if self._text_bytes and not self._inflater.eof:
                raise self._refuse("it is cut short")
        return self.lines + (self._last != b"\n")

    def _refuse(self, why: str) -> InvalidInput:
        return InvalidInput(f"{self._path} is not a whole gzip file", code="GM-6011", why=why)

    def _count(self, text: bytes) -> None:
        self._text_bytes += len(text)
        if self._text_bytes > TEXT_BYTES_MAX:
            raise InvalidInput(f"{self._path} holds more text than can be split", code="GM-1123")
        self.lines += text.count(b"\n")
        self._last = text[-1:] or self._last


def pack(path: Path, *, count_lines: bool = False) -> Packed:
    """
    Read a file or folder once and name it.

    Raises `InvalidInput` for what is neither, for links and devices inside, and for names that
    content cannot have; `ContentError` where the disk refuses.
    """
    walk = _TreeWalk(path, has_lines=count_lines)
    deque(walk, maxlen=0)
    entry, counts = walk.entry, walk.counts
    return Packed(
        path=path,
        root=entry.cid,
        file_bytes=entry.file_bytes,
        total_bytes=entry.total_bytes,
        file_count=counts.files,
        line_count=counts.lines if count_lines else None,
    )


def iterate_car(packed: Packed) -> Iterator[bytes]:
    """
    Read the tree again as a CAR, in pieces of about a mebibyte.

    Raises `ContentError` where it is no longer what was packed.
    """
    pieces = bytearray()
    for part in encode_car((packed.root,), _walk_again(packed)):
        pieces += part
        if len(pieces) >= UPLOAD_PIECE_BYTES:
            yield bytes(pieces)
            pieces.clear()
    yield bytes(pieces)


def _walk_again(packed: Packed) -> Iterator[Block]:
    seen: set[bytes] = set()
    walk = _TreeWalk(packed.path, has_lines=False)
    for block in walk:
        if block.cid.digest not in seen:
            seen.add(block.cid.digest)
            yield block
    if walk.entry.cid != packed.root:
        raise ContentError(f"{packed.path} changed while it was sent", code="GM-6014")


class _TreeWalk:
    """One pass over a tree: iterate over its blocks, then look at `entry` and `counts`."""

    entry: Entry

    def __init__(self, path: Path, *, has_lines: bool) -> None:
        self._path = path
        self.counts = _Counts(has_lines=has_lines)

    def __iter__(self) -> Iterator[Block]:
        self.entry = yield from _walk_tree(self._path, self.counts, DEPTH_MAX)


def _walk_tree(path: Path, counts: _Counts, depth_left: int) -> Generator[Block, None, Entry]:
    counts.add_entry(path)
    if depth_left == 0:
        raise InvalidInput(f"{path} lies more than {DEPTH_MAX} folders deep", code="GM-6011")
    with _translate_os_errors(path):
        if not stat.S_ISDIR(path.lstat().st_mode):
            return (yield from _walk_file(path, counts))
        names = sorted(os.listdir(path))
    entries = {}
    for name in names:
        entries[name] = yield from _walk_tree(path / name, counts, depth_left - 1)
    block, entry = build_directory(entries)
    yield block
    return entry


def _walk_file(path: Path, counts: _Counts) -> Generator[Block, None, Entry]:
    builder, counter = FileBuilder(), _LineCounter(path)
    # Non-blocking, so that a named pipe does not hold us before we see what it is.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput(f"{path} is not a regular file", code="GM-6011")
        while piece := file.read(READ_BYTES):
            if counts.has_lines:
                counter.feed(piece)
            yield from builder.add(piece)
    yield from builder.finish()
    counts.files += 1
    counts.lines += counter.finish()
    assert builder.root is not None
    return builder.root


@contextmanager
def _translate_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no {path}", code="GM-1122") from error
    except OSError as error:
        raise ContentError(f"{path} cannot be read: {error.strerror}", code="GM-6031") from error


# ---- images --------------------------------------------------------------------------------


def read_image(path: Path, *, expected: str = "") -> tuple[str, ImageNeeds]:
    """
    Check a docker-archive; return the digest of its image, `sha256:…`, and what the image needs.

    Raises `InvalidInput` GM-5203 where it is not the `expected` one or not the one that
    `image.json` beside it names, and GM-5204 for an archive that providers would refuse.
    """
    from gpumarket.adapters.images import decode_image_archive_untrusted

    with _translate_os_errors(path):
        config = _read_config(path)
        digest = hashlib.sha256(config).hexdigest()
        named = expected or _read_record(path.parent / DIGEST_RECORD)
        if named and named != f"sha256:{digest}":
            raise InvalidInput(
                "the image is not the one that was named",
                code="GM-5203",
                why=f"{path.name} holds sha256:{digest}, named was {named}",
                money="nothing was signed",
                hints=(f"write  image_digest: sha256:{digest}",),
                fault="requester",
            )
        try:
            decode_image_archive_untrusted(path, digest)
            needs = decode_image_needs_untrusted(config)
        except RemoteProtocolError as error:
            raise InvalidInput(
                f"{path.name} is not an archive that providers take",
                code=error.code,
                why=error.why or error.message,
                money="nothing was signed",
                hints=("docker save IMAGE -o image.tar",),
                fault="requester",
            ) from error
    return f"sha256:{digest}", needs


def _read_config(path: Path) -> bytes:
    try:
        with tarfile.open(path, "r:") as archive:
            manifest = _read_member(archive, "manifest.json")
            config_name = json.loads(manifest)[0]["Config"]
            return _read_member(archive, config_name)
    except (tarfile.TarError, KeyError, ValueError, IndexError, TypeError) as error:
        raise InvalidInput(
            f"{path.name} is not a docker-archive",
            code="GM-5204",
            why=str(error)[:200],
            hints=("docker save IMAGE -o image.tar",),
        ) from error


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    data = file.read(MANIFEST_BYTES_MAX + 1)
    if len(data) > MANIFEST_BYTES_MAX:
        raise ValueError(f"{name} is larger than {MANIFEST_BYTES_MAX} bytes")
    return data


def _read_record(path: Path) -> str:
    try:
        record: Any = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return ""
    digest = record.get("config_digest") if isinstance(record, dict) else None
    return f"sha256:{digest}" if isinstance(digest, str) else ""
