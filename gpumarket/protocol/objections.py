"""
Objections: what is wrong with one posted batch, as the one whose escrow it takes from sees it.

Pure. A payment is right if its order allows it, nothing paid the same before, and whoever posted it
can show all signatures. Whatever is not so is proven where the order alone proves it, and demanded
otherwise: an honest coordinator answers, and has nothing to fear.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpumarket.protocol.bills import find_leaf_evidence
from gpumarket.protocol.disputes import (
    LeafFault,
    Standing,
    check_evidence,
    find_last_challenge,
    find_last_proof,
    find_leaf_fault,
)
from gpumarket.protocol.duties import (
    ChallengeLeaf,
    ChallengeWithheld,
    Objection,
    ProveBadLeaf,
    ProveDouble,
    Spot,
)
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.openings import EMPTY_LEAF, Place, PostedBatch, WouldRefuse
from gpumarket.protocol.settlement import Batch, Bill, PaymentLeaf, pack_lanes
from gpumarket.protocol.signing import Domain, recover_signer
from gpumarket.protocol.watching import (
    KnownBatch,
    Memory,
    Payment,
    Viewer,
    WatchRules,
    find_other,
    list_parties,
    make_evidence_key,
    make_line_key,
)

_FAULTS = {
    LeafFault.WRONG_REQUESTER: "it charges another account than the order's requester",
    LeafFault.WRONG_COORDINATOR: "the order names another coordinator",
    LeafFault.WRONG_PROVIDER: "the order names another provider",
    LeafFault.NO_SUCH_LINE: "the order has no such payment line",
    LeafFault.PRICE_TOO_HIGH: "it pays more than the order allows for this line",
    LeafFault.TOO_LATE: "it was posted after the order's time to settle",
    LeafFault.WRONG_FEE: "it is a fee for somebody else, or for something else",
}


@dataclass(frozen=True, slots=True)
class Papers:
    """A batch's document and the bills of it that could be had, by order."""

    document: Batch
    bills: Mapping[Hash32, Bill]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What the contract keeps of the parties that the papers name."""

    domain: Domain
    roles: Mapping[Address, int]
    presigned: Collection[Hash32] = ()
    """Orders that their requesters signed by transaction."""


def fits(posted: PostedBatch, document: Batch) -> bool:
    """Say whether a document is what was posted: the same lanes, amounts, counts and root."""
    try:
        packed = pack_lanes(document.lanes)
    except InvalidInput:
        return False
    lanes = [(lane.requester, lane.payee, len(lane.leaves), lane.amount) for lane in document.lanes]
    shown = [
        (posted.requesters[requester], posted.payees[payee], count, amount)
        for requester, payee, count, amount in posted.list_lanes()
    ]
    return packed.root == posted.root and lanes == shown


def list_orders(document: Batch) -> list[Hash32]:
    """Return the orders of a batch in the order of its bills."""
    return sorted({leaf.order_hash for lane in document.lanes for leaf in lane.leaves})


def find_bill_hash(document: Batch, order_hash: Hash32) -> Hash32 | None:
    """Return the content hash of an order's bill, where the document names one for each."""
    orders = list_orders(document)
    if len(orders) != len(document.bills) or order_hash not in orders:
        return None
    return document.bills[orders.index(order_hash)]


def list_concerned(posted: PostedBatch, viewer: Viewer) -> list[int]:
    """Return the lanes that take from an escrow we care for, but not what pays ourselves."""
    return [
        lane
        for lane, (requester, payee) in enumerate(list_parties(posted))
        if requester in viewer.payers and viewer.me not in (payee, posted.coordinator)
    ]


def _list_kept(posted: PostedBatch, viewer: Viewer) -> set[int]:
    """Lanes whose payments may be asked for again: of our payers, and what pays us."""
    if posted.coordinator == viewer.me:
        return set()  # who posts knows it from its own books
    return {
        lane
        for lane, (requester, payee) in enumerate(list_parties(posted))
        if requester in viewer.payers or payee == viewer.me
    }


def list_attestors(papers: Papers, lanes: Collection[int]) -> set[Address]:
    """Return whose role decides whether checks in these lanes are right: who is paid for them."""
    return {
        papers.document.lanes[lane].payee
        for lane in lanes
        for leaf in papers.document.lanes[lane].leaves
        if leaf.order_hash in papers.bills
        and papers.bills[leaf.order_hash].order.body.units <= leaf.line
    }


def list_unsigned(papers: Papers, domain: Domain) -> list[tuple[Address, Hash32]]:
    """Return (requester, order) of bills whose order is right only if it was presigned."""
    found = []
    for order_hash, bill in papers.bills.items():
        signer = recover_signer(domain.compute_digest(order_hash), bill.order.signature)
        if signer != bill.order.body.requester:
            found.append((bill.order.body.requester, order_hash))
    return found


# ---- a batch that nobody shows -------------------------------------------------------------


def object_withheld(
    known: KnownBatch, *, viewer: Viewer, rules: WatchRules, draws: Sequence[int]
) -> list[Objection]:
    """
    Demand one leaf of each lane that concerns us; `draws` are random numbers, one for each lane.

    Which leaf the coordinator cannot know before, so a document with one hole is found too.
    """
    posted = known.posted
    lanes = posted.list_lanes()
    return [
        ChallengeWithheld(
            spot=_make_spot(posted, lane, draw % lanes[lane][2]),
            price=lanes[lane][3],
            deadline=find_last_challenge(posted.posted_at, open_seconds=rules.open),
            why=f"nobody shows the document of batch {posted.sequence}",
        )
        for lane, draw in zip(list_concerned(posted, viewer), draws, strict=False)
    ]


