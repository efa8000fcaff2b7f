"""
Attack 13: cheap ways to seem to have trained.

Each cheat that touches one segment is refused whenever that segment is done again, in the class of
the provider and from another one. A walk within the tolerance stays below a tenth of one update;
a teleport is found by the length of its update, and hides only behind a lie that the coordinator
sees when it keeps the checkpoint, or by being as small as an honest update: then the chance is
that of the random draw, which is said in the guide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gpumarket.comparing.checkpoints import find_false_word, measure_update
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.training import check_plan
from gpumarket.testing.factories import make_address, make_hash
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks.training_lab import SEGMENTS, Checkpoint, Lab, decode, open_lab
from scripts.benchmarks.training_spoofs import SPOOFS, list_updates, teleport, walk
from scripts.images.built import TORCH_IMAGE_MISSING, find_torch_image, load_image
from tests.adversary.training_runs import CLASS, OTHER_CLASS, Run, make_plan

TOLERANCE = float(make_plan().tolerance)
EMULATED = [name for name, env in CLASSES.items() if env]
TORCH_IMAGE = find_torch_image()
NO_TORCH = pytest.mark.skipif(TORCH_IMAGE is None, reason=TORCH_IMAGE_MISSING)
MODELS = ["numpy", pytest.param("torch", marks=[pytest.mark.slow, NO_TORCH])]


@pytest.fixture(scope="module", params=MODELS, name="model")
def model_fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", name="image")
def image_fixture(model: str) -> str:
    return load_image(TORCH_IMAGE) if model == "torch" and TORCH_IMAGE else ""


@pytest.fixture(scope="module")
def lab(model: str, image: str) -> Iterator[Lab]:
    with open_lab(model, {}, image=image) as lab:
        yield lab


@pytest.fixture(scope="module")
def honest(lab: Lab) -> list[Checkpoint]:
    return lab.train_honestly()


@pytest.fixture(scope="module")
def elsewhere(model: str, image: str) -> dict[str, list[Checkpoint]]:
    """Honest runs of other classes of machines."""
    runs = {}
    for name in EMULATED:
        with open_lab(model, CLASSES[name], image=image) as lab:
            runs[name] = lab.train_honestly()
    return runs


def test_an_honest_run_is_accepted_to_the_last_bit_in_its_class(lab, honest):
    outcome = Run(lab, honest).audit(*range(1, SEGMENTS + 1))
    assert outcome.verdict is Verdict.MATCH
    assert "equal byte by byte" in outcome.sentence


@pytest.mark.parametrize("segment", [1, 3, SEGMENTS])
@pytest.mark.parametrize("name", SPOOFS)
def test_a_cheat_is_refused_when_its_segment_is_done_again(lab, honest, name, segment):
    run = Run(lab, SPOOFS[name](lab, honest, segment))
    for own_class in (CLASS, OTHER_CLASS):
        outcome = run.audit(segment, own_class=own_class)
        assert outcome.verdict is Verdict.MISMATCH, outcome.sentence
        assert f"segment {segment} of" in outcome.sentence


@pytest.mark.parametrize("name", SPOOFS)
def test_the_segments_around_a_cheat_do_not_give_it_away(lab, honest, name):
    # Else a test that says "refused when drawn" could hold for another reason.
    run = Run(lab, SPOOFS[name](lab, honest, 3))
    assert run.audit(5).verdict is Verdict.MATCH


@pytest.mark.parametrize("name", EMULATED)
def test_an_honest_run_of_another_class_is_accepted_within_the_tolerance(lab, elsewhere, name):
    theirs = Run(lab, elsewhere[name], repro_class=OTHER_CLASS)
    outcome = theirs.audit(*range(1, SEGMENTS + 1))
    assert outcome.verdict is Verdict.MATCH, outcome.sentence


def test_at_least_one_other_class_gives_other_bits(honest, elsewhere):
    ends = [honest[-1], *(run[-1] for run in elsewhere.values())]
    assert len({decode(end).compute_roots() for end in ends}) > 1


def test_other_bits_in_the_same_class_are_refused(lab, honest):
    shifted = Run(lab, walk(lab, honest, share=0.9 * TOLERANCE))
    outcome = shifted.audit(3)
    assert outcome.verdict is Verdict.MISMATCH
    assert "same class" in outcome.sentence


def test_a_loss_that_another_class_rounds_otherwise_is_no_fault(lab, honest):
    rounded = replace(honest[3], loss=honest[3].loss * (1 + 1e-6))
    run = Run(lab, [*honest[:3], rounded, *honest[4:]])
    assert run.audit(3, own_class=OTHER_CLASS).verdict is Verdict.MATCH
    assert run.audit(3).verdict is Verdict.MISMATCH


# ---- walking ---------------------------------------------------------------------------------


def test_walking_within_the_tolerance_stays_below_a_tenth_of_one_update(lab, honest):
    run = Run(lab, walk(lab, honest, share=0.9 * TOLERANCE))
    assert run.audit(*range(1, SEGMENTS + 1), own_class=OTHER_CLASS).verdict is Verdict.MATCH
    updates = list_updates(honest)
    shift = 0.9 * TOLERANCE * sum(updates)
    assert shift <= 0.1 * max(updates)


def test_walking_over_the_tolerance_is_refused(lab, honest):
    run = Run(lab, walk(lab, honest, share=2 * TOLERANCE))
    assert run.audit(2, own_class=OTHER_CLASS).verdict is Verdict.MISMATCH


def test_a_plan_whose_tolerances_add_up_to_more_is_not_taken():
    check_plan(make_plan(steps=1_000, interval_steps=1, tolerance="0.0001"))
    with pytest.raises(InvalidInput, match="add up to"):
        check_plan(make_plan(steps=1_000, interval_steps=1, tolerance="0.00011"))


# ---- teleports -------------------------------------------------------------------------------


def test_a_teleport_is_drawn_for_the_length_of_its_update(lab, honest):
    run = Run(lab, teleport(lab, honest, 3))
    for drawn in run.draw(*(f"seed {number}" for number in range(20))):
        assert 3 in drawn
    assert run.audit(*drawn).verdict is Verdict.MISMATCH


def test_a_teleport_that_lies_about_its_length_is_seen_by_who_keeps_the_checkpoints(lab, honest):
    run = Run(lab, teleport(lab, honest, 3))
    norm = measure_update(decode(honest[2]), decode(honest[3]))
    run.said[3] = {"update_norm": norm, "loss": run.sign()[3].loss}
    state = run.sign()[3]
    word = find_false_word(state, decode(run.checkpoints[3]), decode(run.checkpoints[2]))
    assert "long and not" in word
    assert run.audit(3).verdict is Verdict.MISMATCH


def test_a_teleport_as_small_as_an_update_is_found_as_often_as_it_is_drawn(lab, honest):
    # The residual risk: nothing singles the segment out, and the seed draws one of three others.
    run = Run(lab, SPOOFS["one step of twenty skipped"](lab, honest, 3))
    samples = run.draw(*(f"seed {number}" for number in range(400)))
    always = set.intersection(*(set(sample) for sample in samples))
    assert 3 not in always
    expected = run.plan.random_audits / (SEGMENTS - len(always))
    found = sum(3 in sample for sample in samples) / len(samples)
    assert abs(found - expected) < 4 * (expected * (1 - expected) / len(samples)) ** 0.5


# ---- the chain -------------------------------------------------------------------------------


def test_a_state_that_names_another_checkpoint_is_refused(lab, honest):
    run = Run(lab, honest, said={2: {"model_root": make_hash("other weights")}})
    assert run.audit(2).verdict is Verdict.MISMATCH


def test_a_segment_that_starts_elsewhere_than_the_one_before_ended_is_refused(lab, honest):
    run = Run(lab, honest, said={2: {"model_root": make_hash("other weights")}})
    outcome = run.audit(3)
    assert outcome.verdict is Verdict.MISMATCH
    assert "starts from another" in outcome.sentence


def test_a_cheat_of_an_earlier_provider_pays_nobody_and_blames_nobody(lab, honest):
    run = Run(lab, SPOOFS["stale checkpoint"](lab, honest, 3))
    for index in range(4):
        run.said[index] = {"provider": make_address("who was lost")}
    assert run.audit(3).verdict is Verdict.INCONCLUSIVE
    assert run.audit(5).verdict is Verdict.MATCH


def test_weights_that_are_not_finite_never_agree_unless_they_are_the_same(lab, honest):
    model = {name: value.copy() for name, value in honest[3].model.items()}
    next(iter(model.values())).flat[0] = float("nan")
    run = Run(lab, [*honest[:3], replace(honest[3], model=model), *honest[4:]])
    with pytest.raises(RemoteProtocolError, match="not finite"):
        run.sign()
