"""
Watching: what a node remembers of the chain's payments, and what it must do about disputes.

Pure. `Memory` is folded from the contracts' events in their order and can be written down; the
functions below say what follows from it for one node, each duty with its last moment and a
sentence why. Times are the chain's unix seconds, amounts base units. What is wrong with one batch
is found in `objections.py`; `adapters/watchtower.py` carries duties out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from gpumarket.protocol.cases import Cases, forget_closed, note_case, rewind_cases
from gpumarket.protocol.disputes import find_last_proof
from gpumarket.protocol.duties import (
    FOREVER,
    Answer,
    Exit,
    Objection,
    ProveDouble,
    SettleDirect,
    Spot,
    TimeOut,
    make_batch_key,
)
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.ledger import Event
from gpumarket.protocol.openings import Place, PostedBatch
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import PaymentLeaf
from gpumarket.protocol.signing import Signed

BATCHES_MAX: Final = 10_000
"""Batches remembered; the oldest are forgotten first."""
ENDED_SECONDS: Final = 86_400
"""How long past its time a challenge that is over is remembered, for reorgs."""
ANSWER_SHARE: Final = 3
"""A payee waits so much of the answer's time for its coordinator, then answers itself."""


# ---- what is remembered --------------------------------------------------------------------


class KnownBatch(msgspec.Struct, kw_only=True):
    """A posted batch that concerns this node."""

    posted: PostedBatch
    block: int
    status: Literal["unread", "read", "withheld"] = "unread"
    """Read: document and bills are on our disk, and were looked at."""
    tries: int = 0
    """How often its papers were asked for."""


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf that was seen to pay a line."""

    spot: Spot
    payee: Address
    block: int


class DirectPayment(msgspec.Struct, frozen=True, kw_only=True):
    """A direct settlement, which is a batch of one leaf."""

    posted: PostedBatch
    leaf: PaymentLeaf
    block: int


class OpenChallenge(msgspec.Struct, frozen=True, kw_only=True):
    """`IDisputes.Challenge` with its number."""

    challenge_id: int
    place: Place
    leaf_hash: Hash32
    """Zero where the leaf itself is asked for."""
    price: int
    challenger: Address
    deadline: int
    block: int

    @property
    def spot(self) -> Spot:
        """Where the leaf stands."""
        place = self.place
        return Spot(
            coordinator=place.coordinator,
            sequence=place.sequence,
            lane=place.lane,
            index=place.index,
        )


class OwnClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt of ours with all that a direct settlement needs but the word of another."""

    order: Signed[Order]
    receipt: Signed[Receipt]
    assignment: Signed[Assignment]

    @property
    def line_key(self) -> bytes:
        """The payment line, as the memory names it."""
        receipt = self.receipt.body
        return make_line_key(self.order.body.coordinator, receipt.order_hash, receipt.unit)


class Memory(msgspec.Struct, kw_only=True):
    """All that is remembered between two looks at the chain, and over a restart."""

    next_block: int = 0
    """The first block not read."""
    last_hash: Hash32 = ZERO_HASH
    """Hash of the block before that; another one there is a reorg."""
    batches: dict[bytes, KnownBatch] = {}
    payments: dict[bytes, Payment] = {}
    """The first payment of each line, and of each evidence, of the orders that were looked at."""
    directs: dict[int, DirectPayment] = {}
    challenges: dict[int, OpenChallenge] = {}
    ended: dict[int, int] = {}
    """Those of them that are over, and the block."""
    void: dict[bytes, int] = {}
    """Leaves and lanes that went back, by `Spot.key` or `lane_key`, and the block."""
    caught: dict[Address, int] = {}
    """Who was slashed, and the block."""
    objections: dict[bytes, Objection] = {}
    """What is to be said against leaves, until it was said or no longer helps."""
    claims: dict[bytes, OwnClaim] = {}
    """Receipts of ours by payment line, until they are paid for good or can never be."""
    cases: Cases = {}
    """Cases against work of ours."""

    def is_void(self, spot: Spot) -> bool:
        """Say whether a leaf's price went back to its requester."""
        return spot.key in self.void or spot.lane_key in self.void

    def list_open(self) -> list[OpenChallenge]:
        """Return the challenges that nobody has ended."""
        return [each for key, each in self.challenges.items() if key not in self.ended]

    def find_payment(self, key: bytes) -> Payment | None:
        """Return the payment of a line or evidence that still stands."""
        found = self.payments.get(key)
        return None if found is None or self.is_void(found.spot) else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """For whom the chain is watched."""

    me: Address
    payers: frozenset[Address] = frozenset()
    """Requesters whose escrow matters to us: our own, or that of those we work for."""
    coordinators: frozenset[Address] = frozenset()
    """Coordinators that we have open orders or leases with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """The contract's seconds, and blocks where it says so."""

    disputes: Address
    epoch: int
    open: int
    response: int
    seed_delay_blocks: int


