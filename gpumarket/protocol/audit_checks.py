"""Audit, third part: what was sampled was checked blind, and opened afterwards."""

from __future__ import annotations

from collections import Counter

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.codec import remember_content_hash
from gpumarket.protocol.comparison import BytesRule
from gpumarket.protocol.evidence import (
    ChainEvidence,
    CommitFact,
    Finding,
    MissingEvidence,
    require,
)
from gpumarket.protocol.ids import Hash32, format_short
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution
from gpumarket.protocol.proof_reading import (
    find_commit,
    index_epoch_receipts,
    index_receipts,
    iterate_own_leaves,
    list_openings,
    list_paid,
)
from gpumarket.protocol.receipt import Receipt, compute_input_hash
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.training import check_audit


def check_verifiers(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that every check was made blind by a staked verifier and says what it may say."""
    verdicts: Counter[Verdict] = Counter()
    differing = 0
    for epoch in proof.epochs:
        commit, own = find_commit(epoch, evidence), index_receipts(proof, epoch)
        for check in epoch.checks:
            _check_parties(proof, commit, check, evidence)
            _check_blindness(check)
            verdict = _check_verdict(check)
            if check.attestation.body.receipt_hash in own:
                _check_class(proof, check)
                _check_exact(proof, check)
                _check_segments(proof, check, epoch)
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
    is_after = remember_content_hash(seal) in opening.seal_hashes
    require(is_after, "a result was opened before the verifier had sealed its own")
    require(seal.sealed == own.compute_hash(), "a seal does not hold its result")
    is_bound = attestation.evidence_hash == remember_content_hash(check.evidence)
    require(is_bound, "an attestation rests on other evidence")
    is_bound = check.evidence.opening_hash == remember_content_hash(opening)
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


def _check_class(proof: ProofOfExecution, check: CheckProof) -> None:
    own, theirs = check.evidence.own.repro_class, check.opening.body.result.repro_class
    is_mismatch = check.attestation.body.verdict == Verdict.MISMATCH
    is_blame = is_mismatch and proof.job.verify.proves_nothing(own, theirs)
    require(not is_blame, "a mismatch was stated on bytes of another class of machine")


def _check_exact(proof: ProofOfExecution, check: CheckProof) -> None:
    is_exact = isinstance(proof.job.verify.comparison, BytesRule) and not check.evidence.segments
    is_match = check.attestation.body.verdict == Verdict.MATCH
    is_wrong = is_match and is_exact and not _is_same_output(check)
    require(not is_wrong, "a match was stated on outputs of different bytes")


def _check_segments(proof: ProofOfExecution, check: CheckProof, epoch: EpochProof) -> None:
    result = check.opening.body.result
    check_audit(
        check.evidence.segments,
        claim=result.training,
        spec=proof.job,
        unit=result.unit,
        seed=epoch.seed,
        receipt_hash=check.attestation.body.receipt_hash,
    )


def _is_same_output(check: CheckProof) -> bool:
    return parse_cid(check.evidence.own.output) == parse_cid(check.opening.body.result.output)


# ---- openings ------------------------------------------------------------------------------


def check_openings(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that every opened result is the committed one, and that who is paid opened all."""
    opened: set[Hash32] = set()
    for epoch in proof.epochs:
        receipts = index_epoch_receipts(epoch)
        for opening in list_openings(epoch):
            body = verify(opening, proof.domain).body
            require(body.receipt_hash not in opened, "a result was opened twice")
            receipt = receipts.get(body.receipt_hash)
            require(receipt is not None, "a result was opened that was not committed")
            if receipt is not None:
                _check_opening(proof, opening, receipt)
            opened.add(body.receipt_hash)
        _check_seals_named(epoch)
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
    if receipt.order_hash == proof.order.body.compute_struct_hash():
        asked = compute_input_hash(proof.order.body.job_hash, receipt.unit)
        require(result.input_hash == asked, "a result answers another question")
    position = (result.order_hash, result.unit, result.provider)
    committed = (receipt.order_hash, receipt.unit, receipt.provider)
    require(position == committed, "a result was moved to another place")
    parse_cid(result.output)


def _check_seals_named(epoch: EpochProof) -> None:
    seals = Counter(check.attestation.body.receipt_hash for check in epoch.checks)
    for opening in list_openings(epoch):
        names = opening.body.seal_hashes
        is_named = len(names) >= seals[opening.body.receipt_hash]
        require(
            is_named and list(names) == sorted(set(names)), "an opening names its seals wrongly"
        )


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
