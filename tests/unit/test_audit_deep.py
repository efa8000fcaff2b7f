"""Outputs compared again: a verdict that the rule contradicts is a FAIL, what lacks is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpumarket.adapters import output_shelf
from gpumarket.adapters.output_rechecks import recheck_outputs
from gpumarket.adapters.output_shelf import OutputShelf
from gpumarket.adapters.trees import TreeAdder
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.rechecking import (
    Rerun,
    SampledUnit,
    has_foreign_differences,
    list_sampled,
    report_runs,
)
from gpumarket.comparing.segments import judge_segments
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.car import encode_car
from gpumarket.protocol.cids import format_cid, parse_cid
from gpumarket.protocol.comparison import LlmRule, ProgramRule
from gpumarket.protocol.errors import ContentError, InvalidInput
from gpumarket.protocol.evidence import AuditVerdict, Check
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.training import SegmentAudit
from gpumarket.protocol.unixfs import Block
from gpumarket.testing.chains import make_plan, make_states
from gpumarket.testing.factories import change, make_address, make_cid, make_hash
from gpumarket.testing.stored_outputs import settle, write_output

PASS, FAIL, INCOMPLETE = AuditVerdict.PASS, AuditVerdict.FAIL, AuditVerdict.INCOMPLETE
MATCH, MISMATCH, INCONCLUSIVE = Verdict


def count_checks(proof: ProofOfExecution) -> int:
    return sum(len(epoch.checks) for epoch in proof.epochs)


def pick_pair(proof: ProofOfExecution) -> tuple[Cid, Cid]:
    """Return the verifier's and the provider's output of the first check."""
    check = proof.epochs[0].checks[0]
    return check.evidence.own.output, check.opening.body.result.output


def test_honest_verdicts_follow_from_the_outputs(tmp_path):
    proof = settle(tmp_path)
    check = recheck_outputs(proof, tmp_path)
    count = count_checks(proof)
    assert (check.name, check.verdict, check.remark) == ("comparisons", PASS, "")
    assert f"{count} of {count} verdicts" in check.text
    stated = {each.attestation.body.verdict for epoch in proof.epochs for each in epoch.checks}
    assert stated == {MATCH, MISMATCH}


def test_a_verdict_against_the_rule_is_a_contradiction(tmp_path):
    check = recheck_outputs(settle(tmp_path, close=0), tmp_path)
    assert check.verdict is FAIL
    assert " stated M" in check.text
    assert "by the rule json are a M" in check.text


def test_outputs_that_are_not_there_are_counted(tmp_path):
    proof = settle(tmp_path)
    own, _ = pick_pair(proof)
    (tmp_path / own / "x.json").unlink()
    (tmp_path / own).rmdir()
    check = recheck_outputs(proof, tmp_path)
    assert check.verdict is PASS
    assert "not decided, such as task" in check.remark
    assert f"{own} is not in " in check.remark
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert recheck_outputs(proof, nothing).verdict is INCOMPLETE


def test_bytes_under_another_name_are_not_believed(tmp_path):
    proof = settle(tmp_path)
    own, theirs = pick_pair(proof)
    # The verifier's own output in the provider's place would make everything a match.
    (tmp_path / theirs / "x.json").write_bytes((tmp_path / own / "x.json").read_bytes())
    check = recheck_outputs(proof, tmp_path)
    assert check.verdict is PASS
    assert f"what lies under {theirs} is something else" in check.remark


def test_outputs_in_archives_are_read_as_well(tmp_path):
    proof = settle(tmp_path / "folders")
    shelf = tmp_path / "archives"
    shelf.mkdir()
    for path in (tmp_path / "folders").iterdir():
        blocks: list[Block] = []
        root = TreeAdder(blocks.append).add_directory(path).cid
        (shelf / f"{path.name}.car").write_bytes(b"".join(encode_car((root,), blocks)))
    check = recheck_outputs(proof, shelf)
    assert (check.verdict, check.remark) == (PASS, "")
    assert recheck_outputs(settle(tmp_path / "lies", close=0), shelf).verdict is FAIL


def test_a_requesters_comparator_is_not_run_on_the_side(tmp_path):
    proof = settle(tmp_path, ProgramRule(command=("compare",)))
    check = recheck_outputs(proof, tmp_path)
    assert check.verdict is INCOMPLETE
    assert "comparator is a program" in check.text


def test_a_verifier_without_an_output_is_counted(tmp_path):
    proof = settle(tmp_path)
    first, *others = proof.epochs[0].checks
    failed = change(
        first, evidence=change(first.evidence, own=change(first.evidence.own, exit_code=1))
    )
    epochs = (change(proof.epochs[0], checks=(failed, *others)), *proof.epochs[1:])
    check = recheck_outputs(change(proof, epochs=epochs), tmp_path)
    assert (check.verdict, "own run failed" in check.remark) == (PASS, True)


def test_a_file_in_place_of_an_output_is_not_an_empty_output(tmp_path):
    proof = settle(tmp_path)
    first, *others = proof.epochs[0].checks
    (tmp_path / "file").write_bytes(b"anything")
    cid = format_cid(TreeAdder(lambda _block: None).add_file(tmp_path / "file").cid)
    (tmp_path / "file").rename(tmp_path / cid)
    result = change(first.opening.body.result, output=cid)
    opening = change(first.opening, body=change(first.opening.body, result=result))
    epochs = (change(proof.epochs[0], checks=(change(first, opening=opening), *others)),)
    check = recheck_outputs(change(proof, epochs=epochs), tmp_path)
    assert (check.verdict, "is a file, and an output is a folder" in check.remark) == (PASS, True)


def test_other_bytes_of_another_job_stay_unproven(tmp_path):
    proof = settle(tmp_path)
    assert not has_foreign_differences(proof)
    body = change(proof.order.body, max_fee=1)
    assert has_foreign_differences(change(proof, order=change(proof.order, body=body)))


@pytest.mark.parametrize(
    ("their_class", "expected", "text"),
    [("class", FAIL, "a machine of the same class"), ("other", INCOMPLETE, "must be replayed")],
)
def test_tokens_are_compared_as_far_as_no_model_is_needed(tmp_path, their_class, expected, text):
    proof = settle(tmp_path / "shelf", LlmRule(command=("replay",)))
    first = next(each for each in proof.epochs[0].checks if each.attestation.body.verdict == MATCH)
    cids = []
    for name, token in (("own", 1), ("theirs", 2)):
        made = tmp_path / name
        made.mkdir()
        np.save(made / "tokens.npy", np.full((1, 80), token, np.int32))
        np.save(made / "fingerprints.npy", np.ones((1, 80, 4), np.float16))
        cids.append(format_cid(TreeAdder(lambda _block: None).add_directory(made).cid))
        made.rename(tmp_path / "shelf" / cids[-1])
    own = change(first.evidence.own, output=cids[0], repro_class=make_hash("class"))
    result = change(first.opening.body.result, output=cids[1], repro_class=make_hash(their_class))
    check = change(
        first,
        evidence=change(first.evidence, own=own),
        opening=change(first.opening, body=change(first.opening.body, result=result)),
    )
    epoch = change(proof.epochs[0], checks=(check,))
    found = recheck_outputs(change(proof, epochs=(epoch,)), tmp_path / "shelf")
    assert (found.verdict, text in found.text) == (expected, True), found


# ---- hostile folders -----------------------------------------------------------------------


def refuse(folder: Path, cid: Cid, bytes_max: int = 10**6) -> str:
    with pytest.raises(ContentError) as caught:
        OutputShelf(folder).load(cid, lambda _block: None, bytes_max=bytes_max)
    return caught.value.code


def test_archives_that_lie_are_refused(tmp_path):
    cid, blocks = write_output(tmp_path / "made", b"right")
    other, wrong = write_output(tmp_path / "made", b"wrong")
    root, elsewhere = parse_cid(cid), parse_cid(other)
    archive = tmp_path / f"{cid}.car"
    forged = [Block(blocks[0].cid, wrong[0].data)]
    cases = (
        (b"noise" * 100, "GM-6017"),
        (b"", "GM-6017"),
        (b"".join(encode_car((elsewhere,), wrong)), "GM-6017"),
        (b"".join(encode_car((root,), forged)), "GM-6017"),
        (b"".join(encode_car((root,), blocks))[:-1], "GM-6017"),
    )
    for data, code in cases:
        archive.write_bytes(data)
        assert refuse(tmp_path, cid) == code
    archive.write_bytes(b"".join(encode_car((root,), blocks)))
    found: list[Block] = []
    OutputShelf(tmp_path).load(cid, found.append, bytes_max=10**6)
    assert found == blocks


def test_links_and_other_things_in_a_folder_are_refused(tmp_path):
    cid, _ = write_output(tmp_path, b"right")
    (tmp_path / "secret").write_bytes(b"right")
    (tmp_path / cid / "x.json").unlink()
    (tmp_path / cid / "x.json").symlink_to(tmp_path / "secret")
    assert refuse(tmp_path, cid) == "GM-6031"


def test_what_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    cid, _ = write_output(tmp_path, b"x" * 5_000)
    assert refuse(tmp_path, cid, bytes_max=4_000) == "GM-6013"
    monkeypatch.setattr(output_shelf, "BLOCKS_MAX", 1)
    assert refuse(tmp_path, cid) == "GM-6013"


# ---- what runs come to ---------------------------------------------------------------------


def run_one(
    verdict: Verdict, *, stated: set[int], is_accepted: bool, gap: str = "", sampled: int = 1
) -> Check:
    unit = SampledUnit(
        unit=3,
        receipt_hash=make_hash("receipt"),
        output=make_cid(),
        repro_class=bytes(32),
        stated=frozenset(stated),
        is_accepted=is_accepted,
    )
    outcome = None if gap else Outcome(verdict, "json", "because")
    return report_runs([Rerun(unit, outcome, gap)], sampled)


@pytest.mark.parametrize(
    ("verdict", "stated", "is_accepted", "expected"),
    [
        (MATCH, {MATCH}, True, PASS),
        (MATCH, {MATCH}, False, PASS),
        (MISMATCH, {MATCH}, True, FAIL),
        (MISMATCH, {MATCH}, False, FAIL),
        (MISMATCH, {INCONCLUSIVE}, True, FAIL),
        (MISMATCH, {MISMATCH}, False, PASS),
        (MISMATCH, {MATCH, MISMATCH}, False, PASS),
        (MISMATCH, {MATCH, MISMATCH}, True, FAIL),
        (MATCH, {MISMATCH}, False, FAIL),
        (MATCH, {MATCH, MISMATCH}, True, PASS),
        (INCONCLUSIVE, {MATCH}, True, INCOMPLETE),
    ],
)
def test_a_run_that_differs_contradicts_what_was_paid_or_stated(
    verdict, stated, is_accepted, expected
):
    check = run_one(verdict, stated=stated, is_accepted=is_accepted)
    assert (check.name, check.verdict) == ("re-execution", expected)


def test_what_could_not_be_run_is_said(tmp_path):
    check = run_one(MATCH, stated={MATCH}, is_accepted=True, gap="no\x1b[2J image")
    assert check.verdict is INCOMPLETE
    assert "task 3: no?[2J image" in check.text
    sampled = list_sampled(settle(tmp_path))
    assert {each.is_accepted for each in sampled} == {True, False}
    assert all(each.stated <= {MATCH, MISMATCH} for each in sampled)


@pytest.mark.parametrize("drawn", [(0,), (6,), (2**32 - 1,), (1, 9)])
def test_segments_that_a_chain_does_not_have_decide_nothing(drawn):
    plan = make_plan()
    audit = SegmentAudit(states=make_states(plan, start=make_hash("start")), drawn=drawn)
    with pytest.raises(InvalidInput, match="segments were drawn that the chain does not have"):
        judge_segments(
            audit,
            own={},
            theirs={},
            own_class=make_hash("class"),
            provider=make_address("provider"),
            tolerance=plan.tolerance,
        )
