"""Audit, third part: who was paid, for what evidence, at which price, out of which escrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit_canaries import index_canaries
from gpumarket.protocol.bills import make_bill
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import ProgramRule
from gpumarket.protocol.evidence import (
    BatchFact,
    ChainEvidence,
    Finding,
    LeafName,
    MissingEvidence,
    require,
)
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Hash32, format_short
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution, SettlementProof
from gpumarket.protocol.proof_reading import (
    count_hidden,
    find_batch,
    find_seed,
    index_all_receipts,
    index_checks,
    index_receipts,
    is_whole,
    iterate_leaves_in,
    iterate_own_leaves,
    list_openings,
    list_own_checks,
    list_paid,
    list_settlements,
)
from gpumarket.protocol.settlement import (
    Bill,
    Lane,
    PaymentLeaf,
    compute_fee_evidence,
    pack_lanes,
)
from gpumarket.protocol.units import compute_price, format_amount

_ROLES: Final = {"work": "provider", "checks": "verifier", "fee": "coordinator"}


@dataclass(frozen=True, slots=True)
class BalanceChange:
    """What a batch did to one balance, in base units; `kind` is `escrow` or `credit`."""

    role: str
    account: Address
    kind: str
    before: int
    after: int


# ---- forgeries -----------------------------------------------------------------------------


def check_forgeries_unpaid(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """
    Check that nothing that failed is paid, and nothing of a forger in that epoch.

    What a verifier called false may be paid where a jury on chain called it right.
    """
    paid = list_paid(proof)
    rejected_count = open_count = cleared = 0
    guilty: set[Address] = set()
    for epoch in proof.epochs:
        receipts = index_receipts(proof, epoch)
        rejected = set(epoch.rejected_receipts)
        require(len(rejected) == len(epoch.rejected_receipts), "a receipt was rejected twice")
        require(rejected <= receipts.keys(), "a receipt was rejected that was not committed")
        require(not rejected & paid, "a rejected receipt was paid")
        checks = _list_relevant(proof, epoch)
        payees = {receipt.provider for name, receipt in receipts.items() if name in paid}
        acquitted = _find_acquitted(checks, payees, evidence)
        forgers = _find_forgers(checks, acquitted)
        _check_failed_unpaid(epoch, paid, acquitted)
        cleared += len(acquitted)
        for name, receipt in receipts.items():
            is_right = receipt.provider not in forgers or name not in paid
            require(is_right, "a provider found forging was paid for the same epoch")
        guilty |= forgers
        rejected_count += len(rejected)
        open_count += len(receipts.keys() - rejected - paid)
    if open_count:
        raise MissingEvidence(f"{open_count} committed results are neither paid nor rejected")
    names = ", ".join(format_short(provider) for provider in sorted(guilty)) or "nobody"
    overruled = f"; {cleared} that a verifier called false a jury called right" if cleared else ""
    return Finding(
        f"forgery shown against {names}; {rejected_count} rejected results, none of them paid"
        + overruled
    )


def _check_failed_unpaid(
    epoch: EpochProof, paid: set[Hash32], acquitted: Mapping[Hash32, set[Address]]
) -> None:
    matched = {
        check.attestation.body.receipt_hash
        for check in epoch.checks
        if check.attestation.body.verdict == Verdict.MATCH
    }
    for check in epoch.checks:
        name = check.attestation.body.receipt_hash
        is_right = name in matched or name in acquitted or name not in paid
        require(is_right, "a result that failed was paid")


def _find_acquitted(
    checks: Sequence[CheckProof], payees: Set[Address], evidence: ChainEvidence
) -> dict[Hash32, set[Address]]:
    """Return what a jury called right of those that are paid, and who had called it false."""
    disputed: dict[Hash32, set[Address]] = {}
    for check in checks:
        attestation = check.attestation.body
        if attestation.verdict == Verdict.MISMATCH and check.opening.signer in payees:
            disputed.setdefault(attestation.receipt_hash, set()).add(check.attestation.signer)
    return {name: who for name, who in disputed.items() if evidence.is_acquitted(name)}


def _find_forgers(
    checks: Sequence[CheckProof], acquitted: Mapping[Hash32, set[Address]]
) -> set[Address]:
    # Whom a jury contradicted about one result is not believed about another.
    overruled = {
        (check.opening.signer, who)
        for check in checks
        for who in acquitted.get(check.attestation.body.receipt_hash, ())
    }
    return {
        check.opening.signer
        for check in checks
        if check.attestation.body.verdict == Verdict.MISMATCH
        and (check.opening.signer, check.attestation.signer) not in overruled
    }


def _list_relevant(proof: ProofOfExecution, epoch: EpochProof) -> list[CheckProof]:
    """
    Return the checks that decide about this job's pay.

    In a pool all stand or fall together, so what was found in another job counts here; but not what
    that job's own program said, nor what was forged on purpose.
    """
    is_own_rule = isinstance(proof.job.verify.comparison, ProgramRule)
    checks = list_own_checks(proof, epoch) if is_own_rule else epoch.checks
    canaries = index_canaries(proof, epoch)
    return [check for check in checks if check.attestation.body.receipt_hash not in canaries]


# ---- payments ------------------------------------------------------------------------------


def check_payments(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that each line pays once, in its cap, to whom its evidence names."""
    order = proof.order.body
    lines: set[int] = set()
    used: set[Hash32] = set()
    total = 0
    for lane, leaf in iterate_own_leaves(proof):
        cap = order.find_line_cap(leaf.line)
        require(cap is not None and leaf.price <= cap, f"line {leaf.line} pays over its cap")
        require(leaf.line not in lines, f"line {leaf.line} pays twice")
        require(leaf.evidence_hash not in used, f"line {leaf.line} pays for what another line paid")
        require(lane.requester == order.requester, "somebody else pays for this order")
        lines.add(leaf.line)
        used.add(leaf.evidence_hash)
        total += leaf.price
    _check_work_lines(proof)
    _check_other_lines(proof)
    require(total <= order.compute_exposure(), "more was paid than the order allows")
    limit = format_amount(order.compute_exposure())
    return Finding(
        f"{len(lines)} payment lines, each once, with evidence, in its cap; limit {limit}"
    )


