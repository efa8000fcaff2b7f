"""
A proof made small: of a large job only what the seed drew is shown, the rest is bound by roots.

What is left out costs nothing of what sampling says; that every line was paid rightly, and every
result opened, only the whole proof shows. So an audit of a small proof says what was not shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.merkle import compute_multipath
from gpumarket.protocol.pools import draw_pool
from gpumarket.protocol.proof import EpochProof, OpenedWork, ProofOfExecution, ProviderWork
from gpumarket.protocol.proof_reading import find_own_pool
from gpumarket.protocol.settlement import Batch, Lane, OpenedLane, compute_sum_multipath


def compact_proof(proof: ProofOfExecution) -> ProofOfExecution:
    """Return the proof without results that were not drawn and without most payment lines."""
    epochs = tuple(_compact_epoch(proof, epoch) for epoch in proof.epochs)
    shown = {
        name
        for epoch in epochs
        for work in epoch.document.work
        for receipt in work.receipts
        if (name := receipt.body.compute_struct_hash())
    }
    shown |= {
        check.attestation.body.compute_struct_hash() for epoch in epochs for check in epoch.checks
    }
    settlements = tuple(
        replace(each, batch=_compact_batch(proof, each.batch, shown)) for each in proof.settlements
    )
    # The chain's part proves marks of the lines that are shown, which are others now.
    return replace(proof, epochs=epochs, settlements=settlements, chain=None)


def _compact_epoch(proof: ProofOfExecution, epoch: EpochProof) -> EpochProof:
    work = tuple(_compact_work(proof, epoch, each) for each in epoch.document.work)
    shown = {receipt.body.compute_struct_hash() for each in work for receipt in each.receipts}
    return replace(
        epoch,
        document=replace(epoch.document, work=work),
        openings=tuple(each for each in epoch.openings if each.body.receipt_hash in shown),
    )


def _compact_work(proof: ProofOfExecution, epoch: EpochProof, work: ProviderWork) -> ProviderWork:
    found = find_own_pool(proof, work)
    if isinstance(work, OpenedWork):
        return work
    if found is None:
        # Of a pool with this job's terms an auditor could not tell that nothing in it is the job's.
        is_foreign = all(pool.policy != proof.job.verify.pool() for pool in work.pools)
        return _show(work, ()) if is_foreign and work.receipts else work
    pool, span = found
    drawn = draw_pool(
        epoch.seed, work.root.body.provider, pool, stake=work.stake, audited=work.audited
    )
    needed = {check.opening.body.receipt_hash for check in epoch.checks}
    needed |= set(epoch.rejected_receipts)
    places = sorted(
        {span[index] for index in drawn}
        | {
            place
            for place, receipt in enumerate(work.receipts)
            if receipt.body.compute_struct_hash() in needed
        }
    )
    return work if len(places) == len(work.receipts) else _show(work, places)


def _show(work: ProviderWork, places: Sequence[int]) -> OpenedWork:
    hashes = [receipt.body.result_hash for receipt in work.receipts]
    return OpenedWork(
        root=work.root,
        receipts=tuple(work.receipts[place] for place in places),
        pools=work.pools,
        stake=work.stake,
        audited=work.audited,
        places=tuple(places),
        siblings=compute_multipath(hashes, places),
    )


def _compact_batch(proof: ProofOfExecution, batch: Batch, shown: set[Hash32]) -> Batch:
    lanes = tuple(_compact_lane(proof, lane, shown) for lane in batch.lanes)
    # The hashes of bills are bound by the batch's document only, and that is shown whole or not.
    is_opened = any(isinstance(lane, OpenedLane) for lane in lanes)
    return replace(batch, lanes=lanes, bills=() if is_opened else batch.bills)


def _compact_lane(proof: ProofOfExecution, lane: Lane, shown: set[Hash32]) -> Lane:
    order = proof.order.body
    own = order.compute_struct_hash()
    places = [
        place
        for place, leaf in enumerate(lane.leaves)
        if leaf.order_hash == own and (leaf.evidence_hash in shown or leaf.line == order.fee_line)
    ]
    if isinstance(lane, OpenedLane) or _is_small(lane, places):
        return lane
    return OpenedLane(
        requester=lane.requester,
        payee=lane.payee,
        leaves=tuple(lane.leaves[place] for place in places),
        places=tuple(places),
        siblings=compute_sum_multipath(
            [(leaf.compute_hash(), leaf.price) for leaf in lane.leaves], places
        ),
        count=len(lane.leaves),
    )


def _is_small(lane: Lane, places: Sequence[int]) -> bool:
    return len(places) == len(lane.leaves)
