"""
Content in somebody's own Kubo, through its RPC: the other implementation of `ContentStore`.

ipfshttpclient 0.7.0 is from 2021 and refuses today's Kubo in `connect()`, so the client is built
without that check and only calls that Kubo still has are used: block, pin, swarm/connect and
version. Files are cut and read by our own code, block by block: the CIDs are the same wherever
content lies, and every block is checked again, whoever runs the daemon.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ipfshttpclient
import trio
from ipfshttpclient import exceptions

from gpumarket.adapters.content import (
    EXPORT_BYTES_MAX,
    READ_BYTES_MAX,
    ContentStat,
    measure_content,
)
from gpumarket.adapters.trees import TreeAdder, export_tree, read_content
from gpumarket.protocol.cids import Codec, ContentId, compute_cid, format_cid, parse_cid
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.unixfs import Block, build_file, decode_unixfs_untrusted

T = TypeVar("T")

THREADS_MAX = 8
CALL_DEADLINE_S = 60.0
FETCH_BLOCKS_MAX = 2_000_000
_CODEC_NAMES = {Codec.RAW: "raw", Codec.DAG_PB: "dag-pb", Codec.DAG_CBOR: "dag-cbor"}


class _Address(str):
    """A peer address that `swarm.connect` of 0.7.0 does not also take apart letter by letter."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(())


