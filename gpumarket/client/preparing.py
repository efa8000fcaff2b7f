"""Preparing: find out what a job file's image and inputs are, here or at the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from gpumarket.client.packing import Packed, pack, read_image
from gpumarket.jobfile import InvalidJobFile, JobFile
from gpumarket.protocol.cids import Codec, ContentId, format_cid, is_block_of, parse_cid
from gpumarket.protocol.errors import ContentError, InvalidInput
from gpumarket.protocol.unixfs import FileKind, decode_unixfs_untrusted
from gpumarket.resolving import Contents, ImageContent, InputContent, name_input
from gpumarket.yaml_text import Pointer

FILE_SCHEME: Final = "file:"
IPFS_SCHEME: Final = "ipfs://"
REMOTE_ENTRIES_MAX: Final = 10_000
"""Files of a folder at the coordinator that are looked at one by one."""

FetchBlock = Callable[[ContentId], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ContentStat:
    """What a CID is, as far as its upper blocks say."""

    cid: str
    is_directory: bool
    size_bytes: int
    file_count: int


async def prepare(job: JobFile, fetch_block: FetchBlock) -> tuple[Contents, tuple[Packed, ...]]:
    """
    Pack the local content of a job file and look up the rest.

    Raises `InvalidJobFile` for local paths that do not exist, all of them at once.
    """
    find_missing(job)
    packed: list[Packed] = []
    image = await _prepare_image(job, fetch_block, packed)
    inputs = []
    split = job.document.get("split", {})
    for index, entry in enumerate(job.document.get("inputs", ())):
        has_lines = split.get("by") == "lines" and split.get("over") == name_input(entry, index)
        inputs.append(await _prepare_input(job, entry["from"], fetch_block, packed, has_lines))
    return Contents(image, tuple(inputs)), tuple(packed)


def find_missing(job: JobFile) -> None:
    """Raise `InvalidJobFile` for each `file:` path that leads nowhere."""
    places: list[tuple[Pointer, str]] = [(("image",), job.document["image"])]
    places += [
        (("inputs", index, "from"), entry["from"])
        for index, entry in enumerate(job.document.get("inputs", ()))
    ]
    missing = [
        job.make_mistake("GM-1122", pointer, f"there is no {_locate(job, source)}")
        for pointer, source in places
        if source.startswith(FILE_SCHEME) and not _locate(job, source).exists()
    ]
    if missing:
        raise InvalidJobFile(job.name, missing)


async def stat_content(cid: ContentId, fetch_block: FetchBlock) -> ContentStat:
    """Look at the upper blocks of content; every block is checked against its CID."""
    size = files = visited = 0
    pending = [cid]
    is_directory = False
    while pending:
        current = pending.pop()
        visited += 1
        if visited > REMOTE_ENTRIES_MAX:
            raise ContentError(f"more than {REMOTE_ENTRIES_MAX} files to look at", code="GM-6013")
        block = await fetch_block(current)
        if not is_block_of(current, block):
            raise ContentError(
                f"the bytes given for {format_cid(current)} hash to something else", code="GM-6014"
            )
        node = decode_unixfs_untrusted(current, block)
        if node.kind is FileKind.DIRECTORY:
            is_directory = is_directory or current == cid
            raw = [link for link in node.links if link.cid.codec is Codec.RAW]
            # A raw leaf is its file: the length its parent gives is all there is to know.
            files += len(raw)
            size += sum(link.total_bytes for link in raw)
            pending += [link.cid for link in node.links if link.cid.codec is not Codec.RAW]
        else:
            files += 1
            size += node.file_bytes
    return ContentStat(format_cid(cid), is_directory, size, files)


async def _prepare_image(
    job: JobFile, fetch_block: FetchBlock, packed: list[Packed]
) -> ImageContent:
    source = job.document["image"]
    named = job.document.get("image_digest", "")
    if source.startswith(FILE_SCHEME):
        path = _locate(job, source)
        digest, needs = await asyncio.to_thread(read_image, path, expected=named)
        image = await asyncio.to_thread(pack, path)
        packed.append(image)
        return ImageContent(image.cid, image.file_bytes, digest, needs)
    cid = _parse_source(source)
    stat = await stat_content(cid, fetch_block)
    return ImageContent(stat.cid, stat.size_bytes, named)


async def _prepare_input(
    job: JobFile, source: str, fetch_block: FetchBlock, packed: list[Packed], has_lines: bool
) -> InputContent:
    if source.startswith(FILE_SCHEME):
        found = await asyncio.to_thread(partial(pack, _locate(job, source), count_lines=has_lines))
        packed.append(found)
        return InputContent(found.cid, found.file_bytes, found.file_count, found.line_count)
    stat = await stat_content(_parse_source(source), fetch_block)
    return InputContent(stat.cid, stat.size_bytes, stat.file_count, None)


def _locate(job: JobFile, source: str) -> Path:
    return job.folder / Path(source.removeprefix(FILE_SCHEME)).expanduser()


def _parse_source(source: str) -> ContentId:
    text = source.removeprefix(IPFS_SCHEME)
    if "/" in text.rstrip("/"):
        raise InvalidInput(
            f"{source} names a path inside content; name the content itself", code="GM-1140"
        )
    return parse_cid(text.rstrip("/"))
