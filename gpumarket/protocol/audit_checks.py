"""Audit, second part: the sample was drawn by the seed, checked blind, and opened afterwards."""

from __future__ import annotations

from collections import Counter

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import (
    ChainEvidence,
    CommitFact,
    Finding,
    MissingEvidence,
    require,
)
from gpumarket.protocol.ids import Address, Hash32, format_short
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution
from gpumarket.protocol.proof_reading import (
    find_commit,
    index_receipts,
    iterate_own_leaves,
    list_openings,
    list_own_work,
    list_paid,
)
from gpumarket.protocol.receipt import Receipt, compute_input_hash
from gpumarket.protocol.sampling import assign_verifier, compute_sample_size, draw_sample
from gpumarket.protocol.signing import Signed, verify


def check_samples(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that exactly the results that the seed drew were checked, or else not paid."""
    sampled = total = undecided = 0
    for epoch in proof.epochs:
        expected = _draw_expected(proof, epoch)
        rejected = set(epoch.rejected_receipts)
        checks = [check.attestation.body.receipt_hash for check in epoch.checks]
        checked = set(checks)
        require(len(checks) == len(checked), "a result was checked twice")
        # A provider that never opened has no checks, and none of its receipts is paid.
        missing = expected - checked - rejected
        require(not missing, f"{len(missing)} sampled results were paid without a check")
        require(checked <= expected, "a result was checked that the seed did not draw")
        sampled += len(expected)
        undecided += len(expected - checked)
        total += len(index_receipts(proof, epoch))
    return Finding(
        f"sample recomputed from the seed: {sampled} of {total} results, all as used",
        f"{undecided} of them ended without a verdict and are not paid" if undecided else "",
    )


def _draw_expected(proof: ProofOfExecution, epoch: EpochProof) -> set[Hash32]:
    expected: set[Hash32] = set()
    for work in epoch.document.work:
        hashes = [receipt.body.compute_struct_hash() for receipt in list_own_work(proof, work)]
        size = compute_sample_size(proof.job.verify, len(hashes))
        provider = work.root.body.provider
        drawn = draw_sample(epoch.seed, provider, count=len(hashes), size=size)
        expected |= {hashes[index] for index in drawn}
    return expected


# ---- verifiers -----------------------------------------------------------------------------


def check_assignments(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check who checked: the verifier that the seed draws from those committed, or a stand-in."""
    total = as_drawn = 0
    for epoch in proof.epochs:
        for check in epoch.checks:
            is_own_job = check.seal.signer == proof.order.body.requester
            require(not is_own_job, "the requester checked its own job")
            total += 1
            as_drawn += check.seal.signer == find_first_choice(proof, epoch, check)
    stand_ins = total - as_drawn
    return Finding(
        f"{as_drawn} of {total} checks by the verifier that the seed draws from those committed",
        f"{stand_ins} by another: that the one drawn was away, late or unwilling is not on record"
        if stand_ins
        else "",
    )


def find_first_choice(
    proof: ProofOfExecution, epoch: EpochProof, check: CheckProof
) -> Address | None:
    """
    Return the verifier that the seed draws for a check, or None where none was committed.

    Neither the provider nor the requester is eligible; verifiers of the provider's own
    reproducibility class come before all others.
    """
    result = check.opening.body.result
    barred = (result.provider, proof.order.body.requester)
    cards = [c.body for c in epoch.document.verifiers if c.body.verifier not in barred]
    same = [card.verifier for card in cards if card.repro_class == result.repro_class]
    eligible = same or [card.verifier for card in cards]
    return assign_verifier(epoch.seed, check.attestation.body.receipt_hash, eligible)


def check_verifiers(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that every check was made blind by a staked verifier and says what it may say."""
    verdicts: Counter[Verdict] = Counter()
    differing = 0
    for epoch in proof.epochs:
        commit = find_commit(epoch, evidence)
        for check in epoch.checks:
            _check_parties(proof, commit, check, evidence)
            _check_blindness(check)
            verdict = _check_verdict(check)
            verdicts[verdict] += 1
            differing += verdict is Verdict.MATCH and not _is_same_output(check)
    match, mismatch = verdicts[Verdict.MATCH], verdicts[Verdict.MISMATCH]
    return Finding(
        f"{verdicts.total()} blind checks, each sealed before its result was opened: "
        f"{match} match, {mismatch} mismatch, {verdicts[Verdict.INCONCLUSIVE]} inconclusive",
        f"{differing} matches are of outputs with different CIDs, within the signed rule"
        if differing
        else "",
    )


def _check_parties(
    proof: ProofOfExecution, commit: CommitFact, check: CheckProof, evidence: ChainEvidence
) -> None:
    seal = verify(check.seal, proof.domain)
    opening = verify(check.opening, proof.domain)
    attested = verify(check.attestation, proof.domain)
    verifier, own = seal.signer, check.evidence.own
    is_one = verifier == attested.signer == seal.body.verifier == own.verifier
    require(is_one, "two verifiers in one check")
    provider = opening.body.result.provider
    require(opening.signer == provider, "an opening is not its provider's")
    require(verifier != provider, "a provider checked itself")
    staked = evidence.find_stake(verifier, commit.block)
    require(staked > 0, f"{format_short(verifier)} was no staked verifier at commitment")


def _check_blindness(check: CheckProof) -> None:
    seal, opening, own = check.seal.body, check.opening.body, check.evidence.own
    attestation = check.attestation.body
    is_one = seal.receipt_hash == opening.receipt_hash == attestation.receipt_hash
    require(is_one, "a seal, an opening and a verdict are of different receipts")
    task = (opening.result.order_hash, opening.result.unit)
    is_one = (seal.order_hash, seal.unit) == task == (own.order_hash, own.unit)
    require(is_one, "a verifier's result is of another task")
    is_after = opening.seal_hash == compute_content_hash(seal)
    require(is_after, "a result was opened before the verifier had sealed its own")
    require(seal.sealed == own.compute_hash(), "a seal does not hold its result")
    is_bound = attestation.evidence_hash == compute_content_hash(check.evidence)
    require(is_bound, "an attestation rests on other evidence")
    is_bound = check.evidence.opening_hash == compute_content_hash(opening)
    require(is_bound, "the evidence is about another opening")


def _check_verdict(check: CheckProof) -> Verdict:
    stated = check.attestation.body.verdict
    require(stated in Verdict._value2member_map_, f"there is no verdict {stated}")
    verdict, has_failed = Verdict(stated), check.evidence.own.exit_code != 0
    is_wrong = verdict is Verdict.MISMATCH and not has_failed and _is_same_output(check)
    require(not is_wrong, "a mismatch was stated on two equal outputs")
    is_wrong = verdict is Verdict.MATCH and has_failed
    require(not is_wrong, "a match was stated by a verifier whose own run failed")
    return verdict


def _is_same_output(check: CheckProof) -> bool:
    return parse_cid(check.evidence.own.output) == parse_cid(check.opening.body.result.output)


# ---- openings ------------------------------------------------------------------------------


def check_openings(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that every opened result is the committed one, and that who is paid opened all."""
    opened: set[Hash32] = set()
    for epoch in proof.epochs:
        receipts = index_receipts(proof, epoch)
        for opening in list_openings(epoch):
            body = verify(opening, proof.domain).body
            require(body.receipt_hash not in opened, "a result was opened twice")
            receipt = receipts.get(body.receipt_hash)
            require(receipt is not None, "a result was opened that was not committed")
            if receipt is not None:
                _check_opening(proof, opening, receipt)
            opened.add(body.receipt_hash)
    if not proof.settlements:
        raise MissingEvidence("which results had to be opened is not known before settlement")
    units = proof.order.body.units
    work_lines = [leaf for _, leaf in iterate_own_leaves(proof) if leaf.line < units]
    closed = [leaf for leaf in work_lines if leaf.evidence_hash not in opened]
    require(not closed, f"{len(closed)} paid results were never opened")
    _check_all_opened(proof, opened)
    return Finding(
        f"{len(opened)} opened results hash to what was committed, each for its own task"
    )


def _check_opening(proof: ProofOfExecution, opening: Signed[Opening], receipt: Receipt) -> None:
    result = opening.body.result
    require(opening.signer == receipt.provider, "a result was opened by somebody else")
    is_same = result.compute_hash() == receipt.result_hash
    require(is_same, "an opened result is not the committed one")
    asked = compute_input_hash(proof.order.body.job_hash, receipt.unit)
    require(result.input_hash == asked, "a result answers another question")
    position = (result.order_hash, result.unit, result.provider)
    committed = (receipt.order_hash, receipt.unit, receipt.provider)
    require(position == committed, "a result was moved to another place")
    parse_cid(result.output)


def _check_all_opened(proof: ProofOfExecution, opened: set[Hash32]) -> None:
    # Otherwise a forger could keep closed what was sampled and be paid for the rest.
    paid = list_paid(proof)
    for epoch in proof.epochs:
        receipts = index_receipts(proof, epoch)
        payees = {receipt.provider for name, receipt in receipts.items() if name in paid}
        for name, receipt in receipts.items():
            is_opened = name in opened or receipt.provider not in payees
            provider = format_short(receipt.provider)
            require(is_opened, f"{provider} is paid in an epoch of which it kept a result closed")
