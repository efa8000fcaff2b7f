"""
Attack 13: cheap ways to seem to have trained.

Each cheat that touches one segment is refused whenever that segment is done again, in the class of
the provider and from another one. A walk within the tolerance stays below a tenth of one update;
a teleport is found by the length of its update, and hides only behind a lie that the coordinator
sees when it keeps the checkpoint, or by being as small as an honest update: then the chance is
that of the random draw, which is said in the guide.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from gpumarket.comparing.checkpoints import find_false_word, measure_update
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.training import check_plan
from gpumarket.testing.factories import make_address, make_hash
from tests.adversary.training_runs import (
    CLASS,
    OTHER_CLASS,
    PROGRAM,
    REJECTED,
    SEED,
    SEGMENT_STEPS,
    SEGMENTS,
    TEXT,
    Checkpoint,
    Run,
    compute_distance,
    decode,
    make_plan,
    teleport,
    train_honestly,
    walk,
)

TOLERANCE = float(make_plan().tolerance)
EMULATED = (
    # numpy's own loops without their wide forms, and the kernels of an older processor.
    {"OPENBLAS_CORETYPE": "Prescott"},
    {"OPENBLAS_CORETYPE": "Sandybridge", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
    {"OPENBLAS_NUM_THREADS": "2"},
)


@pytest.fixture(scope="module")
def honest() -> list[Checkpoint]:
    return train_honestly()


def test_an_honest_run_is_accepted_to_the_last_bit_in_its_class(honest):
    outcome = Run(honest).audit(*range(1, SEGMENTS + 1))
    assert outcome.verdict is Verdict.MATCH
    assert "equal byte by byte" in outcome.sentence


@pytest.mark.parametrize("segment", [1, 3, SEGMENTS])
@pytest.mark.parametrize("name", REJECTED)
def test_a_cheat_is_refused_when_its_segment_is_done_again(honest, name, segment):
    run = REJECTED[name](honest, segment, "numpy")
    for own_class in (CLASS, OTHER_CLASS):
        outcome = run.audit(segment, own_class=own_class)
        assert outcome.verdict is Verdict.MISMATCH, outcome.sentence
        assert f"segment {segment} of" in outcome.sentence


@pytest.mark.parametrize("name", REJECTED)
def test_the_segments_around_a_cheat_do_not_give_it_away(honest, name):
    # Else a test that says "refused when drawn" could hold for another reason.
    run = REJECTED[name](honest, 3, "numpy")
    assert run.audit(5).verdict is Verdict.MATCH


@pytest.mark.parametrize("env", EMULATED, ids=lambda env: " ".join(env.values()))
def test_an_honest_run_of_another_class_is_accepted_within_the_tolerance(honest, env, tmp_path):
    theirs = Run(_train_elsewhere(tmp_path, env), repro_class=OTHER_CLASS)
    outcome = theirs.audit(*range(1, SEGMENTS + 1))
    assert outcome.verdict is Verdict.MATCH, outcome.sentence


def test_at_least_one_other_class_gives_other_bits(honest, tmp_path):
    roots = {decode(honest[-1]).compute_roots()}
    for number, env in enumerate(EMULATED):
        folder = tmp_path / str(number)
        folder.mkdir()
        roots.add(decode(_train_elsewhere(folder, env)[-1]).compute_roots())
    assert len(roots) > 1


def test_other_bits_in_the_same_class_are_refused(honest):
    shifted = walk(honest, "numpy", share=0.9 * TOLERANCE)
    outcome = shifted.audit(3)
    assert outcome.verdict is Verdict.MISMATCH
    assert "same class" in outcome.sentence


# ---- walking ---------------------------------------------------------------------------------


def test_walking_within_the_tolerance_stays_below_a_tenth_of_one_update(honest):
    run = walk(honest, "numpy", share=0.9 * TOLERANCE)
    assert run.audit(*range(1, SEGMENTS + 1), own_class=OTHER_CLASS).verdict is Verdict.MATCH
    updates = [compute_distance(a, b) for a, b in pairwise(honest)]
    shift = 0.9 * TOLERANCE * sum(updates)
    assert shift <= 0.1 * max(updates)


def test_walking_over_the_tolerance_is_refused(honest):
    run = walk(honest, "numpy", share=2 * TOLERANCE)
    assert run.audit(2, own_class=OTHER_CLASS).verdict is Verdict.MISMATCH


def test_a_plan_whose_tolerances_add_up_to_more_is_not_taken():
    check_plan(make_plan(steps=1_000, interval_steps=1, tolerance="0.0001"))
    with pytest.raises(InvalidInput, match="add up to"):
        check_plan(make_plan(steps=1_000, interval_steps=1, tolerance="0.00011"))


# ---- teleports -------------------------------------------------------------------------------


def test_a_teleport_is_drawn_for_the_length_of_its_update(honest):
    run = teleport(honest, 3, "numpy")
    for drawn in run.draw(*(f"seed {number}" for number in range(20))):
        assert 3 in drawn
    assert run.audit(*drawn).verdict is Verdict.MISMATCH


def test_a_teleport_that_lies_about_its_length_is_seen_by_who_keeps_the_checkpoints(honest):
    run = teleport(honest, 3, "numpy")
    norm = measure_update(decode(honest[2]), decode(honest[3]))
    run.said[3] = {"update_norm": norm, "loss": run.sign()[3].loss}
    state = run.sign()[3]
    word = find_false_word(state, decode(run.checkpoints[3]), decode(run.checkpoints[2]))
    assert "long and not" in word
    assert run.audit(3).verdict is Verdict.MISMATCH


def test_a_teleport_as_small_as_an_update_is_found_as_often_as_it_is_drawn(honest):
    # The residual risk: nothing singles the segment out, and the seed draws one of three others.
    run = REJECTED["one step of twenty skipped"](honest, 3, "numpy")
    samples = run.draw(*(f"seed {number}" for number in range(400)))
    always = set.intersection(*(set(sample) for sample in samples))
    assert 3 not in always
    expected = run.plan.random_audits / (SEGMENTS - len(always))
    found = sum(3 in sample for sample in samples) / len(samples)
    assert abs(found - expected) < 4 * (expected * (1 - expected) / len(samples)) ** 0.5


# ---- the chain -------------------------------------------------------------------------------


def test_a_state_that_names_another_checkpoint_is_refused(honest):
    run = Run(honest, said={2: {"model_root": make_hash("other weights")}})
    assert run.audit(2).verdict is Verdict.MISMATCH


def test_a_segment_that_starts_elsewhere_than_the_one_before_ended_is_refused(honest):
    run = Run(honest, said={2: {"model_root": make_hash("other weights")}})
    outcome = run.audit(3)
    assert outcome.verdict is Verdict.MISMATCH
    assert "starts from another" in outcome.sentence


def test_a_cheat_of_an_earlier_provider_pays_nobody_and_blames_nobody(honest):
    run = REJECTED["stale checkpoint"](honest, 3, "numpy")
    for index in range(4):
        run.said[index] = {"provider": make_address("who was lost")}
    assert run.audit(3).verdict is Verdict.INCONCLUSIVE
    assert run.audit(5).verdict is Verdict.MATCH


def test_weights_that_are_not_finite_never_agree_unless_they_are_the_same(honest):
    model = {name: value.copy() for name, value in honest[3].model.items()}
    model["bytes"][0, 0] = float("nan")
    run = Run([*honest[:3], replace(honest[3], model=model), *honest[4:]])
    with pytest.raises(RemoteProtocolError, match="not finite"):
        run.sign()


def _train_elsewhere(folder: Path, env: dict[str, str]) -> list[Checkpoint]:
    """Run the program in a process of its own, as on another machine."""
    steps = str(SEGMENTS * SEGMENT_STEPS)
    subprocess.run(
        [sys.executable, PROGRAM / "train.py", "--text", TEXT, "--out", folder / "final"],
        check=True,
        capture_output=True,
        timeout=100,
        env={
            **os.environ,
            **env,
            "GPUMARKET_SEED": str(SEED),
            "GPUMARKET_STEPS": steps,
            "GPUMARKET_STOP_AT": steps,
            "GPUMARKET_CHECKPOINT_STEPS": str(SEGMENT_STEPS),
            "GPUMARKET_CHECKPOINT_DIR": str(folder),
        },
    )
    return [Checkpoint.read(path) for path in sorted(folder.glob("step-*"))]
