"""
Content by its CID: add it, fetch it from peers, read it, write it to disk.

`ContentStore` is what the roles see; `EmbeddedNode` is the implementation that every role runs: a
folder of blocks and Bitswap on the role's own libp2p host. `kubo.py` has the other one, for those
who run Kubo. CIDs are text here, as in documents. Disk and hashing run in threads behind a
limiter.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from gpumarket.adapters.bitswap import Bitswap, Network
from gpumarket.adapters.blockstore import GC_GRACE_S, FileBlockStore, StoreSize
from gpumarket.adapters.trees import TreeAdder, export_tree, read_content
from gpumarket.protocol.cids import Codec, ContentId, compute_cid, format_cid, parse_cid
from gpumarket.protocol.errors import ContentError, RemoteProtocolError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.unixfs import Block, FileBuilder, GetBlock, read_block, walk_blocks

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

T = TypeVar("T")

THREADS_MAX = 8
EXPORT_BYTES_MAX = 2**40
READ_BYTES_MAX = 64 * 2**20
KNOWN_WHOLE_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentStat:
    """
    What is known about a CID without asking anybody.

    `file_bytes` is the length of a file, 0 for a directory; `stored_bytes` counts the distinct
    blocks that are here; `is_complete` says that none is missing.
    """

    cid: Cid
    is_directory: bool
    file_bytes: int
    stored_bytes: int
    block_count: int
    is_complete: bool


class ContentStore(Protocol):
    """Content-addressed bytes, local and from peers; every method may raise `ContentError`."""

    async def add_file(self, path: Path) -> Cid:
        """Add one file and give its root CID."""

    async def add_bytes(self, data: bytes) -> Cid:
        """Add bytes as a file."""

    async def add_document(self, data: bytes) -> Cid:
        """Add the bytes of a DAG-CBOR document as one block."""

    async def add_directory(self, path: Path) -> Cid:
        """Add a folder with all below it; links and special files are refused."""

    async def fetch(
        self, cid: Cid, *, sources: Sequence[str], deadline_s: float, max_bytes: int
    ) -> None:
        """
        Have every block below `cid` here when this returns.

        `sources` are multiaddresses ending in /p2p/<peer id>. GM-6012: nobody has it; GM-6013:
        more than `max_bytes`; GM-6014: only wrong bytes were offered; GM-6015: not whole within
        `deadline_s`; GM-6030: no room. What has arrived is kept and not asked for again.
        """

    async def export(self, cid: Cid, path: Path, *, max_bytes: int = EXPORT_BYTES_MAX) -> None:
        """Write a file or folder that is here to `path`, which must not exist yet."""

    async def read_bytes(self, cid: Cid, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Give the content of a file or document that is here; GM-6016 when it is not."""

    async def has(self, cid: Cid) -> bool:
        """Say whether all blocks below `cid` are here."""

    async def stat(self, cid: Cid) -> ContentStat:
        """Say what is here of `cid`; GM-6016 when not even its root is."""

    async def pin(self, cid: Cid, name: str = "") -> None:
        """Keep all below `cid` through garbage collection, under a name (default: the CID)."""

    async def unpin(self, name: str) -> None:
        """Forget a pin by its name."""