# ---- a batch that is shown -----------------------------------------------------------------


def examine(
    known: KnownBatch,
    papers: Papers,
    *,
    memory: Memory,
    viewer: Viewer,
    rules: WatchRules,
    registry: Registry,
) -> list[Objection]:
    """
    Return what is to be said against a batch whose document fits, and remember what it pays.

    Leaves are looked at in the contract's order, so that of two that pay one line the later is
    wrong, whichever of two batches could be read first.
    """
    posted = known.posted
    concerned = list_concerned(posted, viewer)
    kept = _list_kept(posted, viewer)
    objections: list[Objection] = []
    for number, lane in enumerate(papers.document.lanes):
        missing: list[tuple[Spot, PaymentLeaf]] = []
        for index, leaf in enumerate(lane.leaves):
            spot = _make_spot(posted, number, index)
            if number in concerned and not memory.is_void(spot):
                if leaf != EMPTY_LEAF and leaf.order_hash not in papers.bills:
                    missing.append((spot, leaf))
                else:
                    objections += _examine_leaf(
                        spot, leaf, papers, known=known, memory=memory, rules=rules,
                        registry=registry,
                    )  # fmt: skip
            if number in kept:
                _remember(memory, known, spot, leaf)
        objections += _object_bills(known, missing, memory=memory, rules=rules)
    return objections


def _examine_leaf(
    spot: Spot,
    leaf: PaymentLeaf,
    papers: Papers,
    *,
    known: KnownBatch,
    memory: Memory,
    rules: WatchRules,
    registry: Registry,
) -> list[Objection]:
    posted = known.posted
    if leaf == EMPTY_LEAF:
        return []  # it moves nothing
    bill, place = papers.bills[leaf.order_hash], _find_place(posted, spot)
    by_proof = find_last_proof(posted.posted_at, epoch=rules.epoch)
    fault = find_leaf_fault(place, leaf, bill.order.body)
    if fault is not LeafFault.NONE:
        why = _say(spot, _FAULTS[fault])
        return [ProveBadLeaf(spot=spot, price=leaf.price, deadline=by_proof, why=why)]
    other = find_other(memory, posted.coordinator, leaf)
    if other is not None and other.spot != spot:
        first, second = sorted((other.spot, spot), key=_rank)
        why = _say(second, f"batch {first.sequence} has paid the same")
        return [
            ProveDouble(spot=second, earlier=first, price=leaf.price, deadline=by_proof, why=why)
        ]
    standing = Standing(
        domain=registry.domain,
        roles=registry.roles,
        is_presigned=leaf.order_hash in registry.presigned,
    )
    try:
        evidence = find_leaf_evidence(bill, leaf, payee=place.payee, domain=registry.domain)
        check_evidence(place, leaf, evidence, standing=standing)
    except WouldRefuse as refusal:
        by_challenge = find_last_challenge(posted.posted_at, open_seconds=rules.open)
        why = _say(spot, f"its evidence will not do: {refusal.reason.value}")
        return [ChallengeLeaf(spot=spot, price=leaf.price, deadline=by_challenge, why=why)]
    return []


def _object_bills(
    known: KnownBatch,
    missing: list[tuple[Spot, PaymentLeaf]],
    *,
    memory: Memory,
    rules: WatchRules,
) -> list[Objection]:
    """One demand for all of a lane's leaves whose bill nobody shows, at the dearest of them."""
    if not missing:
        return []
    posted = known.posted
    spot, _ = max(missing, key=lambda pair: pair[1].price)
    return [
        ChallengeWithheld(
            spot=spot,
            price=sum(leaf.price for _, leaf in missing),
            deadline=find_last_challenge(posted.posted_at, open_seconds=rules.open),
            why=_say(spot, f"nobody shows the bills of {len(missing)} payments of its lane"),
        )
    ]


def _remember(memory: Memory, known: KnownBatch, spot: Spot, leaf: PaymentLeaf) -> None:
    if leaf == EMPTY_LEAF:
        return
    posted = known.posted
    payment = Payment(spot=spot, payee=_find_place(posted, spot).payee, block=known.block)
    for key in (
        make_line_key(posted.coordinator, leaf.order_hash, leaf.line),
        make_evidence_key(posted.coordinator, leaf.order_hash, leaf.evidence_hash),
    ):
        stands = memory.find_payment(key)
        if stands is None or _rank(spot) < _rank(stands.spot):
            memory.payments[key] = payment


def _rank(spot: Spot) -> tuple[int, int, int]:
    """Which of two payments by one coordinator is the earlier, as the contract sees it."""
    return spot.sequence, spot.lane, spot.index


def _make_spot(posted: PostedBatch, lane: int, index: int) -> Spot:
    return Spot(coordinator=posted.coordinator, sequence=posted.sequence, lane=lane, index=index)


def _find_place(posted: PostedBatch, spot: Spot) -> Place:
    requester, payee, _, amount = posted.list_lanes()[spot.lane]
    return Place(
        coordinator=posted.coordinator,
        sequence=posted.sequence,
        posted_at=posted.posted_at,
        lane=spot.lane,
        index=spot.index,
        requester=posted.requesters[requester],
        payee=posted.payees[payee],
        lane_amount=amount,
    )


def _say(spot: Spot, what: str) -> str:
    return f"batch {spot.sequence}, lane {spot.lane}, leaf {spot.index}: {what}"