def _check_work_lines(proof: ProofOfExecution) -> None:
    receipts = index_all_receipts(proof)
    opened = {
        opening.body.receipt_hash: opening.body.result
        for epoch in proof.epochs
        for opening in list_openings(epoch)
    }
    order, job = proof.order.body, proof.job
    for lane, leaf in iterate_own_leaves(proof):
        if leaf.line >= order.units:
            continue
        signed = receipts.get(leaf.evidence_hash)
        if signed is None or (signed.body.unit, signed.body.price) != (leaf.line, leaf.price):
            require(False, f"line {leaf.line} has no receipt for it")
            continue
        provider, place = signed.body.provider, job.placement
        require(provider == lane.payee, f"line {leaf.line} pays somebody else than its provider")
        is_wanted = (
            order.provider in (ZERO_ADDRESS, provider)
            and provider not in place.excluded_providers
            and (not place.providers or provider in place.providers)
        )
        require(is_wanted, f"line {leaf.line} pays a provider that the order does not allow")
        result = opened.get(leaf.evidence_hash)
        if result is not None:
            devices = job.resources.devices.count
            fits = not result.usage or result.usage.fits(
                duration_ms=result.duration_ms, devices=devices
            )
            require(fits, f"line {leaf.line} metered another device time than it ran")
            cap = compute_price(
                duration_ms=result.duration_ms,
                devices=max(1, devices),
                price_per_device_hour=place.price_per_device_hour_max,
            )
            require(leaf.price <= cap, f"line {leaf.line} pays more than its time may cost")


def _check_other_lines(proof: ProofOfExecution) -> None:
    order, checks = proof.order.body, index_checks(proof)
    fee_evidence = compute_fee_evidence(order.compute_struct_hash())
    for lane, leaf in iterate_own_leaves(proof):
        if order.units <= leaf.line < order.fee_line:
            check = checks.get(leaf.evidence_hash)
            is_payee = check is not None and check.attestation.signer == lane.payee
            require(is_payee, f"line {leaf.line} pays for a check that was not made")
            verdict = check.attestation.body.verdict if check is not None else 0
            is_decided = verdict in (Verdict.MATCH, Verdict.MISMATCH)
            require(is_decided, f"line {leaf.line} pays for a check that decided nothing")
        elif leaf.line == order.fee_line:
            require(leaf.evidence_hash == fee_evidence, "a fee is not ours")
            require(lane.payee == order.coordinator, "a fee goes to somebody else")