def make_line_key(coordinator: Address, order_hash: Hash32, line: int) -> bytes:
    """Name a payment line as one coordinator pays it; another's is none of this order."""
    return coordinator + order_hash + line.to_bytes(4, "big")


def make_evidence_key(coordinator: Address, order_hash: Hash32, evidence_hash: Hash32) -> bytes:
    """Name an order's evidence likewise; never the same as a line's name."""
    return coordinator + order_hash + evidence_hash


# ---- folding the chain's events ------------------------------------------------------------


def note_event(memory: Memory, event: Event, *, viewer: Viewer, rules: WatchRules) -> None:
    """Remember what an event means for this node; all else is ignored."""
    args = event.args
    match event.name:
        case "BatchPosted":
            _note_batch(memory, args, event.block, viewer)
        case "DirectSettled":
            _note_direct(memory, args, event.block, viewer=viewer, rules=rules)
        case "Challenged":
            _note_challenge(memory, args, event.block, viewer)
        case "ChallengeEnded":
            memory.ended[args["id"]] = event.block
        case "LeafVoided":
            memory.void[_read_spot(args).key] = event.block
        case "LaneVoided":
            memory.void[_read_spot(args).lane_key] = event.block
        case "Slashed":
            memory.caught.setdefault(args["account"], event.block)
        case "CaseOpened" | "CaseClosed":
            note_case(memory.cases, event, me=viewer.me)


def note_claim(memory: Memory, claim: OwnClaim) -> bool:
    """Remember a receipt of ours, of two for a line the later one; say whether that is new."""
    known = memory.claims.get(claim.line_key)
    if known is not None and known.receipt.body.finished_at >= claim.receipt.body.finished_at:
        return False
    memory.claims[claim.line_key] = claim
    return True


def forget_since(memory: Memory, block: int) -> None:
    """Forget what was seen in `block` and later: a reorg may have put other things there."""
    memory.batches = {k: v for k, v in memory.batches.items() if v.block < block}
    memory.payments = {k: v for k, v in memory.payments.items() if v.block < block}
    memory.directs = {k: v for k, v in memory.directs.items() if v.block < block}
    memory.void = {k: v for k, v in memory.void.items() if v < block}
    memory.caught = {k: v for k, v in memory.caught.items() if v < block}
    memory.ended = {k: v for k, v in memory.ended.items() if v < block}
    memory.challenges = {k: v for k, v in memory.challenges.items() if v.block < block}
    memory.cases = rewind_cases(memory.cases, block)
    memory.objections = {
        k: v for k, v in memory.objections.items() if v.spot.batch_key in memory.batches
    }
    memory.next_block, memory.last_hash = block, ZERO_HASH


def forget_old(memory: Memory, *, me: Address, rules: WatchRules, now: int) -> list[PostedBatch]:
    """
    Forget what can be of no use any more, and return the batches among it.

    That is objections and claims whose time is over, our own batches that nobody can dispute, and
    the oldest where there are too many; others' are kept, because a later one may pay the same.
    """
    memory.objections = {k: v for k, v in memory.objections.items() if v.deadline >= now}
    memory.claims = {k: v for k, v in memory.claims.items() if v.order.body.expiry >= now}
    memory.challenges = {
        k: v
        for k, v in memory.challenges.items()
        if k not in memory.ended or v.deadline >= now - ENDED_SECONDS
    }
    memory.ended = {k: v for k, v in memory.ended.items() if k in memory.challenges}
    memory.cases = forget_closed(memory.cases, memory.next_block)
    disputed = {challenge.spot.batch_key for challenge in memory.list_open()}
    oldest = now - 2 * rules.epoch - rules.response
    gone = [
        key
        for key, known in memory.batches.items()
        if known.posted.coordinator == me
        and known.posted.posted_at < oldest
        and key not in disputed
    ]
    gone += list(memory.batches)[: max(0, len(memory.batches) - len(gone) - BATCHES_MAX)]
    forgotten = [memory.batches.pop(key).posted for key in dict.fromkeys(gone)]
    left = memory.batches
    memory.payments = {k: v for k, v in memory.payments.items() if v.spot.batch_key in left}
    return forgotten


