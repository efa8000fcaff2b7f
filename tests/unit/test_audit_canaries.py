"""The audit of canaries: a note that was changed, moved, hidden or made up later is a FAIL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from coordinator.api.proofs import make_proof
from coordinator.core.state import Job
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.canaries import CanaryNote, CanaryOpening, sort_notes
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.evidence import AuditVerdict, Check
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import EpochProof, ProofOfExecution, compute_epoch_root
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.protocol.proof_packing import pack_proof
from gpumarket.protocol.signing import Signed
from gpumarket.testing.factories import change, make_address, make_cid, make_hash, make_spec, sign
from tests.coordinator_market import Market
from tests.market_audit import HonestChain, audit, read_chain

P1 = make_address("provider-1")
UNITS = 8
PASS, FAIL = AuditVerdict.PASS, AuditVerdict.FAIL


@cache
def play(*, is_lazy: bool = False) -> tuple[Market, Job]:
    """A job of the operator with two tasks forged on purpose; who misses one may go on here."""
    operator = make_address("operator")
    market = Market(canary_providers=(P1,), canary_requesters=(operator,), bar_seconds=0)
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": UNITS}, canaries=frozenset({1, 5}))
    market.join_verifier(card={"slots": UNITS}, approves_all=is_lazy)
    spec = make_spec(units=UNITS, verify=VerifyPolicy(mode="full", comparison=NpyRule()))
    job = market.submit(spec, checks=3 * UNITS, signer="operator")
    market.run(seconds_max=300)
    return market, job


def get_proof() -> ProofOfExecution:
    market, job = play()
    return make_proof(market.state, job)


def lie(remake: Callable[[EpochProof], EpochProof]) -> dict[str, Check]:
    """Audit a proof whose first epoch is told otherwise than it was committed."""
    market, job = play()
    proof = get_proof()
    return audit(market, job, change(proof, epochs=(remake(proof.epochs[0]), *proof.epochs[1:])))


def open_otherwise(remake: Callable[[CanaryOpening], CanaryOpening]) -> dict[str, Check]:
    def remake_epoch(epoch: EpochProof) -> EpochProof:
        assert epoch.canaries is not None
        return change(epoch, canaries=remake(epoch.canaries))

    return lie(remake_epoch)


def expect(lines: dict[str, Check], name: str, text: str) -> None:
    assert lines[name].verdict is FAIL, lines[name]
    assert text in lines[name].text


def note_otherwise(signer: str = "provider-1", **changes: Any) -> Callable[..., CanaryOpening]:
    def remake(opening: CanaryOpening) -> CanaryOpening:
        first, *others = opening.notes
        changed = sign(change(first.body, **changes), signer)
        return change(opening, notes=sort_notes([changed, *others]))

    return remake


def test_an_honest_record_with_canaries_passes_whole_compact_and_from_its_file() -> None:
    market, _job = play()
    proof = get_proof()
    assert len(proof.epochs[0].canaries.notes) == 2  # type: ignore[union-attr]  # it is opened
    for told in (proof, compact_proof(proof), decode_proof_untrusted(encode_proof(proof))):
        report = check_proof(told, read_chain(market))
        assert {check.verdict for check in report.checks} == {PASS}, report
        line = next(check for check in report.checks if check.name == "canaries")
        assert line.text.startswith("2 results were forged on purpose")
        assert "2 verdicts found one and 0 did not" in line.text
        forged = next(check for check in report.checks if check.name == "forgeries")
        assert "against nobody; 2 rejected results" in forged.text


def test_without_its_notes_a_canary_is_a_forgery_for_the_audit() -> None:
    lines = lie(lambda epoch: change(epoch, canaries=None))
    expect(lines, "forgeries", "a provider found forging was paid")
    assert lines["canaries"].verdict is PASS
    assert "the notes of 1 epochs are not shown" in lines["canaries"].remark


@pytest.mark.parametrize(
    "remake",
    [
        note_otherwise(honest=make_cid("another output")),
        note_otherwise(salt=make_hash("another salt")),
        note_otherwise(receipt_hash=make_hash("another receipt")),
        note_otherwise(signer="provider-2"),
        lambda opening: change(opening, notes=opening.notes[1:]),
        lambda opening: change(opening, notes=()),
        lambda opening: change(opening, notes=tuple(reversed(opening.notes))),
        lambda opening: change(opening, salt=make_hash("another salt")),
        lambda opening: change(
            opening, notes=sort_notes([*opening.notes, make_note(make_hash("one more"))])
        ),
    ],
)
def test_a_note_that_was_changed_hidden_or_added_later_is_not_what_was_committed_to(
    remake: Callable[[CanaryOpening], CanaryOpening],
) -> None:
    lines = open_otherwise(remake)
    expect(lines, "canaries", "not those that were committed to")
    assert lines["forgeries"].verdict is FAIL


def test_no_file_is_written_of_notes_that_were_not_committed_to() -> None:
    proof = get_proof()
    bare = change(proof.epochs[0], canaries=CanaryOpening(salt=make_hash("other")))
    with pytest.raises(InvalidInput, match="other canaries than were committed"):
        encode_proof(change(proof, epochs=(bare, *proof.epochs[1:])))


def test_a_file_opens_the_commitment_or_states_it_and_never_both() -> None:
    for canaries in (None, get_proof().epochs[0].canaries):
        file = pack_proof(get_proof())
        stated = None if canaries is None else make_hash("stated")
        entry = change(file.epochs[0], canaries=canaries, canaries_hash=stated)
        data = encode_document(change(file, epochs=(entry, *file.epochs[1:])))
        with pytest.raises(RemoteProtocolError) as error:
            decode_proof_untrusted(data)
        assert "opened and hashed, or neither" in error.value.why


def test_a_proof_that_shows_no_notes_goes_through_its_file() -> None:
    proof = get_proof()
    closed = change(proof, epochs=tuple(change(each, canaries=None) for each in proof.epochs))
    closed = change(closed, claim=proof.claim)
    assert decode_proof_untrusted(encode_proof(closed)) == closed


# ---- lies that are committed ---------------------------------------------------------------


def make_note(receipt_hash: bytes, signer: str = "provider-1", **changes: Any) -> Signed[Any]:
    body = CanaryNote(
        receipt_hash=receipt_hash, honest=make_cid("honest"), salt=make_hash("salt of a note")
    )
    return sign(change(body, **changes), signer)


def audit_committed(*notes: Signed[Any]) -> dict[str, Check]:
    """Audit a job whose first epoch was committed with these notes."""
    market, _job = play()
    proof = get_proof()
    opening = CanaryOpening(salt=make_hash("salt"), notes=notes)
    epoch = proof.epochs[0]
    document = change(epoch.document, canaries=opening.compute_hash())
    told = change(epoch, document=document, canaries=opening)
    evidence = read_chain(market)
    key = (epoch.committer, epoch.sequence)
    fact = replace(
        evidence.commits[key],
        root=compute_epoch_root(document),
        data_hash=compute_content_hash(document),
    )
    evidence = replace(evidence, commits={**evidence.commits, key: fact})
    report = check_proof(change(proof, epochs=(told, *proof.epochs[1:])), evidence)
    return {check.name: check for check in report.checks}


def find_receipts(epoch: int) -> list[bytes]:
    (work,) = get_proof().epochs[epoch].document.work
    return [receipt.body.compute_struct_hash() for receipt in work.receipts]


def test_a_note_of_another_epochs_result_is_none_of_this_one() -> None:
    elsewhere = make_note(find_receipts(1)[0])
    expect(audit_committed(elsewhere), "canaries", "of no result of its provider in this epoch")


def test_a_note_that_somebody_else_signed_is_none() -> None:
    note = make_note(find_receipts(0)[0], signer="provider-2")
    expect(audit_committed(note), "canaries", "of no result of its provider in this epoch")


def test_a_note_under_somebody_elses_name_is_none() -> None:
    rejected = get_proof().epochs[0].rejected_receipts[0]
    note = change(make_note(rejected, signer="provider-2"), signer=P1)
    expect(audit_committed(note), "canaries", "the signature of a CanaryNote is not by")


def test_a_canary_is_never_paid_as_work() -> None:
    notes = [make_note(each) for each in find_receipts(0)]
    expect(audit_committed(*sort_notes(notes)), "canaries", "forged on purpose is paid")


def test_honest_work_cannot_be_called_a_canary() -> None:
    rejected = get_proof().epochs[0].rejected_receipts[0]
    opened = {
        check.opening.body.receipt_hash: check.opening.body.result.output
        for check in get_proof().epochs[0].checks
    }
    note = make_note(rejected, honest=opened[rejected])
    expect(audit_committed(note), "canaries", "that has the output of honest work")


def test_two_notes_on_one_result_and_notes_out_of_order_are_refused() -> None:
    one, other = get_proof().epochs[0].rejected_receipts
    twice = [make_note(one), make_note(one, salt=make_hash("again"))]
    expect(audit_committed(*sort_notes(twice)), "canaries", "two notes are on one canary")
    turned = tuple(reversed(sort_notes([make_note(one), make_note(other)])))
    expect(audit_committed(*turned), "canaries", "out of order")


def test_a_check_that_missed_a_canary_is_not_paid() -> None:
    market, job = play(is_lazy=True)
    proof = make_proof(market.state, job)
    line = audit(market, job, proof)["canaries"]
    assert (line.verdict, "0 verdicts found one and 2 did not" in line.text) == (PASS, True)
    noted = {note.body.receipt_hash for note in proof.epochs[0].canaries.notes}  # type: ignore[union-attr]  # it is opened
    missed = next(
        check.attestation.body.compute_struct_hash()
        for check in proof.epochs[0].checks
        if check.attestation.body.receipt_hash in noted
    )
    settlement = proof.settlements[0]
    lane = next(lane for lane in settlement.batch.lanes if lane.payee != P1)
    leaves = (change(lane.leaves[0], evidence_hash=missed), *lane.leaves[1:])
    lanes = tuple(
        change(each, leaves=leaves) if each == lane else each for each in settlement.batch.lanes
    )
    paid = change(settlement, batch=change(settlement.batch, lanes=lanes))
    lines = audit(market, job, change(proof, settlements=(paid,)))
    expect(lines, "canaries", "a check that missed a canary is paid")