class KuboStore:
    """
    A `ContentStore` in a running Kubo.

    The names of pins need Kubo 0.29 or newer; older ones know a pin by its CID only.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._limiter = trio.CapacityLimiter(THREADS_MAX)

    async def find_version(self) -> str:
        """Ask the daemon which version it is; GM-6033 when it does not answer."""
        reply = await self._call(self._client.version)
        return str(reply.get("Version", "unknown"))[:100]

    async def add_file(self, path: Path) -> Cid:
        entry = await self._call(lambda: TreeAdder(self._put_block).add_file(path))
        return format_cid(entry.cid)

    async def add_directory(self, path: Path) -> Cid:
        entry = await self._call(lambda: TreeAdder(self._put_block).add_directory(path))
        return format_cid(entry.cid)

    async def add_bytes(self, data: bytes) -> Cid:
        return await self._call(lambda: self._put_all(build_file([data])))

    async def add_document(self, data: bytes) -> Cid:
        block = Block(compute_cid(data, Codec.DAG_CBOR), data)
        return await self._call(lambda: self._put_all([block]))

    async def fetch(
        self, cid: Cid, *, sources: Sequence[str], deadline_s: float, max_bytes: int
    ) -> None:
        walk = _Walk(parse_cid(cid), bytes_max=max_bytes)
        ends_at = trio.current_time() + deadline_s
        asked = [await self._connect(address, ends_at) for address in sources]
        while batch := walk.take_batch():
            seconds_left = ends_at - trio.current_time()
            if seconds_left <= 0:
                raise _cannot_find(walk.root, deadline_s, asked)
            async with trio.open_nursery() as nursery:
                for block_cid in batch:
                    nursery.start_soon(self._fetch_block, walk, block_cid, seconds_left)
            if walk.error is not None:
                if walk.error.code == "GM-6016":
                    raise _cannot_find(walk.root, deadline_s, asked) from walk.error
                raise walk.error

    async def export(self, cid: Cid, path: Path, *, max_bytes: int = EXPORT_BYTES_MAX) -> None:
        root = parse_cid(cid)
        await self._call(lambda: export_tree(root, path, self._get_here, bytes_max=max_bytes))

    async def read_bytes(self, cid: Cid, max_bytes: int = READ_BYTES_MAX) -> bytes:
        root = parse_cid(cid)
        return await self._call(lambda: read_content(root, self._get_here, bytes_max=max_bytes))

    async def has(self, cid: Cid) -> bool:
        try:
            return (await self.stat(cid)).is_complete
        except ContentError as error:
            if error.code != "GM-6016":
                raise
            return False

    async def stat(self, cid: Cid) -> ContentStat:
        root = parse_cid(cid)
        return await self._call(lambda: measure_content(root, self._get_here, self._find_size))

    async def pin(self, cid: Cid, name: str = "") -> None:
        opts = {"name": name or cid}
        await self._call(lambda: self._client.pin.add(cid, opts=opts, offline=True))

    async def unpin(self, name: str) -> None:
        await self._call(lambda: self._unpin(name))

    def close(self) -> None:
        """Close the connections to the daemon."""
        self._client.close()

    def _unpin(self, name: str) -> None:
        reply = self._client.pin.ls(type="recursive", opts={"names": "true"})
        for cid, pin in reply.get("Keys", {}).items():
            if name in (cid, pin.get("Name")):
                self._client.pin.rm(cid)

    def _put_all(self, blocks: Iterator[Block] | Sequence[Block]) -> Cid:
        root = ""
        for block in blocks:
            self._put_block(block)
            root = format_cid(block.cid)
        return root

    def _put_block(self, block: Block) -> None:
        trio.from_thread.check_cancelled()
        opts = {
            "cid-codec": _CODEC_NAMES[block.cid.codec],
            "mhtype": "sha2-256",
            "allow-big-block": "true",
        }
        reply = self._client.block.put(io.BytesIO(block.data), opts=opts)
        if reply["Key"] != format_cid(block.cid):
            raise ContentError(
                "Kubo stored a block under another name",
                code="GM-6031",
                why=f"{str(reply['Key'])[:100]} instead of {format_cid(block.cid)}",
            )

    def _get_here(self, cid: ContentId) -> bytes:
        return self._get_block(cid, offline=True, timeout_s=CALL_DEADLINE_S)

    def _get_block(self, cid: ContentId, *, offline: bool, timeout_s: float) -> bytes:
        try:
            pieces = self._client.block.get(
                format_cid(cid),
                stream=True,
                offline=offline,
                timeout=timeout_s,
                opts={"timeout": f"{max(1, int(timeout_s * 1000))}ms"},
            )
            return _read_bounded(pieces)
        except (exceptions.ErrorResponse, exceptions.TimeoutError) as error:
            raise ContentError(
                f"{format_cid(cid)} is not in Kubo", code="GM-6016", why=str(error)[:300]
            ) from error

    def _find_size(self, cid: ContentId) -> int | None:
        try:
            return int(self._client.block.stat(format_cid(cid), offline=True)["Size"])
        except exceptions.ErrorResponse:
            return None

    async def _connect(self, address: str, ends_at: float) -> str:
        timeout_s = max(0.1, min(CALL_DEADLINE_S, ends_at - trio.current_time()))
        try:
            await self._call(
                lambda: self._client.swarm.connect(_Address(address), timeout=timeout_s)
            )
        except ContentError as error:
            return f"{address} was not reached ({error.why})"
        return f"{address} was reached"

    async def _fetch_block(self, walk: _Walk, cid: ContentId, timeout_s: float) -> None:
        try:
            walk.take(
                cid,
                await self._call(lambda: self._get_block(cid, offline=False, timeout_s=timeout_s)),
            )
        except ContentError as error:
            walk.error = walk.error or error

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except exceptions.ErrorResponse as error:
            raise ContentError(
                "Kubo refused a call", code="GM-6034", why=str(error)[:300]
            ) from error
        except exceptions.CommunicationError as error:
            raise ContentError(
                "Kubo does not answer",
                code="GM-6033",
                why=str(error)[:300],
                hints=("ipfs daemon", "check the address of Kubo's RPC in the configuration"),
            ) from error
        except RemoteProtocolError as error:
            raise ContentError(
                "this is not content that can be read", code="GM-6017", why=error.message
            ) from error


class _Walk:
    """What a fetch through Kubo has still to ask for."""

    def __init__(self, root: ContentId, *, bytes_max: int) -> None:
        self.root = root
        self.error: ContentError | None = None
        self._bytes_max = bytes_max
        self._bytes = 0
        self._frontier = [root]
        self._seen = {(root.codec, root.digest)}

    def take_batch(self) -> list[ContentId]:
        """Give the next blocks to ask for, empty when all are here."""
        batch = self._frontier[-THREADS_MAX:]
        del self._frontier[-THREADS_MAX:]
        return batch

    def take(self, cid: ContentId, data: bytes) -> None:
        """Check a block that has arrived and note what it links."""
        try:
            if compute_cid(data, cid.codec, version=cid.version) != cid:
                raise RemoteProtocolError("Kubo gave other bytes than the CID names")
            links = decode_unixfs_untrusted(cid, data).links
        except RemoteProtocolError as error:
            self.error = ContentError(
                f"{format_cid(self.root)} is not content that can be read",
                code="GM-6017",
                why=f"{format_cid(cid)}: {error.message}",
            )
            return
        self._bytes += len(data)
        claimed = sum(link.total_bytes for link in links) if cid == self.root else 0
        if max(self._bytes, claimed) > self._bytes_max or len(self._seen) > FETCH_BLOCKS_MAX:
            self.error = ContentError(
                f"{format_cid(self.root)} is larger than was allowed",
                code="GM-6013",
                why=f"it has at least {max(self._bytes, claimed)} bytes, "
                f"the limit is {self._bytes_max}",
            )
        for link in reversed(links):
            key = (link.cid.codec, link.cid.digest)
            if key not in self._seen:
                self._seen.add(key)
                self._frontier.append(link.cid)


def _cannot_find(root: ContentId, deadline_s: float, asked: list[str]) -> ContentError:
    return ContentError(
        f"{format_cid(root)} cannot be found",
        code="GM-6012",
        why=f"Kubo looked for {deadline_s:g} s; {'; '.join(asked) or 'no peer was named'}",
        hints=("check the CID; the one who added it must be running and reachable",),
    )


def _read_bounded(pieces: Any) -> bytes:
    data = bytearray()
    with contextlib.closing(pieces):
        for piece in pieces:
            data += piece
            if len(data) > BLOCK_BYTES_MAX:
                raise ContentError(f"a block over {BLOCK_BYTES_MAX} bytes", code="GM-6017")
    return bytes(data)


@contextlib.asynccontextmanager
async def open_kubo(address: str) -> AsyncIterator[KuboStore]:
    """
    Use the Kubo whose RPC listens at a multiaddress such as `/ip4/127.0.0.1/tcp/5001/http`.

    Raises `ContentError` GM-6033 when nobody answers there.
    """
    # The library names an argument to urllib3 that urllib3 2 complains of, at every connection.
    warnings.filterwarnings("ignore", "The 'strict' parameter", FutureWarning)
    # Never ipfshttpclient.connect(): it refuses every Kubo since 0.8.0.
    store = KuboStore(ipfshttpclient.Client(address, session=True, timeout=CALL_DEADLINE_S))
    try:
        await store.find_version()
        yield store
    finally:
        store.close()
