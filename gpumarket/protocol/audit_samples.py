"""Audit, second part: the sample is what the seed draws from the pools, and who checked it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.evidence import ChainEvidence, Finding, require
from gpumarket.protocol.ids import Address, Hash32, format_short
from gpumarket.protocol.pools import (
    SamplePool,
    draw_pool,
    draw_verifiers,
    has_part,
    iterate_spans,
    prefer_class,
)
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution, ProviderWork
from gpumarket.protocol.proof_reading import (
    find_commit,
    find_own_pool,
    index_receipts,
    list_own_checks,
    list_own_work,
    locate_receipts,
)
from gpumarket.protocol.sampling import compute_sample_size, is_overlapped


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the seed draws where this job's results of one provider are."""

    pool: SamplePool
    own: frozenset[Hash32]
    """Receipts of this job that had to be checked."""
    foreign: frozenset[Hash32]
    """Those of other jobs."""
    within: frozenset[Hash32]
    """All receipts of the pool that are shown."""


def check_samples(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that exactly the results that the seed drew were checked, or else not paid."""
    sampled = of_job = total = undecided = trusted = 0
    for epoch in proof.epochs:
        samples = [
            _draw_sample(proof, epoch, work)
            for work in epoch.document.work
            if list_own_work(proof, work) or find_own_pool(proof, work)
        ]
        checked = _count_checks(epoch)
        own = {name for sample in samples for name in sample.own}
        foreign = {name for sample in samples for name in sample.foreign}
        within = {name for sample in samples for name in sample.within}
        # A provider that never opened has no checks, and none of its receipts is paid.
        missing = own - checked - set(epoch.rejected_receipts)
        require(not missing, f"{len(missing)} sampled results were paid without a check")
        mine = index_receipts(proof, epoch).keys()
        require(checked & mine <= own, "a result was checked that the seed did not draw")
        require(checked - mine <= within - mine, "a check is of a result that is in no pool of it")
        trusted += _check_terms(epoch, evidence)
        sampled += len(own) + len(foreign)
        of_job += len(own)
        undecided += len((own | foreign) - checked)
        total += sum(sample.pool.count for sample in samples)
    shared = f", {of_job} of them of this job" if of_job != sampled else ""
    remarks = []
    if undecided:
        remarks.append(f"{undecided} of them ended without a verdict and are not paid")
    if trusted:
        remarks.append(
            f"{trusted} pools are checked less for what the coordinator says of their providers' "
            "past, or for a stake that is not proven here"
        )
    return Finding(
        f"sample recomputed from the seed: {sampled} of {total} results{shared}, all as used",
        "; ".join(remarks),
    )


def _count_checks(epoch: EpochProof) -> set[Hash32]:
    """Return what was checked: once, or where it is overlapped by two verifiers."""
    verifiers: dict[Hash32, list[Address]] = {}
    for check in epoch.checks:
        name = check.attestation.body.receipt_hash
        verifiers.setdefault(name, []).append(check.seal.signer)
    for name, who in verifiers.items():
        limit = 2 if is_overlapped(epoch.seed, name) else 1
        require(len(who) <= limit, "a result was checked twice")
        require(len(set(who)) == len(who), "a result was checked twice by one verifier")
    return set(verifiers)


def _draw_sample(proof: ProofOfExecution, epoch: EpochProof, work: ProviderWork) -> _Sample:
    pool, places = _find_own_pool(proof, work)
    shown = {
        place: receipt.body for place, receipt in locate_receipts(work).items() if place in places
    }
    drawn = draw_pool(
        epoch.seed, work.root.body.provider, pool, stake=work.stake, audited=work.audited
    )
    own: set[Hash32] = set()
    foreign: set[Hash32] = set()
    order_hash = proof.order.body.compute_struct_hash()
    for index in drawn:
        receipt = shown.get(places[index])
        if receipt is None:
            raise RemoteProtocolError("a result that the seed drew is not shown")
        (own if receipt.order_hash == order_hash else foreign).add(receipt.compute_struct_hash())
    if pool.policy.mode == "sample":
        own |= {
            receipt.compute_struct_hash()
            for receipt in shown.values()
            if receipt.order_hash == order_hash and receipt.unit in proof.job.verify.critical
        }
    within = frozenset(receipt.compute_struct_hash() for receipt in shown.values())
    return _Sample(pool, frozenset(own), frozenset(foreign), within)


def _find_own_pool(proof: ProofOfExecution, work: ProviderWork) -> tuple[SamplePool, range]:
    root, order_hash = work.root.body, proof.order.body.compute_struct_hash()
    names = [pool.policy.compute_pool_hash() for pool in work.pools]
    require(names == sorted(set(names)), "a provider's pools are out of order, or one is in two")
    is_whole = sum(pool.count for pool in work.pools) == root.count
    require(is_whole, "a provider's pools count other results than its root")
    is_whole = sum(pool.price for pool in work.pools) == root.price
    require(is_whole, "a provider's pools sum other prices than its root")
    receipts = locate_receipts(work)
    found = None
    for pool, places in iterate_spans(work.pools):
        shown = [receipts[place].body for place in places if place in receipts]
        total = sum(receipt.price for receipt in shown)
        is_right = total == pool.price if len(shown) == pool.count else total <= pool.price
        require(is_right, "a pool sums other prices than its receipts")
        own = [receipt for receipt in shown if receipt.order_hash == order_hash]
        if pool.policy == proof.job.verify.pool():
            found = (pool, places)
        else:
            require(not own, "a result of this job is in a pool with other terms")
    if found is None:
        raise RemoteProtocolError("there is no pool with this job's terms")
    return found


def _check_terms(epoch: EpochProof, evidence: ChainEvidence) -> int:
    """Return how many pools are sampled less for something that is not proven here."""
    trusted = 0
    for work in epoch.document.work:
        staked: int | None = 0
        if work.stake:
            block = find_commit(epoch, evidence).block
            staked = evidence.find_provider_stake(work.root.body.provider, block)
        proven = min(work.stake, staked or 0)
        for pool in work.pools:
            used = _compute_size(pool, stake=work.stake, audited=work.audited)
            needed = _compute_size(pool, stake=proven, audited=work.audited)
            is_backed = needed <= used or staked is None
            require(is_backed, "a sample is small for a stake that its provider did not have")
            trusted += _compute_size(pool, stake=proven, audited=0) > used
    return trusted


def _compute_size(pool: SamplePool, *, stake: int, audited: int) -> int:
    return compute_sample_size(
        pool.policy, pool.count, price=pool.price, stake=stake, audited=audited
    )


# ---- verifiers -----------------------------------------------------------------------------


def check_assignments(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check who checked: the verifier that the seed draws from those committed, or a stand-in."""
    total = as_drawn = single = 0
    is_blind = False
    for epoch in proof.epochs:
        block = find_commit(epoch, evidence).block
        payouts = evidence.find_payouts(block)
        is_blind |= not evidence.knows_payouts(_list_met(proof, epoch), block)
        _check_independence(proof, epoch, payouts)
        checks = list_own_checks(proof, epoch)
        found = Counter(check.attestation.body.receipt_hash for check in checks)
        for check in checks:
            drawn = list_drawn(proof, epoch, check, payouts=payouts)
            total += 1
            as_drawn += check.seal.signer in drawn
            single += len(drawn) > found[check.attestation.body.receipt_hash]
    remarks = []
    if total > as_drawn:
        remarks.append(
            f"{total - as_drawn} by another: that the one drawn was away, late or unwilling is "
            "not on record"
        )
    if single:
        remarks.append(f"{single} results that were for two verifiers were checked by one")
    if is_blind:
        remarks.append("where all verifiers and providers are paid is not proven here")
    return Finding(
        f"{as_drawn} of {total} checks by the verifier that the seed draws from those committed",
        "; ".join(remarks),
    )


def _list_met(proof: ProofOfExecution, epoch: EpochProof) -> set[Address]:
    """Return who was a party to a check, or could have made it."""
    met = {proof.order.body.requester}
    met |= {card.body.verifier for card in epoch.document.verifiers}
    for check in epoch.checks:
        met |= {check.seal.signer, check.opening.body.result.provider}
    return met


def _check_independence(
    proof: ProofOfExecution, epoch: EpochProof, payouts: Mapping[Address, Address]
) -> None:
    requester, own = proof.order.body.requester, index_receipts(proof, epoch)
    for check in epoch.checks:
        verifier, provider = check.seal.signer, check.opening.body.result.provider
        short = format_short(verifier)
        is_part = has_part(verifier, (provider,), payouts)
        require(not is_part, f"{short} checked work of its own, or of whom it is paid with")
        if check.attestation.body.receipt_hash in own:
            require(verifier != requester, "the requester checked its own job")
            is_part = has_part(verifier, (requester,), payouts)
            require(not is_part, f"{short} is paid where the requester is, and checked its job")


def list_drawn(
    proof: ProofOfExecution,
    epoch: EpochProof,
    check: CheckProof,
    *,
    payouts: Mapping[Address, Address],
) -> tuple[Address, ...]:
    """
    Return the one or two verifiers that the seed draws for a result of the job.

    Who is, or is paid where, its provider or requester is not eligible; verifiers of the provider's
    own reproducibility class come before all others.
    """
    result = check.opening.body.result
    barred = (result.provider, proof.order.body.requester)
    cards = [
        card.body
        for card in epoch.document.verifiers
        if not has_part(card.body.verifier, barred, payouts)
    ]
    eligible = prefer_class(cards, result.repro_class)
    return draw_verifiers(epoch.seed, check.attestation.body.receipt_hash, eligible)
