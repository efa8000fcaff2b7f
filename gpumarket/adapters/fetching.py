"""
Fetching one graph of blocks from several peers that may lack it, leave, stall or lie.

This file decides and keeps count; `bitswap.py` moves the bytes. First every source is asked
whether it has the root. Blocks are then asked for in reading order, each from one peer at a time,
spread over all peers that have the root.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import trio

from gpumarket.adapters.blockstore import FileBlockStore
from gpumarket.protocol.cids import Codec, ContentId, format_cid
from gpumarket.protocol.errors import ContentError, GpuMarketError, RemoteProtocolError
from gpumarket.protocol.unixfs import list_links_untrusted

WANTS_PER_PEER_MAX = 32
"""8 MiB of ordinary blocks on the way from one peer."""
LOOKAHEAD_MAX = 256
"""Blocks known to be missing before more of the graph is looked at."""
INSPECT_BATCH = 64
FETCH_BLOCKS_MAX = 2_000_000
"""Half a terabyte of ordinary blocks in one graph."""
SOURCES_MAX = 32
STALL_S = 10.0
"""A peer that owes blocks and sends none for this long loses them to another."""
HANG_UP_S = 2.0
"""The same, for a peer that has also closed its last stream to us."""
ASK_AGAIN_S = 2.0


class SourceState(Enum):
    """What we know of one peer, for one fetch; the text is what errors say."""

    CONNECTING = "was not reached"
    ASKED = "did not answer"
    HAS = "has it"
    LACKS = "does not have it"
    STALLED = "stopped sending"
    REFUSED = "sent wrong bytes"


@dataclass(slots=True, kw_only=True)
class Source:
    """One peer of a fetch: where it is and what it owes."""

    address: str
    peer_id: str = ""
    state: SourceState = SourceState.CONNECTING
    reason: str = ""
    owed: dict[bytes, ContentId] = field(default_factory=dict)
    lacks: dict[bytes, float] = field(default_factory=dict)
    progress_at: float = 0.0
    hung_up_at: float = math.inf

    def describe(self) -> str:
        """Say in an error what became of this peer."""
        return f"{self.address} {self.reason or self.state.value}"


class Fetch:
    """
    The state of one fetch.

    `send_wants` is called with a peer and the blocks to ask it for. Everything runs in one trio
    task or in calls from the receivers of the same loop, so nothing here needs a lock.
    """

    def __init__(
        self,
        root: ContentId,
        sources: Sequence[str],
        *,
        bytes_max: int,
        store: FileBlockStore,
        limiter: trio.CapacityLimiter,
        send_wants: Callable[[str, list[ContentId]], None],
    ) -> None:
        self.root = root
        self.sources = [Source(address=address) for address in sources[:SOURCES_MAX]]
        self.error: GpuMarketError | None = None
        self.fetched_bytes = 0
        self.total_bytes = 0
        self._bytes_max = bytes_max
        self._store = store
        self._limiter = limiter
        self._send_wants = send_wants
        self._frontier: list[ContentId] = [root]
        self._missing: deque[ContentId] = deque()
        self._in_flight: dict[bytes, ContentId] = {}
        self._seen: set[tuple[Codec, bytes]] = {(root.codec, root.digest)}
        self._changed = trio.Event()
        self._next_source = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        if self.error is not None:
            return True
        return not (self._frontier or self._missing or self._in_flight)

    async def run(self) -> None:
        """Work until the graph is whole or cannot be; failures are left in `error`."""
        while not self.is_over:
            changed = self._changed
            if self._frontier and len(self._missing) < LOOKAHEAD_MAX:
                await self._inspect()
                continue
            self._check_sources()
            self._assign()
            with trio.move_on_after(1.0):
                await changed.wait()

    def take_block(self, peer_id: str, cid: ContentId, data: bytes) -> None:
        """A stored and checked block has arrived; it may be one that was asked of another peer."""
        for source in self.sources:
            if source.peer_id == peer_id:
                source.progress_at = trio.current_time()
                source.hung_up_at = math.inf
                if source.state is not SourceState.REFUSED:
                    source.state = SourceState.HAS
            source.owed.pop(cid.digest, None)
        wanted = self._in_flight.pop(cid.digest, None)
        if wanted is None and self._is_missing_root(cid.digest):
            self._missing.clear()
            wanted = self.root
        if wanted is not None:
            self.fetched_bytes += len(data)
            self._account(wanted, len(data), data if wanted.codec is Codec.DAG_PB else b"")
        self._wake()

    def take_presence(self, peer_id: str, cid: ContentId, *, has: bool) -> None:
        """A peer has said whether it has a block."""
        for source in self.sources:
            if source.peer_id != peer_id or source.state is SourceState.REFUSED:
                continue
            if has:
                source.lacks.pop(cid.digest, None)
                if cid.digest == self.root.digest:
                    source.state = SourceState.HAS
            elif cid.digest == self.root.digest and source.state is not SourceState.HAS:
                source.state = SourceState.LACKS
            if not has and source.owed.pop(cid.digest, None) is not None:
                source.lacks[cid.digest] = trio.current_time()
                self._give_back([cid.digest])
        self._wake()

    def lose_peer(self, peer_id: str, state: SourceState, reason: str = "") -> None:
        """A peer is gone, silent or refused: what it owes goes to others."""
        for source in self.sources:
            if source.peer_id == peer_id and source.state is not SourceState.REFUSED:
                source.state = state
                source.reason = reason
                source.hung_up_at = math.inf
                self._give_back(source.owed)
                source.owed.clear()
        self._wake()

    def fail(self, error: GpuMarketError) -> None:
        """Give up, for a reason that lies on our own side."""
        self.error = error
        self._wake()

    def note_hang_up(self, peer_id: str) -> None:
        """A peer has closed its last stream; it may open another at once."""
        for source in self.sources:
            if source.peer_id == peer_id:
                source.hung_up_at = trio.current_time()

    def has_debtor(self, peer_id: str) -> bool:
        """Say whether a peer still owes this fetch something."""
        return any(source.peer_id == peer_id and source.owed for source in self.sources)

    def is_in_flight(self, digest: bytes) -> bool:
        """Say whether a block has been asked for and not arrived."""
        if self.error is not None:
            return False
        return digest in self._in_flight or self._is_missing_root(digest)

    def _is_missing_root(self, digest: bytes) -> bool:
        # Kubo answers "do you have this small block?" with the block.
        is_root = digest == self.root.digest
        return is_root and len(self._missing) == 1 and self._missing[0] == self.root

    def is_owed(self, peer_id: str, cid: ContentId) -> bool:
        """Say whether a peer is still to send one block."""
        return any(
            source.peer_id == peer_id
            and (cid.digest in source.owed or cid.digest == self.root.digest)
            for source in self.sources
        )

    def list_owed(self) -> Iterable[tuple[str, list[ContentId]]]:
        """Give what is still asked of whom, to be cancelled at the end."""
        return [(s.peer_id, [self.root, *s.owed.values()]) for s in self.sources if s.peer_id]

    def explain_failure(self, deadline_s: float) -> ContentError:
        """Say why the deadline passed: who was asked and what each of them did."""
        asked = "; ".join(source.describe() for source in self.sources) or "nobody to ask"
        if self.fetched_bytes == 0 and not any(s.state is SourceState.HAS for s in self.sources):
            having = sum(s.state is SourceState.HAS for s in self.sources)
            return ContentError(
                f"{format_cid(self.root)} cannot be found: "
                f"{having} of {len(self.sources)} peers have its root block",
                code="GM-6012",
                why=f"asked for {deadline_s:g} s: {asked}",
                hints=("check the CID; the one who added it must be running and reachable",),
            )
        return ContentError(
            f"{format_cid(self.root)} did not arrive whole within {deadline_s:g} s",
            code="GM-6015",
            why=f"{self.fetched_bytes} bytes came in; {asked}",
            hints=("fetch it again: blocks that are here are not asked for twice",),
        )

    async def _inspect(self) -> None:
        batch = [self._frontier.pop() for _ in range(min(INSPECT_BATCH, len(self._frontier)))]
        try:
            found = await trio.to_thread.run_sync(self._read_present, batch, limiter=self._limiter)
        except ContentError as error:
            self.error = error
            return
        for cid, size, data in found:
            if size is None:
                self._missing.append(cid)
            else:
                self._account(cid, size, data)

    def _read_present(self, cids: list[ContentId]) -> list[tuple[ContentId, int | None, bytes]]:
        found: list[tuple[ContentId, int | None, bytes]] = []
        for cid in cids:
            size, data = self._store.find_size(cid), b""
            if size is not None and cid.codec is Codec.DAG_PB:
                try:
                    data = self._store.get(cid)
                except ContentError:
                    size = None  # damaged and removed, or collected just now
            found.append((cid, size, data))
        return found

    def _account(self, cid: ContentId, size: int, data: bytes) -> None:
        self.total_bytes += size
        claimed = size
        if cid.codec is Codec.DAG_PB:
            try:
                links = list_links_untrusted(cid, data)
            except RemoteProtocolError as error:
                self.error = ContentError(
                    f"{format_cid(self.root)} is not content that can be read",
                    code="GM-6017",
                    why=f"{format_cid(cid)}: {error.message}",
                )
                return
            claimed += sum(link.total_bytes for link in links)
            for link in reversed(links):
                key = (link.cid.codec, link.cid.digest)
                if key not in self._seen:
                    self._seen.add(key)
                    self._frontier.append(link.cid)
        self._check_size(claimed if cid == self.root else 0)

    def _check_size(self, claimed: int) -> None:
        # The root's own claim is believed when it is too large, so that nothing is fetched in
        # vain; when it is a lie the bytes that really arrive are counted.
        if max(self.total_bytes, claimed) > self._bytes_max:
            self.error = ContentError(
                f"{format_cid(self.root)} is larger than was allowed",
                code="GM-6013",
                why=f"it has at least {max(self.total_bytes, claimed)} bytes, "
                f"the limit is {self._bytes_max}",
            )
        elif len(self._seen) > FETCH_BLOCKS_MAX:
            self.error = ContentError(
                f"{format_cid(self.root)} has more than {FETCH_BLOCKS_MAX} blocks", code="GM-6013"
            )

    def _check_sources(self) -> None:
        now = trio.current_time()
        for source in self.sources:
            if source.owed and now - source.progress_at > STALL_S:
                self.lose_peer(source.peer_id, SourceState.STALLED)
            if source.owed and now - source.hung_up_at > HANG_UP_S:
                self.lose_peer(source.peer_id, SourceState.CONNECTING, "hung up")
            for digest in [d for d, at in source.lacks.items() if now - at > ASK_AGAIN_S]:
                del source.lacks[digest]
        if all(source.state is SourceState.REFUSED for source in self.sources):
            asked = "; ".join(source.describe() for source in self.sources)
            code = "GM-6014" if self.sources else "GM-6012"
            self.error = ContentError(
                f"nobody left to fetch {format_cid(self.root)} from",
                code=code,
                why=asked or "no source was given and it is not here",
            )

    def _assign(self) -> None:
        """Hand out missing blocks, the oldest first, to whoever owes least."""
        orders: dict[str, list[ContentId]] = {}
        able = [source for source in self.sources if source.state is SourceState.HAS]
        postponed: list[ContentId] = []
        while self._missing and able:
            cid = self._missing.popleft()
            source = self._choose_source(cid, able)
            if source is None:
                postponed.append(cid)
                if all(len(source.owed) >= WANTS_PER_PEER_MAX for source in able):
                    break
                continue
            if not source.owed:
                source.progress_at = trio.current_time()
            source.owed[cid.digest] = cid
            self._in_flight[cid.digest] = cid
            orders.setdefault(source.peer_id, []).append(cid)
        self._missing.extendleft(reversed(postponed))
        for peer_id, cids in orders.items():
            self._send_wants(peer_id, cids)

    def _choose_source(self, cid: ContentId, able: list[Source]) -> Source | None:
        free = [
            source
            for source in able
            if len(source.owed) < WANTS_PER_PEER_MAX and cid.digest not in source.lacks
        ]
        return min(free, key=lambda source: len(source.owed)) if free else None

    def _give_back(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            cid = self._in_flight.pop(digest, None)
            if cid is not None:
                self._missing.appendleft(cid)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
