"""
The watchtower: reads what the chain's payments are, and answers, proves, demands and ends.

Each look reads the confirmed blocks since the last one, gets the papers of the batches that
concern this node, writes down what it knows, and only then acts; whatever it was doing when it
died, the next look does what is left. After a reorg the blocks that changed are read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from gpumarket.adapters.batch_papers import Archive, drop_papers, read_papers
from gpumarket.adapters.chain import ChainFact, Rules
from gpumarket.adapters.first_blocks import REORG_BLOCKS
from gpumarket.adapters.logs import Log
from gpumarket.adapters.watch_deeds import Bench, Court, FindApproval, carry_out
from gpumarket.adapters.watch_memory import load_memory, save_memory
from gpumarket.protocol.cases import list_open, list_pushes
from gpumarket.protocol.duties import (
    ChallengeLeaf,
    ChallengeWithheld,
    Duty,
    Objection,
    SettleDirect,
)
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, ContentError, LostRace
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.juries import CaseRecord
from gpumarket.protocol.objections import (
    Papers,
    Registry,
    examine,
    list_attestors,
    list_concerned,
    list_unsigned,
    object_withheld,
)
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount, format_money
from gpumarket.protocol.watching import (
    KnownBatch,
    Memory,
    OwnClaim,
    Viewer,
    WatchRules,
    forget_old,
    forget_since,
    list_answers,
    list_double_directs,
    list_exits,
    list_parties,
    list_settlements,
    list_timeouts,
    note_claim,
    note_event,
)

MEMORY_NAME: Final = "watch.msgpack"
BLOCKS_MAX: Final = 20_000
"""Blocks read in one look; a node that was away for long takes several."""
WITHHELD_SHARE: Final = 4
"""A document is called withheld after this share of OPEN; most of it is left to object."""
TRIES_MIN: Final = 3
"""And not before it was asked for so often."""
FETCH_SHARE: Final = 20
FETCH_SECONDS_MAX: Final = 30.0
FETCHES_MAX: Final = 8
"""Batches whose papers are asked for at once."""
LOOKS_BETWEEN_TRIES: Final = 20
"""Between two tries for what was called withheld already."""
UNSAVED_BLOCKS_MAX: Final = 50
"""Empty blocks that are read again after a crash."""
TOLD_MAX: Final = 1_000
LOOKS_IN_WINDOW: Final = 20
"""Looks at the chain within the shorter of OPEN and RESPONSE."""
LOOK_SECONDS: Final = (0.5, 12.0)


class WatchedChain(Court, Protocol):
    """What is needed of the chain."""

    @property
    def confirmations(self) -> int:
        """Blocks on top before an event counts."""

    async def head(self) -> tuple[int, int]:
        """Return the newest block's number and time."""

    async def read_block(self, number: int) -> tuple[Hash32, int]:
        """Return a block's hash and time."""

    async def read_facts(self, from_block: int, to_block: int | None = None) -> list[ChainFact]:
        """Return the contracts' events in order."""

    async def read_escrow(self, requester: Address) -> Amount:
        """Return an escrow without what was asked back."""

    async def read_role(self, operator: Address) -> int:
        """Return what an account is registered as."""

    async def read_case(self, case: int) -> CaseRecord | None:
        """Return where a case stands; None where it is closed."""

    async def is_presigned(self, account: Address, order_hash: Hash32) -> bool:
        """Say whether an order was signed by transaction."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people may want to know: one line."""

    kind: str
    """`batch` where all is right, `wrong`, `withheld`; `done`, `refused`, `failed`, `no-bond`."""
    text: str
    duty: str = ""
    """The duty's kind, where it is about one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """For whom it is watched; the callables are asked at each look."""

    folder: Path
    """Where the memory is kept."""
    log: Log
    find_viewer: Callable[[], Viewer]
    leave: Callable[[Address], Awaitable[str]]
    """Leave a coordinator that was caught; what was done, empty where it was done before."""
    list_claims: Callable[[], Sequence[OwnClaim]] = tuple
    find_approval: FindApproval = lambda _receipt_hash, _order: None
    tell: Callable[[Notice], None] = lambda _notice: None


class Watchtower:
    """One node's watch over one market; `look` is one round, `run` goes on for ever."""

    def __init__(
        self,
        *,
        chain: WatchedChain,
        archive: Archive,
        domain: Domain,
        rules: Rules,
        owner: Owner,
        draw: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._archive = archive
        self._domain = domain
        self._bond = rules.challenge_bond
        self._look_back = rules.order_lifetime + 2 * rules.epoch
        self._rules = WatchRules(
            disputes=rules.disputes,
            epoch=rules.epoch,
            open=rules.open,
            response=rules.response,
            seed_delay_blocks=rules.seed_delay_blocks,
        )
        self.fetch_seconds = min(rules.open / FETCH_SHARE, FETCH_SECONDS_MAX)
        """For one batch's document, and as much for its bills."""
        self._path = owner.folder / MEMORY_NAME
        self._owner = owner
        self._draw = draw
        self._log = owner.log
        self._memory: Memory | None = None
        self._saved_block = 0
        self._looks = 0
        self._told: dict[str, None] = {}
        self._tried: dict[bytes, int] = {}
        """Payment lines that were tried to be settled directly, and the look at which again."""
        self._limiter = trio.CapacityLimiter(FETCHES_MAX)
        self._examining = trio.Lock()

    @property
    def pause_seconds(self) -> float:
        """Between two looks."""
        shortest = min(self._rules.open, self._rules.response)
        low, high = LOOK_SECONDS
        return min(max(shortest / LOOKS_IN_WINDOW, low), high)

    @property
    def next_block(self) -> int:
        """The first block not read."""
        return 0 if self._memory is None else self._memory.next_block

    async def run(self) -> None:
        """Look for ever; a chain that does not answer is asked again."""
        is_reached = True
        while True:
            try:
                await self.look()
                is_reached = True
            except ChainError as error:
                if is_reached:
                    self._log.warn("the chain cannot be watched", reason=error.message)
                is_reached = False
            await trio.sleep(self.pause_seconds)

    async def look(self) -> None:
        """Read what is new, write it down, do what follows."""
        head, now = await self._chain.head()
        memory = await self._recall(head, now)
        self._memory = memory
        viewer = self._owner.find_viewer()
        changed = await self._read_chain(memory, viewer, head)
        claims = [each for each in self._owner.list_claims() if each.order.body.expiry >= now]
        for claim in claims:
            changed |= note_claim(memory, claim)
        changed |= await self._read_batches(memory, viewer, now)
        # Before anything is done about it: what is known must not be lost with this process.
        if changed or memory.next_block >= self._saved_block + UNSAVED_BLOCKS_MAX:
            await self._forget(memory, viewer, now)
            await self._save(memory)
        if await self._act(memory, viewer, now):
            await self._save(memory)
        self._looks += 1

    async def _save(self, memory: Memory) -> None:
        await save_memory(self._path, memory)
        self._saved_block = memory.next_block

    # ---- reading the chain -----------------------------------------------------------------

    async def _recall(self, head: int, now: int) -> Memory:
        if self._memory is None:
            self._memory = await load_memory(self._path)
        if self._memory is None:
            first = await self._find_block(head, at=now - self._look_back)
            self._memory = Memory(next_block=first)
            self._log.info("watching the chain", from_block=first)
        return self._memory

    async def _find_block(self, head: int, *, at: int) -> int:
        """Return the first block at or after a time."""
        low, high = 0, head
        while low < high:
            middle = (low + high) // 2
            _, made_at = await self._chain.read_block(middle)
            if made_at < at:
                low = middle + 1
            else:
                high = middle
        return low

    async def _read_chain(self, memory: Memory, viewer: Viewer, head: int) -> bool:
        """Fold the blocks that are new; say whether there was anything in them."""
        changed = await self._check_reorg(memory, head)
        last = min(head - self._chain.confirmations, memory.next_block + BLOCKS_MAX - 1)
        if last < memory.next_block:
            return changed
        # The hash first: were the block replaced meanwhile, the next look would see it.
        last_hash, _ = await self._chain.read_block(last)
        facts = await self._chain.read_facts(memory.next_block, last)
        for fact in facts:
            note_event(memory, fact, viewer=viewer, rules=self._rules)
        memory.next_block, memory.last_hash = last + 1, last_hash
        return changed or bool(facts)

    async def _check_reorg(self, memory: Memory, head: int) -> bool:
        last = memory.next_block - 1
        if last < 0 or memory.last_hash == bytes(32):
            return False
        if last <= head and (await self._chain.read_block(last))[0] == memory.last_hash:
            return False
        first = max(0, min(last, head) - REORG_BLOCKS)
        self._log.warn("the chain was reorganized; looking again", from_block=first)
        forget_since(memory, first)
        return True

    # ---- reading papers --------------------------------------------------------------------

    async def _read_batches(self, memory: Memory, viewer: Viewer, now: int) -> bool:
        """Get what is not read yet, several at once; say whether there was any."""
        wanted = [known for known in memory.batches.values() if self._is_wanted(known, now)]
        async with trio.open_nursery() as nursery:
            for known in wanted:
                nursery.start_soon(self._read_batch, memory, known, viewer, now)
        return bool(wanted)

    def _is_wanted(self, known: KnownBatch, now: int) -> bool:
        is_disputable = now < known.posted.posted_at + 2 * self._rules.epoch
        is_turn = known.status == "unread" or self._looks % LOOKS_BETWEEN_TRIES == 0
        return known.status != "read" and is_disputable and is_turn

    async def _read_batch(
        self, memory: Memory, known: KnownBatch, viewer: Viewer, now: int
    ) -> None:
        posted = known.posted
        async with self._limiter:
            papers, is_whole = await self._fetch(known, viewer)
        known.tries += 1
        patience = posted.posted_at + self._rules.open // WITHHELD_SHARE
        is_patient = known.tries < TRIES_MIN or now < patience
        if not is_whole and (is_patient or known.status == "withheld"):
            return
        if papers is None:
            draws = [self._draw() for _ in list_concerned(posted, viewer)]
            found = object_withheld(known, viewer=viewer, rules=self._rules, draws=draws)
        else:
            registry = await self._read_registry(known, papers, viewer)
            async with self._examining:
                found = await trio.to_thread.run_sync(
                    partial(
                        examine,
                        known,
                        papers,
                        memory=memory,
                        viewer=viewer,
                        rules=self._rules,
                        registry=registry,
                    )
                )
        known.status = "read" if is_whole else "withheld"
        self._note_objections(memory, known, found, viewer=viewer)

    async def _fetch(self, known: KnownBatch, viewer: Viewer) -> tuple[Papers | None, bool]:
        posted = known.posted
        parties = list_parties(posted)
        wanted = [
            lane
            for lane, (requester, payee) in enumerate(parties)
            if viewer.me in (payee, posted.coordinator) or requester in viewer.payers
        ]
        return await read_papers(
            self._archive, posted, wanted=wanted, deadline_s=self.fetch_seconds
        )

    async def _load(self, known: KnownBatch) -> Papers | None:
        """Papers that were read before are on our disk."""
        papers, _ = await self._fetch(known, self._owner.find_viewer())
        return papers

    async def _read_registry(self, known: KnownBatch, papers: Papers, viewer: Viewer) -> Registry:
        roles: dict[Address, int] = {}
        presigned: set[Hash32] = set()
        concerned = list_concerned(known.posted, viewer)
        if concerned:
            for account in sorted(list_attestors(papers, concerned)):
                roles[account] = await self._chain.read_role(account)
            for requester, order_hash in list_unsigned(papers, self._domain):
                if await self._chain.is_presigned(requester, order_hash):
                    presigned.add(order_hash)
        return Registry(domain=self._domain, roles=roles, presigned=presigned)

    async def _forget(self, memory: Memory, viewer: Viewer, now: int) -> None:
        forgotten = forget_old(memory, me=viewer.me, rules=self._rules, now=now)
        for posted in forgotten:
            await drop_papers(self._archive, posted)

    def _note_objections(
        self, memory: Memory, known: KnownBatch, found: list[Objection], *, viewer: Viewer
    ) -> None:
        for objection in found:
            memory.objections[objection.spot.key] = objection
        posted = known.posted
        taken = sum(
            amount
            for requester, _, _, amount in posted.list_lanes()
            if posted.requesters[requester] in viewer.payers
        )
        what = f"batch {posted.sequence} moves {format_money(Amount(taken))}"
        if known.status == "withheld":
            text = f"{what}, but nobody shows all that it pays for; {len(found)} demands"
        elif found:
            text = f"{what}; {len(found)} of its payments are wrong: {found[0].why}"
        else:
            text = f"{what}; every payment is right"
        kind = "withheld" if known.status == "withheld" else "wrong" if found else "batch"
        self._tell(Notice(kind, text))

    # ---- doing -----------------------------------------------------------------------------

    async def _act(self, memory: Memory, viewer: Viewer, now: int) -> bool:
        """Do everything that is due, what ends first at the head; say whether anything changed."""
        bench = Bench(
            court=self._chain,
            domain=self._domain,
            memory=memory,
            load_papers=self._load,
            find_approval=self._owner.find_approval,
            leave=self._owner.leave,
        )
        objections = sorted(memory.objections.values(), key=lambda each: -each.price)
        duties: list[Duty] = []
        duties += list_answers(memory, viewer=viewer, rules=self._rules, now=now)
        duties += list_timeouts(memory, viewer=viewer, now=now)
        duties += objections
        duties += list_double_directs(memory, rules=self._rules)
        duties += list_exits(memory, viewer=viewer)
        duties += self._list_settlements(memory, viewer, now)
        duties += await self._list_pushes(memory, now)
        changed = False
        for duty in duties:
            if not await self._can_afford(duty, viewer):
                continue
            if await self._try(duty, bench):
                self._strike(memory, duty)
                changed = True
        return changed

    async def _list_pushes(self, memory: Memory, now: int) -> Sequence[Duty]:
        records = [await self._chain.read_case(each) for each in list_open(memory.cases)]
        return list_pushes(
            [record for record in records if record is not None],
            cases=memory.cases,
            block=memory.next_block - 1,
            now=now,
            response=self._rules.response,
            seed_delay_blocks=self._rules.seed_delay_blocks,
        )

    def _list_settlements(self, memory: Memory, viewer: Viewer, now: int) -> Sequence[Duty]:
        approved = []
        for key, claim in memory.claims.items():
            name, order = claim.receipt.body.compute_struct_hash(), claim.order.body
            is_turn = self._looks >= self._tried.get(key, 0)
            if is_turn and order.settle_by < now and self._owner.find_approval(name, order):
                approved.append(name)
        return list_settlements(memory, viewer=viewer, approved=approved, now=now)

    def _strike(self, memory: Memory, duty: Duty) -> None:
        if isinstance(duty, Objection):
            memory.objections.pop(duty.spot.key, None)
        if isinstance(duty, SettleDirect):
            # An escrow may be filled later, so a refusal is not the end; a mined one shows soon.
            self._tried = {k: v for k, v in self._tried.items() if k in memory.claims}
            self._tried[duty.key] = self._looks + LOOKS_BETWEEN_TRIES

    async def _can_afford(self, duty: Duty, viewer: Viewer) -> bool:
        if not isinstance(duty, ChallengeLeaf | ChallengeWithheld):
            return True
        if await self._chain.read_escrow(viewer.me) >= self._bond:
            return True
        bond = format_money(self._bond)
        text = f"{duty.why}; no escrow for the bond of {bond}: gpumarket wallet deposit {bond}"
        self._tell(Notice("no-bond", text, _name(duty)))
        return False

    async def _try(self, duty: Duty, bench: Bench) -> bool:
        """Do one duty; False where it is to be tried again."""
        try:
            done = await carry_out(duty, bench)
        except (BrokenPrecondition, LostRace) as error:
            self._tell(Notice("refused", f"{duty.why}; {error.message}", _name(duty)))
            return True
        except (ChainError, ContentError) as error:
            self._tell(Notice("failed", f"{duty.why}; {error.message}", _name(duty)))
            return False
        if done:
            self._tell(Notice("done", f"{duty.why}; {done}", _name(duty)))
        return True

    def _tell(self, notice: Notice) -> None:
        if notice.text in self._told:
            return  # tried again and again, said once
        while len(self._told) >= TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._told[notice.text] = None
        is_bad = notice.kind not in ("batch", "done")
        (self._log.warn if is_bad else self._log.info)(
            notice.text, what=notice.kind, duty=notice.duty or None
        )
        self._owner.tell(notice)


def _name(duty: Duty) -> str:
    return type(duty).__name__
