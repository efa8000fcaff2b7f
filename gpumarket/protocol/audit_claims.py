"""Audit, last part: what the file shows, what it claims, and how it hangs on the chain."""

from __future__ import annotations

from gpumarket.protocol.evidence import (
    ChainEvidence,
    Finding,
    LeafName,
    MissingEvidence,
    require,
)
from gpumarket.protocol.proof import Claim, ProofOfExecution, count_leaves
from gpumarket.protocol.proof_reading import count_hidden, find_own_pool, list_settlements
from gpumarket.protocol.sampling import compute_miss_ppb, compute_sample_size
from gpumarket.protocol.units import PPM

PPB = 10**9


def check_form(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Say what of the job the file shows; that it is canonical was checked when it was read."""
    works = [work for epoch in proof.epochs for work in epoch.document.work]
    count, shown = sum(map(count_leaves, works)), sum(len(work.receipts) for work in works)
    hidden = sum(count_hidden(settlement) for settlement in proof.settlements)
    lines = sum(lane.leaf_count for each in proof.settlements for lane in each.batch.lanes)
    return Finding(
        f"version 1, one spelling; {shown} of {count} results and {lines - hidden} of {lines} "
        "payment lines are shown, the others are bound by root and sum"
    )


def check_links(_proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that every header hangs on the trusted block hash."""
    anchoring = evidence.anchoring
    if anchoring is None:
        return Finding("blocks are those that the RPC endpoints agree on")
    if anchoring.missing:
        raise MissingEvidence(anchoring.missing)
    require(not anchoring.link_fault, anchoring.link_fault)
    if anchoring.state_fault:
        raise MissingEvidence("the headers are not linked, because a state is not proven")
    return Finding(anchoring.links)


def check_state(_proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that what the contracts hold is proven under the headers' state roots."""
    anchoring = evidence.anchoring
    if anchoring is None:
        return Finding("the contracts' events are those that the RPC endpoints agree on")
    if anchoring.missing:
        raise MissingEvidence(anchoring.missing)
    if anchoring.link_fault:
        raise MissingEvidence("no state can be proven, because a header is not linked")
    require(not anchoring.state_fault, anchoring.state_fault)
    return Finding(anchoring.state)


# ---- the claim -----------------------------------------------------------------------------


def make_claim(proof: ProofOfExecution) -> Claim:
    """Compute the numbers that a proof claims; integers only, so everybody has the same."""
    units = checked = miss = 0
    for epoch in proof.epochs:
        for work in epoch.document.work:
            found = find_own_pool(proof, work)
            if found is None:
                continue
            pool, count = found[0], found[0].count
            size = compute_sample_size(
                pool.policy, count, price=pool.price, stake=work.stake, audited=work.audited
            )
            forged = max(1, -(-pool.policy.forged_share_ppm * count // PPM))
            power = pool.policy.power_ppm
            missed = compute_miss_ppb(count, min(count, forged), size, power_ppm=power)
            units, miss = units + count, max(miss, min(PPB, missed))
        checked += len({check.attestation.body.receipt_hash for check in epoch.checks})
    share = proof.job.verify.forged_share_ppm
    return Claim(units=units, checked=checked, forged_share_ppm=share, miss_ppb=miss)


def check_claim(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check the claimed numbers against those that follow from the committed pools."""
    claim = make_claim(proof)
    for name in ("units", "checked", "forged_share_ppm", "miss_ppb"):
        stated = None if proof.claim is None else getattr(proof.claim, name)
        actual = getattr(claim, name)
        require(stated in (None, actual), f"the proof claims {name} {stated}, it is {actual}")
    share = f"{claim.forged_share_ppm / 10_000:g} %"
    return Finding(
        f"{claim.checked} of {claim.units} pooled results were done again: who forges {share} "
        f"escapes with a chance of at most {claim.miss_ppb / 10_000_000:g} %"
    )


# ---- disputes ------------------------------------------------------------------------------


def check_disputes(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that nothing of the job's payments is in a dispute, or was taken back in one."""
    own = proof.order.body.compute_struct_hash()
    count = 0
    for settlement in list_settlements(proof):
        batch = settlement.batch
        for number, lane in enumerate(batch.lanes):
            if not any(leaf.order_hash == own for leaf in lane.leaves):
                continue
            count += 1
            name = LeafName(batch.coordinator, settlement.sequence, number, None)
            require(name not in evidence.voided, f"lane {number} was taken back in a dispute")
            if name in evidence.disputed:
                raise MissingEvidence(
                    f"something in lane {number} is held in a dispute, or was taken back: which "
                    "line it is an audit with --rpc can say"
                )
    anchoring = evidence.anchoring
    until = f" until block {anchoring.newest}" if anchoring and anchoring.newest else ""
    return Finding(f"no dispute took anything out of {count} lanes that pay this job{until}")
