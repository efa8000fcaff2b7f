"""Segments of a training task run again by an auditor: the drawn ones, or all of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.checkpoints import _read_facts
from gpumarket.adapters.class_probe import probe_repro_class
from gpumarket.adapters.output_rechecks import list_missing
from gpumarket.adapters.rerunning import rerun_units
from gpumarket.adapters.trees import TreeAdder
from gpumarket.comparing.rechecking import list_sampled
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.ids import Cid, Hash32
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.training import (
    CheckpointFacts,
    SegmentAudit,
    SegmentState,
    compute_chain_start,
    draw_segments,
    find_step,
    make_claim,
    make_state,
    make_training_env,
)
from gpumarket.testing.chains import make_plan
from gpumarket.testing.factories import change, make_input, make_output
from gpumarket.testing.proofs import FORGER, ProofMaker, Work, make_job, make_settled_job
from tests.job_image import ROOT

from .sandbox_fixture import job_image_fixture  # noqa: F401  pytest finds it by its name
from .shelf import shelve_job

PASS, FAIL, INCOMPLETE = AuditVerdict.PASS, AuditVerdict.FAIL, AuditVerdict.INCOMPLETE
PLAN = make_plan(steps=8, interval_steps=2, random_audits=0, top_audits=0, bytes_max=2**20)
"""Four segments, of which the first and the last are drawn."""
MODULES = ROOT / "examples/train/program"
PROGRAM = """
import sys
sys.path.insert(0, "{program}")
import numpy as np
from checkpointing import Checkpoint, Plan

def save(step, weights):
    parts = {{"w": weights}}, {{"m": weights * 2}}, {{"s": np.array([step], dtype=np.int64)}}
    Checkpoint(step, step, float(weights.sum()), *parts).write(plan.checkpoints)

plan = Plan.read()
step, weights = 0, np.full((4,), 8, dtype=np.float32)
if plan.resume_from is None:
    save(0, weights)
else:
    began = Checkpoint.read(plan.resume_from)
    step, weights = began.step, began.model["w"]
while step < plan.stop_at:
    step, weights = step + 1, weights / 2 + 1 + {extra}
    if step % plan.every == 0:
        save(step, weights)
"""


def train(folder: Path, *, resume: Path | None = None, extra: int = 0) -> dict[int, Path]:
    """Run the program on this machine; return its checkpoints by number."""
    env = make_training_env(PLAN, stop_at=PLAN.steps, resume_path=str(resume or ""))
    env |= {"GPUMARKET_CHECKPOINT_DIR": str(folder), "GPUMARKET_SEED": "1"}
    folder.mkdir()
    code = PROGRAM.format(program=MODULES, extra=extra)
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    return {int(path.name[5:]) // PLAN.interval_steps: path for path in folder.iterdir()}


@dataclass(frozen=True)
class TrainingMaker(ProofMaker):
    """Two training tasks; the forger's and the others' checkpoints lie in folders."""

    honest: Sequence[CheckpointFacts] = field(kw_only=True)
    forged: Sequence[CheckpointFacts] = field(kw_only=True)

    def make_result(self, provider: str, unit: int) -> UnitResult:
        result = change(super().make_result(provider, unit), repro_class=probe_repro_class())
        return change(result, training=make_claim(self.make_chain(result)[-1]))

    def make_chain(self, result: UnitResult) -> tuple[SegmentState, ...]:
        is_forged = result.output == self.name_output(FORGER, result.unit)
        states: list[SegmentState] = []
        for facts in self.forged if is_forged else self.honest:
            state = make_state(
                facts,
                before=states[-1] if states else None,
                start=compute_chain_start(self.spec.compute_hash(), result.unit),
                step_from=find_step(PLAN, max(0, len(states) - 1)),
                order_hash=result.order_hash,
                unit=result.unit,
                provider=result.provider,
                repro_class=result.repro_class,
            )
            states.append(state)
        return tuple(states)

    def find_segments(
        self, seed: Hash32, result: UnitResult, receipt_hash: Hash32
    ) -> SegmentAudit | None:
        states = self.make_chain(result)
        drawn = draw_segments(states, plan=PLAN, seed=seed, receipt_hash=receipt_hash)
        return SegmentAudit(states=states, drawn=drawn)


@dataclass(frozen=True)
class Shelf:
    """A folder by CID, the fields of the job, and the checkpoints of an honest run."""

    folder: Path
    job: dict[str, Any]
    honest: dict[int, Path]

    def read(self, checkpoints: dict[int, Path]) -> list[CheckpointFacts]:
        """Put checkpoints under their CIDs and say what they are."""
        found = []
        for number in sorted(checkpoints):
            path, before = checkpoints[number], checkpoints.get(number - 1)
            found.append(_read_facts(path, before, self.keep(path)))
        return found

    def keep(self, path: Path) -> Cid:
        """Copy a folder to its CID."""
        cid = format_cid(TreeAdder(lambda _block: None).add_directory(path).cid)
        shutil.copytree(path, self.folder / cid, dirs_exist_ok=True)
        return cid

    def settle(
        self, *, honest: dict[int, Path] | None = None, forged: dict[int, Path]
    ) -> ProofOfExecution:
        """Return the proof of two tasks: one by each, and the forger's done again."""
        both = (Work("provider-1", (0,)), Work(FORGER, (1,)))
        maker = TrainingMaker(
            spec=make_job(units=2, checkpoint=PLAN, **self.job),
            plan=(both, (Work("provider-1", (1,)),)),
            honest=self.read(honest or self.honest),
            forged=self.read(forged),
        )
        return make_settled_job(maker)[0]