class EmbeddedNode:
    """The content store of one process, on its own libp2p host and its own folder."""

    def __init__(self, network: Network, store: FileBlockStore) -> None:
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._store = store
        self._bitswap = Bitswap(network, store, limiter=self._limiter)
        # Roots found whole, and how many blocks had been removed by then: the same image and
        # inputs come with every job, and a large one takes a while to walk.
        self._known_whole: set[ContentId] = set()
        self._known_since = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve blocks to peers until cancelled; fetches need this running."""
        await self._bitswap.run(task_status=task_status)

    async def add_file(self, path: Path) -> Cid:
        entry = await self._change(lambda: TreeAdder(self._put_block).add_file(path))
        return format_cid(entry.cid)

    async def add_directory(self, path: Path) -> Cid:
        entry = await self._change(lambda: TreeAdder(self._put_block).add_directory(path))
        return format_cid(entry.cid)

    async def add_bytes(self, data: bytes) -> Cid:
        return format_cid(await self._change(lambda: self._put_bytes(data)))

    async def add_document(self, data: bytes) -> Cid:
        cid = compute_cid(data, Codec.DAG_CBOR)
        await self._change(lambda: self._store.put(cid, data))
        return format_cid(cid)

    async def fetch(
        self, cid: Cid, *, sources: Sequence[str], deadline_s: float, max_bytes: int
    ) -> None:
        await self.fetch_counted(cid, sources=sources, deadline_s=deadline_s, max_bytes=max_bytes)

    async def fetch_counted(
        self, cid: Cid, *, sources: Sequence[str], deadline_s: float, max_bytes: int
    ) -> int:
        """Fetch, and give the bytes that were not here already."""
        root = parse_cid(cid)
        return await self._bitswap.fetch(root, sources, deadline_s=deadline_s, bytes_max=max_bytes)

    async def export(self, cid: Cid, path: Path, *, max_bytes: int = EXPORT_BYTES_MAX) -> None:
        root = parse_cid(cid)
        await self._call(lambda: export_tree(root, path, self._store.get, bytes_max=max_bytes))

    async def read_bytes(self, cid: Cid, max_bytes: int = READ_BYTES_MAX) -> bytes:
        root = parse_cid(cid)
        return await self._call(lambda: read_content(root, self._store.get, bytes_max=max_bytes))

    async def has(self, cid: Cid) -> bool:
        root = parse_cid(cid)
        removals = self._store.removals
        if removals != self._known_since or len(self._known_whole) >= KNOWN_WHOLE_MAX:
            self._known_whole.clear()
            self._known_since = removals
        if root in self._known_whole:
            return True
        try:
            stat = await self.stat(cid)
        except ContentError:
            return False
        # A block removed while we walked shows in the count, which we read before.
        if stat.is_complete and self._known_since == removals:
            self._known_whole.add(root)
        return stat.is_complete

    async def stat(self, cid: Cid) -> ContentStat:
        root = parse_cid(cid)
        return await self._call(
            lambda: measure_content(root, self._store.get, self._store.find_size)
        )

    async def pin(self, cid: Cid, name: str = "") -> None:
        root = parse_cid(cid)
        await self._call(lambda: self._store.pin(name or cid, root))

    async def unpin(self, name: str) -> None:
        await self._call(lambda: self._store.unpin(name))

    async def keep_blocks(self, blocks: Sequence[Block]) -> None:
        """Store checked blocks that came another way than through Bitswap."""

        def keep() -> None:
            for block in blocks:
                self._put_block(block)

        await self._change(keep)

    async def read_block(self, cid: ContentId) -> bytes:
        """Give one block that is here; GM-6016 when it is not."""
        return await self._call(lambda: self._store.get(cid))

    async def list_blocks(self, root: ContentId) -> list[ContentId]:
        """Name every block below a root that is here, depth first."""
        return await self._call(lambda: list(walk_blocks(root, self._store.get)))

    async def collect_garbage(self, *, grace_s: float = GC_GRACE_S) -> int:
        """Remove what no pin reaches and nobody has touched for `grace_s`; give bytes freed."""
        return await self._call(lambda: self._store.collect_garbage(grace_s=grace_s))

    def measure_store(self) -> StoreSize:
        """Say how full the store is."""
        return self._store.measure()

    def _put_block(self, block: Block) -> None:
        trio.from_thread.check_cancelled()
        self._store.put(block.cid, block.data)

    def _put_bytes(self, data: bytes) -> ContentId:
        builder = FileBuilder()
        for block in (*builder.add(data), *builder.finish()):
            self._put_block(block)
        return builder.root.cid

    async def _change(self, work: Callable[[], T]) -> T:
        result = await self._call(work)
        await self._bitswap.announce_stored()
        return result

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except RemoteProtocolError as error:
            raise ContentError(
                "this is not content that can be read", code="GM-6017", why=error.message
            ) from error


def measure_content(
    root: ContentId, get_block: GetBlock, find_size: Callable[[ContentId], int | None]
) -> ContentStat:
    """Walk what is here of a graph; `get_block` raises `ContentError` for what is not."""
    node = read_block(root, get_block)
    stored_bytes = block_count = 0
    is_complete = True
    try:
        for cid in walk_blocks(root, get_block):
            size = find_size(cid)
            stored_bytes += size or 0
            block_count += size is not None
            is_complete = is_complete and size is not None
    except ContentError:  # a node in the middle is missing, so what hangs below is unknown
        is_complete = False
    return ContentStat(
        cid=format_cid(root),
        is_directory=node.is_directory,
        file_bytes=node.file_bytes,
        stored_bytes=stored_bytes,
        block_count=block_count,
        is_complete=is_complete,
    )


@contextlib.asynccontextmanager
async def open_node(
    network: Network, folder: Path, *, quota_bytes: int
) -> AsyncIterator[EmbeddedNode]:
    """
    Open the content store in `folder` and serve it on `network` while the block runs.

    Raises `ContentError` GM-6032 when another process has the folder.
    """
    store = await trio.to_thread.run_sync(lambda: FileBlockStore(folder, quota_bytes=quota_bytes))
    try:
        async with trio.open_nursery() as nursery:
            node = EmbeddedNode(network, store)
            await nursery.start(node.run)
            try:
                yield node
            finally:
                nursery.cancel_scope.cancel()
    finally:
        store.close()
