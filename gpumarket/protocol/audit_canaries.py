"""
Audit: what was forged on purpose was noted before the seed, is all that was, and is not paid.

Without the notes a canary looks like any forgery, and an auditor takes it for one.
"""

from __future__ import annotations

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.canaries import CanaryNote, sort_notes
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.evidence import ChainEvidence, Finding, require
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.proof import EpochProof, OpenedWork, ProofOfExecution
from gpumarket.protocol.proof_reading import index_epoch_receipts, list_openings, list_paid
from gpumarket.protocol.signing import Signed, verify


def check_canaries(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that each epoch's notes open its commitment, are of its results, and none is paid."""
    paid = list_paid(proof) if proof.settlements else set()
    total = found = missed = closed = 0
    for epoch in proof.epochs:
        closed += epoch.canaries is None
        notes = index_canaries(proof, epoch)
        total += len(notes)
        require(not paid & notes.keys(), "a result that was forged on purpose is paid")
        _check_outputs(epoch, notes)
        for check in epoch.checks:
            attestation = check.attestation.body
            if attestation.receipt_hash not in notes:
                continue
            is_paid = attestation.compute_struct_hash() in paid
            is_missed = attestation.verdict == Verdict.MATCH
            require(not (is_missed and is_paid), "a check that missed a canary is paid")
            missed += is_missed
            found += attestation.verdict == Verdict.MISMATCH
    text = "nothing was forged on purpose to test verifiers"
    if total:
        text = (
            f"{total} results were forged on purpose to test verifiers, each noted before the seed"
        )
        text += f", {found} verdicts found one and {missed} did not" if found + missed else ""
        text += "; none of them is paid"
    closed_text = f"the notes of {closed} epochs are not shown, so nothing counts as such there"
    return Finding(text, closed_text if closed else "")


def index_canaries(proof: ProofOfExecution, epoch: EpochProof) -> dict[Hash32, Signed[CanaryNote]]:
    """
    Return the notes of an epoch by receipt; none where they are not shown.

    Raises `RemoteProtocolError` unless they are just those that were committed to before the seed,
    each signed by the provider of the result that it is about.
    """
    opened = epoch.canaries
    if opened is None:
        return {}
    is_committed = opened.compute_hash() == epoch.document.canaries
    require(is_committed, "the notes on canaries are not those that were committed to")
    require(opened.notes == sort_notes(opened.notes), "the notes on canaries are out of order")
    receipts = index_epoch_receipts(epoch)
    # Where some results of a provider are not shown, a note of it may be of one of these.
    veiled = {
        work.root.body.provider for work in epoch.document.work if isinstance(work, OpenedWork)
    }
    notes: dict[Hash32, Signed[CanaryNote]] = {}
    for note in opened.notes:
        verify(note, proof.domain)
        receipt = receipts.get(note.body.receipt_hash)
        is_here = receipt.provider == note.signer if receipt else note.signer in veiled
        require(is_here, "a note on a canary is of no result of its provider in this epoch")
        notes[note.body.receipt_hash] = note
    require(len(notes) == len(opened.notes), "two notes are on one canary")
    return notes


def _check_outputs(epoch: EpochProof, notes: dict[Hash32, Signed[CanaryNote]]) -> None:
    for opening in list_openings(epoch):
        note = notes.get(opening.body.receipt_hash)
        if note is not None:
            is_forged = parse_cid(note.body.honest) != parse_cid(opening.body.result.output)
            require(is_forged, "a result is called a canary that has the output of honest work")
