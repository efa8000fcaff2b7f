"""The drawn segments of a training task compared again by an auditor, from checkpoints by CID."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumarket.adapters.output_rechecks import list_missing, recheck_outputs
from gpumarket.adapters.trees import TreeAdder
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.training import SegmentAudit
from gpumarket.testing.factories import change
from gpumarket.testing.proofs import make_settled_job
from scripts.benchmarks.training_lab import Checkpoint
from tests.adversary.training_runs import CLASS, PROVIDER, Run

DRAWN = (1, 3)


def shelve(folder: Path, made: Path) -> Cid:
    """Move a folder to its CID."""
    cid = format_cid(TreeAdder(lambda _block: None).add_directory(made).cid)
    if not (folder / cid).exists():
        made.rename(folder / cid)
    return cid


def write(path: Path, checkpoint: Checkpoint) -> None:
    path.mkdir(parents=True)
    for name, data in checkpoint.encode().items():
        (path / name).write_bytes(data)


def make_proof(folder: Path, run: Run, *, verdict: Verdict) -> ProofOfExecution:
    """Return a proof of which the only check is of this run, and which states `verdict`."""
    said: dict[int, dict[str, Cid]] = {}
    for index, checkpoint in enumerate(run.checkpoints):
        write(folder / f"made-{index}", checkpoint)
        said[index] = {"folder": shelve(folder, folder / f"made-{index}")}
    run.said = said
    for index, checkpoint in run.replay(DRAWN).items():
        write(folder / f"ends/{index}", checkpoint)
    proof, _ = make_settled_job()
    check = proof.epochs[0].checks[0]
    own = change(
        check.evidence.own, output=shelve(folder, folder / "ends"), exit_code=0, repro_class=CLASS
    )
    audit = SegmentAudit(states=run.sign(), drawn=DRAWN)
    result = change(check.opening.body.result, provider=PROVIDER)
    check = change(
        check,
        evidence=change(check.evidence, own=own, segments=audit),
        opening=change(check.opening, body=change(check.opening.body, result=result)),
        attestation=change(
            check.attestation, body=change(check.attestation.body, verdict=int(verdict))
        ),
    )
    epoch = change(proof.epochs[0], checks=(check,))
    return change(proof, job=change(proof.job, checkpoint=run.plan), epochs=(epoch,))


@pytest.mark.parametrize(
    ("is_honest", "verdict", "expected"),
    [
        (True, Verdict.MATCH, AuditVerdict.PASS),
        (True, Verdict.MISMATCH, AuditVerdict.FAIL),
        (False, Verdict.MISMATCH, AuditVerdict.PASS),
        (False, Verdict.MATCH, AuditVerdict.FAIL),
    ],
)
def test_a_verdict_on_segments_must_follow_from_them(
    tmp_path, honest_run, stale_run, is_honest, verdict, expected
):
    proof = make_proof(tmp_path, honest_run if is_honest else stale_run, verdict=verdict)
    assert list_missing(proof, tmp_path, is_run=False) == []
    check = recheck_outputs(proof, tmp_path)
    assert check.verdict is expected, check


def test_a_missing_checkpoint_is_named(tmp_path, honest_run):
    proof = make_proof(tmp_path, honest_run, verdict=Verdict.MATCH)
    segments = proof.epochs[0].checks[0].evidence.segments
    assert segments is not None
    missing = segments.states[3].folder
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert list_missing(proof, tmp_path, is_run=False) == [missing]
    check = recheck_outputs(proof, tmp_path)
    assert (check.verdict, missing in check.text) == (AuditVerdict.INCOMPLETE, True)
