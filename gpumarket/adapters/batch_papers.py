"""
A posted batch's papers: its document and bills by their hashes, from peers, an API, or our disk.

What was read once is kept until its batch can no longer be disputed, because an answer and a proof
of a double need it again. A document that does not decode, or is not what was posted, counts as not
shown: nobody can open a leaf of it.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from gpumarket.adapters.content import ContentStore
from gpumarket.protocol.cids import Codec, ContentId, compute_digest, format_cid
from gpumarket.protocol.codec import decode_document_untrusted
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.objections import Papers, find_bill_hash, fits
from gpumarket.protocol.openings import PostedBatch
from gpumarket.protocol.settlement import Batch, Bill

DOCUMENT_BYTES_MAX = 2**21
"""Of a batch document or a bill; each is one block of the content store."""
HTTP_SECONDS = 20.0
DROP_SECONDS = 1.0
"""What is to be dropped is here; where it is not, nobody need have it."""

T = TypeVar("T", Batch, Bill)


class Archive(Protocol):
    """Where documents come from by the hash of their bytes."""

    async def get(self, name: Hash32, *, deadline_s: float) -> bytes:
        """Return a document's bytes and keep them; raise `ContentError` where nobody has them."""

    async def drop(self, name: Hash32) -> None:
        """Keep a document no longer."""


class NodeArchive:
    """Documents in a node's content store, fetched from coordinators' peers."""

    def __init__(self, content: ContentStore, find_sources: Callable[[], Sequence[str]]) -> None:
        self._content = content
        self._find_sources = find_sources

    async def get(self, name: Hash32, *, deadline_s: float) -> bytes:
        cid = _name_document(name)
        if not await self._content.has(cid):
            await self._content.fetch(
                cid,
                sources=self._find_sources(),
                deadline_s=deadline_s,
                max_bytes=DOCUMENT_BYTES_MAX,
            )
        # Before it is read: what is collected between the two would be asked for again.
        await self._content.pin(cid, _name_pin(name))
        return await self._content.read_bytes(cid, DOCUMENT_BYTES_MAX)

    async def drop(self, name: Hash32) -> None:
        await self._content.unpin(_name_pin(name))


class HttpArchive:
    """Documents from a coordinator's API, kept as files in a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url.rstrip("/")
        self._folder = folder

    async def get(self, name: Hash32, *, deadline_s: float) -> bytes:
        return await trio.to_thread.run_sync(self._get, name, min(deadline_s, HTTP_SECONDS))

    async def drop(self, name: Hash32) -> None:
        path = self._folder / name.hex()
        await trio.to_thread.run_sync(lambda: path.unlink(missing_ok=True))

    def _get(self, name: Hash32, seconds: float) -> bytes:
        path = self._folder / name.hex()
        if path.is_file():
            data = path.read_bytes()
            if compute_digest(data) == name:
                return data
        data = self._download(f"{self._url}/ipfs/{_name_document(name)}?format=raw", seconds)
        if compute_digest(data) != name:
            raise ContentError("the coordinator's API gave other bytes", code="GM-6014")
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.replace(path)
        return data

    def _download(self, url: str, seconds: float) -> bytes:
        if not url.startswith(("http://", "https://")):
            raise ContentError(f"{url[:100]} is no address of an API", code="GM-6012")
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  checked above
                data: bytes = answer.read(DOCUMENT_BYTES_MAX + 1)
        except (urllib.error.URLError, OSError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is an open answer too
            raise ContentError(
                "the coordinator's API does not show a document", code="GM-6012", why=str(error)
            ) from error
        return data


async def read_papers(
    archive: Archive, posted: PostedBatch, *, wanted: Sequence[int], deadline_s: float
) -> tuple[Papers | None, bool]:
    """
    Return a batch's papers and whether they are whole.

    `wanted` are the lanes whose bills matter; None where the document itself cannot be had, does
    not decode or is not what was posted.
    """
    document = None
    with trio.move_on_after(deadline_s):
        document = await _read(archive, posted.data_hash, Batch, deadline_s)
    # A large one takes a while to hash.
    if document is None or not await trio.to_thread.run_sync(fits, posted, document):
        return None, False
    orders = {leaf.order_hash for lane in wanted for leaf in document.lanes[lane].leaves}
    bills: dict[Hash32, Bill] = {}
    with trio.move_on_after(deadline_s):
        for order_hash in sorted(orders):
            name = find_bill_hash(document, order_hash)
            bill = None if name is None else await _read(archive, name, Bill, deadline_s)
            if bill is not None and bill.order.body.compute_struct_hash() == order_hash:
                bills[order_hash] = bill
    return Papers(document, bills), bills.keys() == orders


async def drop_papers(archive: Archive, posted: PostedBatch) -> None:
    """Keep a batch's papers no longer."""
    document = await _read(archive, posted.data_hash, Batch, DROP_SECONDS)
    names = () if document is None else document.bills
    for name in (*names, posted.data_hash):
        await archive.drop(name)


async def _read(archive: Archive, name: Hash32, as_type: type[T], deadline_s: float) -> T | None:
    try:
        data = await archive.get(name, deadline_s=deadline_s)
        return decode_document_untrusted(data, as_type, bytes_max=DOCUMENT_BYTES_MAX)
    except (ContentError, RemoteProtocolError):
        return None


def _name_document(name: Hash32) -> str:
    return format_cid(ContentId(Codec.DAG_CBOR, name))


def _name_pin(name: Hash32) -> str:
    return f"papers-{name.hex()}"
