"""
Bitswap on the role's own libp2p host: serves the blocks we hold and fetches those we miss.

Each side answers on a stream that it opens itself, as Kubo does, so there is one outgoing stream
and one writer for each peer. Nothing a peer does makes a queue grow without a bound: what it may
want, what it may send unasked and how many peers are held at once are the constants below.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from gpumarket.adapters.blockstore import FileBlockStore
from gpumarket.adapters.fetching import ASK_AGAIN_S, STALL_S, Fetch, Source, SourceState
from gpumarket.adapters.logs import Log
from gpumarket.adapters.peer_link import MESSAGE_DEADLINE_S, Link, MessageReader
from gpumarket.adapters.session import PeerUnreachable, RawStream, StreamClosed
from gpumarket.protocol.bitswap import (
    MESSAGE_BYTES_MAX,
    BitswapMessage,
    Presence,
    Want,
    decode_message_untrusted,
    encode_message,
)
from gpumarket.protocol.cids import ContentId, compute_digest
from gpumarket.protocol.errors import ContentError, GpuMarketError, RemoteProtocolError
from gpumarket.protocol.unixfs import Block

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

log = Log("bitswap")

PROTOCOLS = ("/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.0.0")
PEERS_MAX = 256
STREAMS_PER_PEER_MAX = 16
"""Kubo answers with eight workers, each message on a stream of its own."""
WANTS_PER_PEER_MAX = 1_024
"""What one peer may have open with us; further wants are refused."""
ANSWERS_PER_PEER_MAX = 8_192
"""Presences not yet written to a peer; beyond this we stop reading from it."""
UNASKED_MESSAGE_BYTES_MAX = 512 * 2**10
"""A peer from whom we want nothing has no reason for a longer message than a full want list."""
SEND_BATCH_BYTES = 512 * 2**10
SENDERS_MAX = 64
IDLE_S = 30.0
RECONNECT_S = 1.0
RECONNECT_MAX_S = 15.0
WATCH_S = 0.2


class Network(Protocol):
    """What Bitswap needs of the peer-to-peer adapter."""

    def serve_raw(self, protocol: str, handler: Callable[[RawStream], Awaitable[None]]) -> None:
        """Call `handler` with every stream that a peer opens."""

    async def open_raw(self, peer_id: str, protocol: str, *, address: str = "") -> RawStream:
        """Open a stream to a peer; raises `PeerUnreachable`."""

    async def disconnect(self, peer_id: str) -> None:
        """Break off every connection to a peer."""


class Bitswap:
    """One engine for each host; `run` must be running for anything to move."""

    def __init__(
        self,
        network: Network,
        store: FileBlockStore,
        *,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._network = network
        self._store = store
        self._limiter = limiter
        self._send_slots = trio.CapacityLimiter(SENDERS_MAX)
        self._links: OrderedDict[str, Link] = OrderedDict()
        self._fetches: set[Fetch] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for protocol in PROTOCOLS:
                self._network.serve_raw(protocol, self._receive)
            task_status.started()
            await trio.sleep_forever()

    async def fetch(
        self, root: ContentId, sources: Sequence[str], *, deadline_s: float, bytes_max: int
    ) -> int:
        """
        Bring every block below `root` into the store; give the bytes that had to be fetched.

        `sources` are peer addresses ending in /p2p/<peer id>, or ids of connected peers. Raises
        `ContentError` GM-6012 to GM-6017 and GM-6030.
        """
        fetch = Fetch(
            root,
            sources,
            bytes_max=bytes_max,
            store=self._store,
            limiter=self._limiter,
            send_wants=self._ask,
        )
        self._fetches.add(fetch)
        try:
            with trio.move_on_after(deadline_s):
                async with trio.open_nursery() as nursery:
                    for source in fetch.sources:
                        nursery.start_soon(self._keep_source, fetch, source)
                    await fetch.run()
                    nursery.cancel_scope.cancel()
        finally:
            self._fetches.discard(fetch)
            self._cancel_wants(fetch)
        if fetch.error is not None:
            raise fetch.error
        if not fetch.is_over:
            raise fetch.explain_failure(deadline_s)
        return fetch.fetched_bytes

    async def announce_stored(self) -> None:
        """Answer the peers that have been waiting for blocks which are here now."""
        for link in list(self._links.values()):
            if link.waiting:
                wants = tuple(link.waiting.values())
                link.waiting.clear()
                await self._answer_wants(link, wants)

    # Asking.

    async def _keep_source(self, fetch: Fetch, source: Source) -> None:
        """Keep one peer of a fetch connected and asked, until the fetch ends."""
        pause_s = RECONNECT_S
        while source.state is not SourceState.REFUSED:
            try:
                await self._reach(fetch, source)
            except GpuMarketError as error:
                source.reason = _explain(error)
                source.state = SourceState.CONNECTING
            else:
                pause_s = RECONNECT_S
                await self._watch(fetch, source)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    async def _reach(self, fetch: Fetch, source: Source) -> None:
        source.peer_id = source.address.rpartition("/p2p/")[2]
        link = self._find_link(source.peer_id)
        if link is None:
            raise PeerUnreachable("too many peers", why=f"{PEERS_MAX} are held already")
        link.address = source.address if source.address.startswith("/") else ""
        source.state = SourceState.ASKED
        source.reason = ""
        source.progress_at = trio.current_time()
        self._ask_for_root(fetch, link)

    def _ask_for_root(self, fetch: Fetch, link: Link) -> None:
        link.remember_asked(fetch.root)
        want = Want(fetch.root, is_have_only=True, wants_refusal=True)
        link.own_wants.setdefault(fetch.root.digest, want)
        self._start_sending(link)

    async def _watch(self, fetch: Fetch, source: Source) -> None:
        """Wait while a peer is of use, and ask one that has nothing again now and then."""
        asked_at = trio.current_time()
        while source.state in (SourceState.ASKED, SourceState.HAS, SourceState.LACKS):
            await trio.sleep(WATCH_S)
            silent_s = trio.current_time() - asked_at
            link = self._links.get(source.peer_id)
            if source.state is SourceState.ASKED and silent_s > STALL_S:
                # A connection to a peer that died without a word stays open for ever.
                fetch.lose_peer(source.peer_id, SourceState.STALLED, "did not answer")
                await self._network.disconnect(source.peer_id)
            elif source.state is SourceState.LACKS and link and silent_s > ASK_AGAIN_S:
                asked_at = trio.current_time()
                self._ask_for_root(fetch, link)

    def _ask(self, peer_id: str, cids: list[ContentId]) -> None:
        link = self._find_link(peer_id)
        if link is None:
            return
        for cid in cids:
            link.remember_asked(cid)
            link.own_wants[cid.digest] = Want(cid, wants_refusal=True)
        self._start_sending(link)

    def _cancel_wants(self, fetch: Fetch) -> None:
        for peer_id, cids in fetch.list_owed():
            link = self._links.get(peer_id)
            if link is not None:
                for cid in cids:
                    if not self._is_wanted(peer_id, cid):
                        link.own_wants[cid.digest] = Want(cid, is_cancel=True)
                self._start_sending(link)

    def _is_wanted(self, peer_id: str, cid: ContentId) -> bool:
        return any(fetch.is_owed(peer_id, cid) for fetch in self._fetches)

    # Writing to a peer.

    def _find_link(self, peer_id: str) -> Link | None:
        link = self._links.get(peer_id)
        if link is None:
            if len(self._links) >= PEERS_MAX and not self._drop_idle_link():
                return None
            link = self._links[peer_id] = Link(peer_id)
        return link

    def _drop_idle_link(self) -> bool:
        for peer_id, link in self._links.items():
            if not (link.is_sending or link.stream_count or link.has_work):
                del self._links[peer_id]
                return True
        return False

    def _start_sending(self, link: Link) -> None:
        link.signal()
        if not link.is_sending and self._nursery is not None:
            link.is_sending = True
            self._nursery.start_soon(self._send, link)

    async def _send(self, link: Link) -> None:
        """Write to one peer until there is nothing to say for a while."""
        stream: RawStream | None = None
        try:
            while await self._wait_for_work(link):
                async with self._send_slots:
                    message = await self._take_message(link)
                    with trio.fail_after(MESSAGE_DEADLINE_S):
                        if stream is None:
                            stream = await self._open(link)
                        await stream.write(message)
                link.drained.set()
                link.drained = trio.Event()
            if stream is not None:
                await stream.close()
        except (StreamClosed, PeerUnreachable, trio.TooSlowError) as error:
            if stream is not None:
                await stream.reset()
            self._forget_debts(link)
            reason = "went away" if isinstance(error, trio.TooSlowError) else _explain(error)
            for fetch in list(self._fetches):
                fetch.lose_peer(link.peer_id, SourceState.CONNECTING, reason)
        finally:
            link.is_sending = False
        if link.has_work:
            self._start_sending(link)

    async def _wait_for_work(self, link: Link) -> bool:
        with trio.move_on_after(IDLE_S):
            while not link.has_work:
                link.wake = trio.Event()
                await link.wake.wait()
        return link.has_work

    async def _open(self, link: Link) -> RawStream:
        error: PeerUnreachable | None = None
        for protocol in PROTOCOLS:
            try:
                return await self._network.open_raw(link.peer_id, protocol, address=link.address)
            except PeerUnreachable as refusal:
                error = error or refusal
        raise error or PeerUnreachable("no protocol in common")

    async def _take_message(self, link: Link) -> bytes:
        wants = list(link.own_wants.values())
        presences = link.presences[:ANSWERS_PER_PEER_MAX]
        link.own_wants.clear()
        link.presences = []
        cids: list[ContentId] = []
        blocks: list[Block] = []
        if link.to_send:
            cids = list(link.to_send.values())
            blocks, missing = await trio.to_thread.run_sync(
                self._read_blocks, cids, limiter=self._limiter
            )
            for cid in [block.cid for block in blocks] + missing:
                link.to_send.pop(cid.digest, None)
            presences += [Presence(cid, has=False) for cid in missing]
        return encode_message(wants=wants, blocks=blocks, presences=presences)

    def _read_blocks(self, cids: list[ContentId]) -> tuple[list[Block], list[ContentId]]:
        blocks: list[Block] = []
        missing: list[ContentId] = []
        size = 0
        for cid in cids:
            if size >= SEND_BATCH_BYTES:
                break
            try:
                blocks.append(Block(cid, self._store.get(cid)))
                size += len(blocks[-1].data)
            except ContentError:
                missing.append(cid)
        return blocks, missing

    def _forget_debts(self, link: Link) -> None:
        for queue in (link.own_wants, link.presences, link.to_send, link.waiting):
            queue.clear()

    # Reading from a peer.

    async def _receive(self, stream: RawStream) -> None:
        """Read what one peer sends on one stream, until it ends or breaks the protocol."""
        peer_id = stream.remote_peer_id
        link = self._find_link(peer_id)
        if link is None or link.stream_count >= STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        link.stream_count += 1
        is_broken = False
        try:
            reader = MessageReader(stream)
            while (body := await reader.read(self._find_message_limit(link))) is not None:
                await self._take(link, decode_message_untrusted(body))
            await stream.close()
        except RemoteProtocolError as error:
            log.warn("peer broke the Bitswap protocol", peer=peer_id, why=error.message)
            await stream.reset()
            for fetch in list(self._fetches):
                fetch.lose_peer(peer_id, SourceState.REFUSED, f"sent wrong bytes: {error.message}")
        except (StreamClosed, trio.TooSlowError):
            is_broken = True
            await stream.reset()
        finally:
            link.stream_count -= 1
            if link.stream_count == 0:
                self._note_silence(peer_id, is_broken=is_broken)

    def _note_silence(self, peer_id: str, *, is_broken: bool) -> None:
        # Answers come on streams that the peer opens, Kubo's on a new one for each message. So a
        # stream that ended well says little, and one that broke says that the peer is gone.
        for fetch in list(self._fetches):
            if fetch.has_debtor(peer_id):
                if is_broken:
                    fetch.lose_peer(peer_id, SourceState.CONNECTING, "hung up")
                else:
                    fetch.note_hang_up(peer_id)

    def _find_message_limit(self, link: Link) -> int:
        return MESSAGE_BYTES_MAX if link.asked else UNASKED_MESSAGE_BYTES_MAX

    async def _take(self, link: Link, message: BitswapMessage) -> None:
        for data in message.blocks:
            await self._take_block(link, data)
        for cid, has in message.presences:
            for fetch in list(self._fetches):
                fetch.take_presence(link.peer_id, cid, has=has)
        if message.is_full:
            link.to_send.clear()
            link.waiting.clear()
        if message.wants:
            await self._answer_wants(link, message.wants)
            with trio.fail_after(MESSAGE_DEADLINE_S):
                while len(link.presences) > ANSWERS_PER_PEER_MAX:
                    await link.drained.wait()

    async def _take_block(self, link: Link, data: bytes) -> None:
        try:
            cid, is_stored = await trio.to_thread.run_sync(
                self._store_asked, link, data, limiter=self._limiter
            )
        except ContentError as error:  # our own disk or quota: no fetch can go on
            for fetch in list(self._fetches):
                fetch.fail(error)
            return
        for fetch in list(self._fetches):
            if is_stored:
                fetch.take_block(link.peer_id, cid, data)
            else:
                fetch.take_presence(link.peer_id, cid, has=True)

    def _store_asked(self, link: Link, data: bytes) -> tuple[ContentId, bool]:
        """Store a block that was asked for, unless it comes too late to be of use."""
        digest = compute_digest(data)
        cid = link.asked.get(digest)
        if cid is None:
            raise RemoteProtocolError("a block that nobody asked it for, or a damaged one")
        is_wanted = any(fetch.is_in_flight(digest) for fetch in list(self._fetches))
        if is_wanted:
            self._store.put(cid, data)
        return cid, is_wanted

    async def _answer_wants(self, link: Link, wants: Sequence[Want]) -> None:
        open_wants: list[Want] = []
        for want in wants:
            link.to_send.pop(want.cid.digest, None)
            link.waiting.pop(want.cid.digest, None)
            if not want.is_cancel:
                open_wants.append(want)
        sizes = await trio.to_thread.run_sync(self._find_sizes, open_wants, limiter=self._limiter)
        for want, size in zip(open_wants, sizes, strict=True):
            self._answer_want(link, want, size)
        self._start_sending(link)

    def _find_sizes(self, wants: list[Want]) -> list[int | None]:
        return [self._store.find_size(want.cid) for want in wants]

    def _answer_want(self, link: Link, want: Want, size: int | None) -> None:
        is_full = len(link.to_send) + len(link.waiting) >= WANTS_PER_PEER_MAX
        if size is not None and want.is_have_only:
            link.presences.append(Presence(want.cid, has=True))
        elif size is not None and not is_full:
            link.to_send[want.cid.digest] = want.cid
        else:
            if want.wants_refusal:
                link.presences.append(Presence(want.cid, has=False))
            if size is None and not is_full:
                link.waiting[want.cid.digest] = want


def _explain(error: GpuMarketError) -> str:
    return f"was not reached ({error.message}: {error.why})"[:200]
