"""
An auditor's folder of content, each thing under its CID: `CID` (a file or folder) or `CID.car`.

The name says only what is looked for. The CID is computed again from the bytes while they are cut
into blocks, and what is compared or run is put together from these blocks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from gpumarket.adapters.trees import READ_BYTES, PutBlock, TreeAdder
from gpumarket.protocol.car import decode_car_untrusted
from gpumarket.protocol.cids import ContentId, format_cid, parse_cid
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Cid, Hash32
from gpumarket.protocol.unixfs import KUBO_V0, KUBO_V1, Block

BLOCKS_MAX = 300_000
"""Of one thing: an archive of tiny blocks would fill a disk with files before it is large."""
OVERHEAD_BYTES = 65_536
"""Room for folders and the nodes above small files; above large ones they are below two percent."""


class OutputShelf:
    """Finds content by its CID in a folder that may hold anything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, cid: Cid) -> bool:
        """Say whether something stands under a CID, whatever it is."""
        name = format_cid(parse_cid(cid))
        return (self._folder / name).exists() or (self._folder / f"{name}.car").exists()

    def load(self, cid: Cid, put_block: PutBlock, *, bytes_max: int) -> None:
        """
        Give all blocks of a CID to `put_block`.

        Raises `ContentError`: GM-6016 where it is not here, GM-6017 where what stands under the
        name is something else, GM-6013 over `bytes_max` bytes or too many blocks, links refused.
        """
        root = parse_cid(cid)
        name = format_cid(root)
        plain, archive = self._folder / name, self._folder / f"{name}.car"
        intake = _Intake(put_block, bytes_max)
        try:
            if plain.is_dir() or plain.is_file():
                _load_plain(plain, root, intake)
            elif archive.is_file():
                _load_archive(archive, root, intake, bytes_max)
            else:
                raise ContentError(f"{name} is not in {self._folder}", code="GM-6016")
        except RemoteProtocolError as error:
            raise _refuse(name, error.message) from error


class BlockSpool:
    """Blocks in one file of a folder of ours, for as long as something is compared."""

    def __init__(self, folder: Path) -> None:
        self._file: BinaryIO = (folder / "blocks").open("w+b")
        self._places: dict[Hash32, tuple[int, int]] = {}

    def close(self) -> None:
        """Forget everything."""
        self._file.close()

    def put(self, block: Block) -> None:
        """Keep a block that was checked against its name."""
        if block.cid.digest not in self._places:
            at = self._file.seek(0, os.SEEK_END)
            self._places[block.cid.digest] = (at, self._file.write(block.data))

    def get(self, cid: ContentId) -> bytes:
        """Return a block; raises `ContentError` GM-6016 where it did not come."""
        if cid.digest not in self._places:
            raise ContentError(f"{format_cid(cid)} is missing in its archive", code="GM-6016")
        at, length = self._places[cid.digest]
        self._file.seek(at)
        return self._file.read(length)


class _Intake:
    """Counts blocks on their way into a store, and refuses what is too much."""

    def __init__(self, put_block: PutBlock, bytes_max: int) -> None:
        self._put_block = put_block
        self._bytes_left = bytes_max
        self._blocks_left = BLOCKS_MAX

    def put(self, block: Block) -> None:
        self._bytes_left -= len(block.data)
        self._blocks_left -= 1
        if self._bytes_left < 0 or self._blocks_left < 0:
            raise ContentError("content larger than is read here", code="GM-6013")
        self._put_block(block)


def _load_plain(path: Path, root: ContentId, intake: _Intake) -> None:
    adder = TreeAdder(intake.put, KUBO_V0 if root.version == 0 else KUBO_V1)
    found = adder.add_directory(path) if path.is_dir() else adder.add_file(path)
    if found.cid != root:
        raise _refuse(path.name, f"its bytes are {format_cid(found.cid)}")


def _load_archive(path: Path, root: ContentId, intake: _Intake, bytes_max: int) -> None:
    try:
        with path.open("rb") as file:
            pieces = iter(lambda: file.read(READ_BYTES), b"")
            for block in decode_car_untrusted(pieces, bytes_max=bytes_max, roots=(root,)):
                intake.put(block)
    except OSError as error:
        raise ContentError(f"{path} cannot be read: {error.strerror}", code="GM-6031") from error


def _refuse(name: str, why: str) -> ContentError:
    return ContentError(f"what lies under {name} is something else: {why}"[:300], code="GM-6017")