def _note_batch(memory: Memory, args: Mapping[str, Any], block: int, viewer: Viewer) -> None:
    posted = PostedBatch(
        coordinator=args["coordinator"],
        sequence=args["seq"],
        posted_at=args["postedAt"],
        data_hash=args["dataHash"],
        root=args["root"],
        requesters=tuple(args["requesters"]),
        payees=tuple(args["payees"]),
        lanes=args["lanes"],
    )
    if viewer.me == posted.coordinator or any(
        requester in viewer.payers or payee == viewer.me
        for requester, payee in list_parties(posted)
    ):
        key = make_batch_key(posted.coordinator, posted.sequence)
        memory.batches[key] = KnownBatch(posted=posted, block=block)


def _note_direct(
    memory: Memory, args: Mapping[str, Any], block: int, *, viewer: Viewer, rules: WatchRules
) -> None:
    if args["requester"] not in viewer.payers and args["provider"] != viewer.me:
        return
    leaf = PaymentLeaf(
        order_hash=args["orderHash"],
        line=args["unit"],
        evidence_hash=args["receiptHash"],
        price=args["price"],
    )
    posted = PostedBatch(
        coordinator=rules.disputes,
        sequence=args["seq"],
        posted_at=args["postedAt"],
        data_hash=leaf.evidence_hash,
        root=leaf.compute_hash(),
        requesters=(args["requester"],),
        payees=(args["provider"],),
        lanes=bytes(4) + (1).to_bytes(4, "big") + leaf.price.to_bytes(8, "big"),
    )
    memory.directs[args["seq"]] = DirectPayment(posted=posted, leaf=leaf, block=block)


def _note_challenge(memory: Memory, args: Mapping[str, Any], block: int, viewer: Viewer) -> None:
    challenge, place = args["challenge"], args["challenge"]["place"]
    noted = OpenChallenge(
        challenge_id=args["id"],
        place=Place(
            coordinator=place["coordinator"],
            sequence=place["seq"],
            posted_at=place["postedAt"],
            lane=place["lane"],
            index=place["index"],
            requester=place["requester"],
            payee=place["payee"],
            lane_amount=place["laneAmount"],
        ),
        leaf_hash=challenge["leafHash"],
        price=challenge["price"],
        challenger=challenge["challenger"],
        deadline=challenge["deadline"],
        block=block,
    )
    parties = (noted.place.coordinator, noted.place.payee, noted.place.requester, noted.challenger)
    if viewer.me in parties:
        memory.challenges[noted.challenge_id] = noted


def _read_spot(args: Mapping[str, Any]) -> Spot:
    return Spot(
        coordinator=args["coordinator"],
        sequence=args["seq"],
        lane=args["lane"],
        index=args.get("index", 0),
    )


def list_parties(posted: PostedBatch) -> list[tuple[Address, Address]]:
    """Return (requester, payee) of each lane."""
    return [
        (posted.requesters[requester], posted.payees[payee])
        for requester, payee, _, _ in posted.list_lanes()
    ]


# ---- what follows from it ------------------------------------------------------------------


def list_answers(memory: Memory, *, viewer: Viewer, rules: WatchRules, now: int) -> list[Answer]:
    """Return the challenges to answer now, those that end first at the head."""
    found = []
    for challenge in memory.list_open():
        place, spot = challenge.place, challenge.spot
        known = memory.batches.get(spot.batch_key)
        is_mine = place.coordinator == viewer.me
        asked_at = challenge.deadline - rules.response
        is_due = is_mine or (
            place.payee == viewer.me and now >= asked_at + rules.response // ANSWER_SHARE
        )
        is_at_hand = known is not None and known.status == "read"
        if is_due and is_at_hand and now <= challenge.deadline and not is_moot(memory, challenge):
            who = "our own batch" if is_mine else "what we are paid"
            found.append(
                Answer(
                    challenge_id=challenge.challenge_id,
                    spot=spot,
                    deadline=challenge.deadline,
                    why=f"challenge {challenge.challenge_id} doubts {who}",
                )
            )
    return sorted(found, key=lambda answer: answer.deadline)