@pytest.fixture(name="shelf")
def shelf_fixture(tmp_path: Path, job_image: tuple[Path, str]) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    modules = tmp_path / "modules"
    modules.mkdir()
    shutil.copy(MODULES / "checkpointing.py", modules)
    job = shelve_job(folder, job_image)
    shelf = Shelf(folder, job, train(tmp_path / "honest"))
    program = make_input(cid=shelf.keep(modules), path="/in/program", size_bytes=20_000)
    job |= {
        "inputs": (program,),
        "command": ("python3", "-c", PROGRAM.format(program="/in/program", extra=0)),
        "outputs": (make_output(path="/ckpt/final"),),
    }
    return shelf


def run(
    shelf: Shelf, proof: ProofOfExecution, *, is_whole: bool = False
) -> tuple[AuditVerdict, str]:
    assert not [
        cid
        for cid in list_missing(proof, shelf.folder, is_run=True, is_whole=is_whole)
        if cid not in {check.evidence.own.output for e in proof.epochs for check in e.checks}
    ]
    check = rerun_units(proof, shelf.folder, count=10, is_whole=is_whole)
    return check.verdict, f"{check.text} {check.remark}"


def test_drawn_segments_come_out_as_stated_and_one_that_was_not_trained_does_not(
    shelf: Shelf, tmp_path: Path
) -> None:
    stale = dict(shelf.honest)
    stale[4] = train(tmp_path / "stale", resume=shelf.honest[3], extra=1)[4]
    proof = shelf.settle(forged=stale)
    sampled = list_sampled(proof)
    assert {each.is_accepted for each in sampled} == {True, False}
    assert {each.segments.drawn for each in sampled if each.segments} == {(1, 4)}
    verdict, text = run(shelf, proof)
    assert verdict is PASS, text
    assert "3 of 3 sampled results run again" in text
    # The same, if provider-1 is who did not train, and its verifier said it had.
    verdict, text = run(shelf, shelf.settle(honest=stale, forged=stale))
    assert verdict is FAIL
    assert "differs from the result that was accepted: segment 4 of 4" in text


def test_a_jump_between_the_drawn_segments_is_found_when_all_are_run(
    shelf: Shelf, tmp_path: Path
) -> None:
    jumped = train(tmp_path / "jump", resume=shelf.honest[1], extra=1)
    jumped = {0: shelf.honest[0], 1: shelf.honest[1], 2: jumped[2]}
    jumped |= {n: p for n, p in train(tmp_path / "on", resume=jumped[2]).items() if n > 2}
    stale = dict(shelf.honest)
    stale[4] = train(tmp_path / "stale", resume=shelf.honest[3], extra=1)[4]
    proof = shelf.settle(honest=jumped, forged=stale)
    assert run(shelf, proof)[0] is PASS
    verdict, text = run(shelf, proof, is_whole=True)
    assert verdict is FAIL
    assert "segment 2 of 4" in text


def test_what_is_not_there_or_fails_decides_nothing(shelf: Shelf) -> None:
    proof = shelf.settle(forged=shelf.honest)
    gone = list_sampled(proof)[0].segments
    assert gone is not None
    (shelf.folder / gone.states[3].folder).rename(shelf.folder / "elsewhere")
    check = rerun_units(proof, shelf.folder, count=10)
    assert (check.verdict, gone.states[3].folder in check.text) == (INCOMPLETE, True)
    shelf.job["command"] = ("python3", "-c", "raise SystemExit(3)")
    (shelf.folder / "elsewhere").rename(shelf.folder / gone.states[3].folder)
    verdict, text = run(shelf, shelf.settle(forged=shelf.honest))
    assert (verdict, "exited with 3 here" in text) == (INCOMPLETE, True)