# ---- settlement ----------------------------------------------------------------------------


def check_settlement(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that each batch on chain has these lanes, this document and its place in time."""
    settlements = list_settlements(proof)
    sequences = {settlement.sequence for settlement in settlements}
    require(len(sequences) == len(settlements), "a batch is named twice")
    facts = [_check_batch(proof, settlement, evidence) for settlement in settlements]
    texts = (
        f"{len(settlement.batch.lanes)} lanes with these sums and roots are in block {fact.block}"
        for settlement, fact in zip(settlements, facts, strict=True)
    )
    hidden = sum(count_hidden(settlement) for settlement in settlements)
    return Finding(
        "; ".join(texts),
        f"{hidden} payment lines are bound by their lane's root and sum and not shown"
        if hidden
        else "",
    )


def _find_other_moves(fact: BatchFact, requester: Address, paid: int) -> int:
    """Return what else came into an escrow, or left it, within the block of a batch."""
    if fact.escrow_after is None:
        return 0
    after = fact.escrow_before.get(requester, 0) - paid
    return fact.escrow_after.get(requester, 0) - after


def _check_batch(
    proof: ProofOfExecution, settlement: SettlementProof, evidence: ChainEvidence
) -> BatchFact:
    batch, order = settlement.batch, proof.order.body
    is_ours = batch.coordinator == order.coordinator
    require(is_ours, "another coordinator settled than the order names")
    fact = find_batch(settlement, evidence)
    posted = (fact.requesters, fact.payees, fact.lanes, fact.root)
    require(posted == pack_lanes(batch.lanes), "the batch on chain has other lanes")
    if is_whole(settlement):
        is_same = compute_content_hash(batch) == fact.data_hash
        require(is_same, "the batch on chain names another document")
        _check_bill(proof, settlement)
    else:
        require(not batch.bills, "bills are named that nothing shown binds")
    for epoch in proof.epochs:
        is_before = find_seed(epoch, evidence).seed_block < fact.block
        require(is_before, "the batch was posted before a sample could be drawn")
    is_timely = fact.posted_at <= order.settle_by
    require(is_timely, "the batch was posted after the order's time to settle")
    for requester in fact.requesters:
        paid = _sum_lanes(batch.lanes, requester)
        held = fact.escrow_before.get(requester, 0)
        if paid > held and _find_other_moves(fact, requester, paid):
            raise MissingEvidence("an escrow was filled within the block of its batch")
        require(paid <= held, f"{format_short(requester)} paid more than its escrow held")
    _check_not_taken_back(proof, settlement, evidence)
    return fact


def _check_not_taken_back(
    proof: ProofOfExecution, settlement: SettlementProof, evidence: ChainEvidence
) -> None:
    batch, own = settlement.batch, proof.order.body.compute_struct_hash()
    for number, lane in enumerate(batch.lanes):
        for index, leaf in zip(lane.leaf_places, lane.leaves, strict=True):
            if leaf.order_hash != own:
                continue
            names = {
                LeafName(batch.coordinator, settlement.sequence, number, place)
                for place in (index, None)
            }
            is_kept = names.isdisjoint(evidence.voided)
            require(is_kept, f"line {leaf.line} was taken back in a dispute")
            is_once = (own, leaf.line) not in evidence.settled_directly
            require(is_once, f"line {leaf.line} was settled without the coordinator too")


def _sum_lanes(lanes: tuple[Lane, ...], requester: Address) -> int:
    return sum(lane.amount for lane in lanes if lane.requester == requester)


def _check_bill(proof: ProofOfExecution, settlement: SettlementProof) -> None:
    # The other orders of the batch are there by the hashes of their bills: enough to know that
    # the document is the one on chain, and that the bill of this order is what is proven here.
    batch = settlement.batch
    orders = sorted({leaf.order_hash for lane in batch.lanes for leaf in lane.leaves})
    require(len(orders) == len(batch.bills), "the batch has not one bill for each order")
    own = proof.order.body.compute_struct_hash()
    require(own in orders, "the batch pays nothing of this order")
    is_same = compute_content_hash(_make_bill(proof, settlement)) == batch.bills[orders.index(own)]
    require(is_same, "the batch's bill is not made of this order, its receipts and verdicts")


def _make_bill(proof: ProofOfExecution, settlement: SettlementProof) -> Bill:
    receipts, checks = index_all_receipts(proof), index_checks(proof)
    return make_bill(
        proof.order,
        [leaf for _, leaf in iterate_leaves_in(proof, settlement)],
        receipts=receipts,
        attestations={name: check.attestation for name, check in checks.items()},
    )


# ---- balances ------------------------------------------------------------------------------


def check_balance(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that the escrow before is what was paid and what is left, and went nowhere else."""
    changes = compute_balances(proof, evidence)
    before = sum(change.before for change in changes)
    require(before == sum(change.after for change in changes), "the balances do not add up")
    require(all(change.after >= 0 for change in changes), "the escrow was overdrawn")
    texts = (_describe_sums(proof, each, evidence) for each in list_settlements(proof))
    return Finding("; ".join(texts) + " (work + checks + fee)", _describe_moves(proof, evidence))


def _describe_moves(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    moved = 0
    for settlement in list_settlements(proof):
        fact = find_batch(settlement, evidence)
        for requester in fact.requesters:
            paid = _sum_lanes(settlement.batch.lanes, requester)
            moved += abs(_find_other_moves(fact, requester, paid))
    if not moved:
        return ""
    return f"other transactions moved {format_amount(moved)} of these escrows in the same blocks"


def _describe_sums(
    proof: ProofOfExecution, settlement: SettlementProof, evidence: ChainEvidence
) -> str:
    requester = proof.order.body.requester
    sums = {"work": 0, "checks": 0, "fee": 0}
    for _, leaf in iterate_leaves_in(proof, settlement):
        sums[_name_line(proof, leaf)] += leaf.price
    held = find_batch(settlement, evidence).escrow_before.get(requester, 0)
    total = _sum_lanes(settlement.batch.lanes, requester)
    parts = " + ".join(format_amount(sums[name]) for name in ("work", "checks", "fee"))
    other = total - sum(sums.values())
    what = "for other jobs" if is_whole(settlement) else "not shown or for other jobs"
    tail = f" + {format_amount(other)} {what}" if other else ""
    return f"escrow {format_amount(held)} = {parts}{tail} + {format_amount(held - total)} left"


def compute_balances(proof: ProofOfExecution, evidence: ChainEvidence) -> tuple[BalanceChange, ...]:
    """
    Return what each batch did to every balance it touches: escrows first, then credits.

    Raises `MissingEvidence` where the job is not settled or a batch of it is not known.
    """
    changes: list[BalanceChange] = []
    for settlement in list_settlements(proof):
        changes += _compute_changes(proof, settlement, find_batch(settlement, evidence))
    return tuple(changes)


def _compute_changes(
    proof: ProofOfExecution, settlement: SettlementProof, fact: BatchFact
) -> Iterator[BalanceChange]:
    lanes = settlement.batch.lanes
    roles: dict[Address, list[str]] = {}
    for lane, leaf in iterate_leaves_in(proof, settlement):
        roles.setdefault(lane.payee, []).append(_ROLES[_name_line(proof, leaf)])
    for requester in dict.fromkeys(lane.requester for lane in lanes):
        before = fact.escrow_before.get(requester, 0)
        after = before - _sum_lanes(lanes, requester)
        yield BalanceChange("requester", requester, "escrow", before, after)
    for payee in dict.fromkeys(lane.payee for lane in lanes):
        before = fact.credit_before.get(payee, 0)
        after = before + sum(lane.amount for lane in lanes if lane.payee == payee)
        role = "+".join(dict.fromkeys(roles.get(payee, ["other"])))
        yield BalanceChange(role, payee, "credit", before, after)


def _name_line(proof: ProofOfExecution, leaf: PaymentLeaf) -> str:
    order = proof.order.body
    if leaf.line < order.units:
        return "work"
    return "checks" if leaf.line < order.fee_line else "fee"