def is_moot(memory: Memory, challenge: OpenChallenge) -> bool:
    """
    Say whether what a challenge asks for went back already, as the contract sees it.

    One of a whole lane must be answered though its leaf is void: else all of the lane goes back.
    One of a leaf must be though its lane is: else the bond goes back too.
    """
    spot = challenge.spot
    return (spot.lane_key if challenge.leaf_hash == ZERO_HASH else spot.key) in memory.void


def list_timeouts(memory: Memory, *, viewer: Viewer, now: int) -> list[TimeOut]:
    """Return the challenges to end: ours, and those whose end pays us back."""
    return [
        TimeOut(
            challenge_id=challenge.challenge_id,
            spot=challenge.spot,
            deadline=FOREVER,
            why=f"challenge {challenge.challenge_id} was not answered by {challenge.deadline}",
        )
        for challenge in memory.list_open()
        if viewer.me in (challenge.challenger, challenge.place.requester)
        and (now > challenge.deadline or is_moot(memory, challenge))
    ]


def list_exits(memory: Memory, *, viewer: Viewer) -> list[Exit]:
    """Return the coordinators to leave."""
    return [
        Exit(coordinator=who, deadline=FOREVER, why="the contract has slashed this coordinator")
        for who in sorted(viewer.coordinators)
        if who in memory.caught
    ]


def list_double_directs(memory: Memory, *, rules: WatchRules) -> list[ProveDouble]:
    """Return the direct settlements of what a batch has paid."""
    found = []
    for sequence, direct in memory.directs.items():
        spot = Spot(coordinator=rules.disputes, sequence=sequence, lane=0, index=0)
        posters = {known.posted.coordinator for known in memory.batches.values()}
        paid = (find_other(memory, who, direct.leaf) for who in sorted(posters))
        earlier = next((payment for payment in paid if payment is not None), None)
        if earlier is not None and not memory.is_void(spot):
            found.append(
                ProveDouble(
                    spot=spot,
                    earlier=earlier.spot,
                    price=direct.leaf.price,
                    deadline=find_last_proof(direct.posted.posted_at, epoch=rules.epoch),
                    why=f"direct settlement {sequence} pays what a batch has paid",
                )
            )
    return found


def find_other(memory: Memory, coordinator: Address, leaf: PaymentLeaf) -> Payment | None:
    """Return what stands for the same line, or the same evidence, of an order."""
    order_hash = leaf.order_hash
    by_line = memory.find_payment(make_line_key(coordinator, order_hash, leaf.line))
    by_evidence = make_evidence_key(coordinator, order_hash, leaf.evidence_hash)
    return by_line or memory.find_payment(by_evidence)


def list_settlements(
    memory: Memory, *, viewer: Viewer, approved: Iterable[Hash32], now: int
) -> list[SettleDirect]:
    """
    Return our receipts that can be settled without their coordinator.

    `approved` are the receipts that their requester accepts, or a verifier has found right.
    While a lane that may pay us is closed to us nothing is settled: what it holds would be paid
    twice, and that costs the stake.
    """
    wanted, found = set(approved), []
    for key, claim in memory.claims.items():
        order, receipt = claim.order.body, claim.receipt.body
        is_time = order.settle_by < now <= order.expiry
        if (
            is_time
            and receipt.compute_struct_hash() in wanted
            and memory.find_payment(key) is None
            and not _is_settled(memory, claim)
            and not _may_be_paid(memory, claim, viewer.me)
        ):
            found.append(
                SettleDirect(
                    key=key,
                    order_hash=receipt.order_hash,
                    unit=receipt.unit,
                    deadline=order.expiry,
                    why=f"no batch has paid task {receipt.unit} by {order.settle_by}",
                )
            )
    return found


def _is_settled(memory: Memory, claim: OwnClaim) -> bool:
    receipt = claim.receipt.body
    return any(
        direct.leaf.order_hash == receipt.order_hash and direct.leaf.line == receipt.unit
        for direct in memory.directs.values()
    )


def _may_be_paid(memory: Memory, claim: OwnClaim, me: Address) -> bool:
    order = claim.order.body
    for known in memory.batches.values():
        posted = known.posted
        if known.status == "read" or posted.coordinator != order.coordinator:
            continue
        for lane, parties in enumerate(list_parties(posted)):
            key = make_batch_key(posted.coordinator, posted.sequence) + lane.to_bytes(2, "big")
            if parties == (order.requester, me) and key not in memory.void:
                return True
    return False
