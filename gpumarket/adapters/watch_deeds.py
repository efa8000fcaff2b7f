"""
Carrying out what a watcher decided: each deed looks first whether it is done already.

A deed that the contract refuses is not tried again: somebody was faster, or we were wrong, and
both are no reason to pay for another refusal. Silence of the chain is: the next look tries again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gpumarket.adapters.chain import ChainFact, TxOutcome
from gpumarket.adapters.disputes_chain import LeafRecord
from gpumarket.protocol.approvals import Approval
from gpumarket.protocol.bills import NO_ATTESTATION, NO_RECEIPT, find_leaf_evidence
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.duties import (
    Answer,
    ChallengeLeaf,
    ChallengeWithheld,
    Duty,
    Exit,
    ProveBadLeaf,
    ProveDouble,
    PushCase,
    SettleDirect,
    Spot,
    TimeOut,
)
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.objections import Papers
from gpumarket.protocol.openings import EMPTY_LEAF, LeafOpening, PostedBatch, make_opening
from gpumarket.protocol.order import Order
from gpumarket.protocol.settlement import PaymentLeaf
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.watching import KnownBatch, Memory, OpenChallenge

NOT_NEEDED: Final = LeafEvidence(
    order=Order(
        requester=bytes(20),
        coordinator=bytes(20),
        job_hash=ZERO_HASH,
        verify_hash=ZERO_HASH,
        units=0,
        checks=0,
        max_unit_price=0,
        max_check_price=0,
        max_fee=0,
        settle_by=0,
        expiry=0,
        nonce=ZERO_HASH,
    ),
    order_signature=b"",
    receipt=NO_RECEIPT,
    attestation=NO_ATTESTATION,
)
"""What is handed over where the contract looks at no evidence: for padding."""

FindApproval = Callable[[Hash32, Order], Approval | None]
"""Return what approves a receipt of an order of ours, checked."""


class Court(Protocol):
    """What is needed of the contracts; a write raises `ChainError` where it was not done."""

    async def read_leaf_record(
        self, coordinator: Address, sequence: int, *, lane: int, index: int
    ) -> LeafRecord:
        """Return what has been said about a leaf."""

    async def read_challenge_hash(self, challenge_id: int) -> Hash32:
        """Return what the contract keeps of an open challenge, or zero."""

    async def is_settled_directly(self, order_hash: Hash32, line: int) -> bool:
        """Say whether a line was settled without its coordinator."""

    async def challenge_leaf(self, batch: PostedBatch, opening: LeafOpening) -> TxOutcome:
        """Demand a leaf's evidence, with a bond from escrow."""

    async def challenge_withheld(self, batch: PostedBatch, *, lane: int, index: int) -> TxOutcome:
        """Demand a leaf that nobody shows, with a bond from escrow."""

    async def respond(
        self, challenge: OpenChallenge, leaf: PaymentLeaf, evidence: LeafEvidence
    ) -> TxOutcome:
        """Answer `challenge_leaf`; the bond is ours."""

    async def respond_withheld(
        self,
        challenge: OpenChallenge,
        *,
        batch: PostedBatch,
        opening: LeafOpening,
        evidence: LeafEvidence,
    ) -> TxOutcome:
        """Answer `challenge_withheld`; the bond is ours."""

    async def time_out(self, challenge: OpenChallenge) -> TxOutcome:
        """End a challenge that was not answered."""

    async def prove_bad_leaf(
        self, batch: PostedBatch, opening: LeafOpening, order: Order
    ) -> TxOutcome:
        """Show by its order that a leaf is wrong."""

    async def prove_double(
        self,
        earlier: tuple[PostedBatch, LeafOpening],
        later: tuple[PostedBatch, LeafOpening],
        evidence: LeafEvidence,
    ) -> TxOutcome:
        """Show that one leaf pays what an earlier one paid."""

    async def settle_direct(
        self,
        evidence: LeafEvidence,
        assignment: Signed[Assignment],
        *,
        acceptance_signature: bytes,
    ) -> TxOutcome:
        """Settle a receipt of ours without its coordinator; an acceptance may be missing."""

    async def find_fact(
        self, name: str, *, from_block: int, wanted: Mapping[str, object]
    ) -> ChainFact | None:
        """Return the newest event of this name with these arguments."""

    async def read_header(self, number: int) -> bytes:
        """Return the RLP of a block's header."""

    async def seat_jury(self, case: int, header: bytes) -> TxOutcome:
        """Draw the jury of a case."""

    async def redraw(self, case: int) -> TxOutcome:
        """Have the jury drawn by a later block."""

    async def escalate(self, case: int) -> TxOutcome:
        """Send a case to a larger jury."""

    async def close(self, case: int, voters: Sequence[Address]) -> TxOutcome:
        """Carry out the last verdict."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """All that deeds are done with."""

    court: Court
    domain: Domain
    memory: Memory
    load_papers: Callable[[KnownBatch], Awaitable[Papers | None]]
    find_approval: FindApproval
    leave: Callable[[Address], Awaitable[str]]
    """Leave a coordinator that was caught; say what was done, nothing where it was done before."""


async def carry_out(duty: Duty, bench: Bench) -> str:
    """
    Do a duty and say what was done, in a few words; empty where there was nothing left to do.

    Raises `ContentError` where papers are missing, `ChainError` as the chain does.
    """
    match duty:
        case Answer():
            return await _answer(duty, bench)
        case TimeOut():
            return await _time_out(duty, bench)
        case ProveBadLeaf():
            return await _prove_bad_leaf(duty, bench)
        case ProveDouble():
            return await _prove_double(duty, bench)
        case ChallengeLeaf() | ChallengeWithheld():
            return await _challenge(duty, bench)
        case SettleDirect():
            return await _settle_direct(duty, bench)
        case PushCase():
            return await _push_case(duty, bench.court)
        case Exit(coordinator=coordinator):
            return await bench.leave(coordinator)


# ---- challenges ----------------------------------------------------------------------------


async def _answer(duty: Answer, bench: Bench) -> str:
    known = _get_challenge(duty.challenge_id, bench)
    if not await _is_open(known, bench):
        return ""
    posted, papers = await _find_papers(duty.spot, bench)
    opening = make_opening(papers.document.lanes, duty.spot.lane, duty.spot.index)
    evidence = NOT_NEEDED
    if opening.leaf != EMPTY_LEAF:
        evidence = _find_evidence(opening.leaf, known.place.payee, papers, bench)
    if known.leaf_hash != ZERO_HASH:
        await bench.court.respond(known, opening.leaf, evidence)
    else:
        await bench.court.respond_withheld(known, batch=posted, opening=opening, evidence=evidence)
    return f"answered challenge {duty.challenge_id}"


async def _time_out(duty: TimeOut, bench: Bench) -> str:
    known = _get_challenge(duty.challenge_id, bench)
    if not await _is_open(known, bench):
        return ""
    await bench.court.time_out(known)
    return f"ended challenge {duty.challenge_id}, which nobody answered"


async def _challenge(duty: ChallengeLeaf | ChallengeWithheld, bench: Bench) -> str:
    spot = duty.spot
    state = await _read_leaf(spot, bench)
    if state.is_void or state.is_challenged or state.is_answered:
        return ""
    if isinstance(duty, ChallengeWithheld):
        posted = _get_batch(spot, bench).posted
        await bench.court.challenge_withheld(posted, lane=spot.lane, index=spot.index)
        return f"demanded leaf {spot.index} of lane {spot.lane}"
    posted, papers = await _find_papers(spot, bench)
    opening = make_opening(papers.document.lanes, spot.lane, spot.index)
    await bench.court.challenge_leaf(posted, opening)
    return f"demanded the evidence of leaf {spot.index} of lane {spot.lane}"


async def _is_open(known: OpenChallenge, bench: Bench) -> bool:
    return await bench.court.read_challenge_hash(known.challenge_id) != ZERO_HASH


def _get_challenge(challenge_id: int, bench: Bench) -> OpenChallenge:
    return bench.memory.challenges[challenge_id]


# ---- proofs --------------------------------------------------------------------------------


async def _prove_bad_leaf(duty: ProveBadLeaf, bench: Bench) -> str:
    if (await _read_leaf(duty.spot, bench)).is_void:
        return ""
    posted, papers = await _find_papers(duty.spot, bench)
    opening = make_opening(papers.document.lanes, duty.spot.lane, duty.spot.index)
    bill = papers.bills.get(opening.leaf.order_hash)
    if bill is None:
        raise ContentError("the bill of a bad payment is gone", code="GM-6016")
    await bench.court.prove_bad_leaf(posted, opening, bill.order.body)
    return f"proved leaf {duty.spot.index} of lane {duty.spot.lane} wrong"


async def _prove_double(duty: ProveDouble, bench: Bench) -> str:
    if (await _read_leaf(duty.spot, bench)).is_void:
        return ""
    first, papers = await _find_papers(duty.earlier, bench)
    earlier = make_opening(papers.document.lanes, duty.earlier.lane, duty.earlier.index)
    payee = papers.document.lanes[duty.earlier.lane].payee
    evidence = NOT_NEEDED
    direct = bench.memory.directs.get(duty.spot.sequence)
    if direct is not None and direct.posted.coordinator == duty.spot.coordinator:
        evidence = _find_evidence(earlier.leaf, payee, papers, bench)
        second = direct.posted
        later = LeafOpening(lane=0, index=0, leaf=direct.leaf, path=())
    else:
        second, papers = await _find_papers(duty.spot, bench)
        later = make_opening(papers.document.lanes, duty.spot.lane, duty.spot.index)
    await bench.court.prove_double((first, earlier), (second, later), evidence)
    return f"proved leaf {duty.spot.index} of lane {duty.spot.lane} a double"


# ---- what was left out ---------------------------------------------------------------------


async def _settle_direct(duty: SettleDirect, bench: Bench) -> str:
    claim = bench.memory.claims[duty.key]
    receipt_hash = claim.receipt.body.compute_struct_hash()
    approval = bench.find_approval(receipt_hash, claim.order.body)
    is_settled = await bench.court.is_settled_directly(duty.order_hash, duty.unit)
    if approval is None or is_settled:
        return ""
    acceptance, match = approval.acceptance, approval.attestation
    evidence = LeafEvidence(
        order=claim.order.body,
        order_signature=claim.order.signature,
        receipt=claim.receipt.body,
        receipt_signature=claim.receipt.signature,
        attestation=NO_ATTESTATION if match is None else match.body,
        attestation_signature=b"" if match is None else match.signature,
    )
    # Where there is one the contract looks at nothing else: no verifier need be staked any more.
    signature = b"" if acceptance is None else acceptance.signature
    await bench.court.settle_direct(evidence, claim.assignment, acceptance_signature=signature)
    return f"settled task {duty.unit} without its coordinator"


# ---- cases ---------------------------------------------------------------------------------


async def _push_case(duty: PushCase, court: Court) -> str:
    case = duty.case
    match duty.step:
        case "seat":
            await court.seat_jury(case, await court.read_header(duty.seed_block))
            return f"had the jury of case {case} drawn"
        case "redraw":
            await court.redraw(case)
            return f"had the jury of case {case} drawn by a later block"
        case "escalate":
            await court.escalate(case)
            return f"sent case {case} to a larger jury"
        case "close":
            voters: Sequence[Address] = ()
            if duty.is_decided:
                wanted = {"id": case}
                fact = await court.find_fact("Decided", from_block=duty.opened, wanted=wanted)
                voters = () if fact is None else fact.args["voters"]
            await court.close(case, voters)
            return f"closed case {case}"


# ---- papers --------------------------------------------------------------------------------


def _get_batch(spot: Spot, bench: Bench) -> KnownBatch:
    known = bench.memory.batches.get(spot.batch_key)
    if known is None:
        raise ContentError("a batch is too old to be remembered", code="GM-6016")
    return known


async def _find_papers(spot: Spot, bench: Bench) -> tuple[PostedBatch, Papers]:
    known = _get_batch(spot, bench)
    papers = await bench.load_papers(known)
    if papers is None:
        raise ContentError("the papers of a batch are gone", code="GM-6016")
    return known.posted, papers


def _find_evidence(leaf: PaymentLeaf, payee: Address, papers: Papers, bench: Bench) -> LeafEvidence:
    bill = papers.bills.get(leaf.order_hash)
    if bill is None:
        raise ContentError("the bill of a payment is gone", code="GM-6016")
    return find_leaf_evidence(bill, leaf, payee=payee, domain=bench.domain)


async def _read_leaf(spot: Spot, bench: Bench) -> LeafRecord:
    return await bench.court.read_leaf_record(
        spot.coordinator, spot.sequence, lane=spot.lane, index=spot.index
    )
