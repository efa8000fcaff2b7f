"""Segments at a verifier: each done again from its own start, and compared with both its ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.training import (
    SegmentAudit,
    SegmentState,
    compute_chain_start,
    make_claim,
    make_starts,
)
from gpumarket.testing.chains import make_plan, make_states
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    change,
    make_address,
    make_cid,
    make_hash,
    make_own_result,
    make_result,
    make_spec,
    sign,
)
from tests.adversary.training_runs import CLASS, PROVIDER, Run
from verifier.core.decide import Verifier
from verifier.core.effects import CompareOutputs, ReplayUnit, SendAttestation
from verifier.core.events import (
    CheckAsked,
    OutputsCompared,
    ProcessStarted,
    ResultRevealed,
    UnitReplayed,
)
from verifier.core.state import CheckState
from verifier.segments import compare_segments, replay_segments

PLAN = make_plan()
SPEC = make_spec(checkpoint=PLAN)
RECEIPT = make_hash("receipt")
STATES = make_states(PLAN, start=compute_chain_start(SPEC.compute_hash(), 0))
DRAWN = (1, 3, 5)
CLAIM = make_claim(STATES[-1])


def make_request(**changes: Any) -> CheckRequested:
    values: dict[str, Any] = {
        "order_hash": make_hash("order"),
        "unit": 0,
        "receipt_hash": RECEIPT,
        "job": SPEC,
        "deadline": NOW + 1_000,
        "sources": (),
        "segments": make_starts(STATES, DRAWN, PLAN),
    }
    return CheckRequested(**(values | changes))


# ---- doing segments again ------------------------------------------------------------------


@dataclass
class FakeRunner:
    """Leaves the checkpoints that it is told to, at the steps of the plan."""

    folder: Path
    leaves: Callable[[Any], list[int]] = lambda training: [
        *([0] if training.resume is None else []),
        training.stop_at,
    ]
    exit_code: int = 0
    prepared: list[Cid] = field(default_factory=list)
    runs: list[tuple[str, int, Cid | None]] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)

    async def prepare(self, _job: Any, *, checkpoints: list[Cid], **_: Any) -> None:
        self.prepared = checkpoints

    def find_output(self, name: str) -> Path:
        return self.folder / name

    async def run(self, _job: Any, _unit: int, *, name: str, training: Any, **_: Any) -> Any:
        self.runs.append((name, training.stop_at, training.resume))
        for step in self.leaves(training):
            copy = self.folder / name / f"step-{step:08d}"
            copy.mkdir(parents=True)
            (copy / "made").write_text(f"{name} at {step}")
            await training.on_checkpoint(copy)
        return SimpleNamespace(
            exit_code=self.exit_code, is_success=self.exit_code == 0, wall_ms=1_000
        )

    async def clean(self, name: str, *, is_output_kept: bool) -> None:
        self.cleaned.append(name)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    async def store(self, name: str) -> tuple[Cid, int]:
        self.stored = sorted(path.name for path in self.find_output(name).iterdir())
        return make_cid("ends"), 7


def make_runner(folder: Path, **how: Any) -> Any:
    return FakeRunner(folder, **how)


async def test_each_segment_runs_from_its_own_start_and_leaves_its_own_end(tmp_path):
    runner = make_runner(tmp_path)
    (tmp_path / "name").mkdir()
    (tmp_path / "name/old").touch()
    replayed = await replay_segments(make_request(), runner, "name")
    assert runner.prepared == [STATES[2].folder, STATES[4].folder]
    assert runner.runs == [
        ("name-1", 10, None),
        ("name-3", 30, STATES[2].folder),
        ("name-5", 50, STATES[4].folder),
    ]
    # The beginning is an end of its own where the first segment is done again.
    assert runner.stored == ["0", "1", "3", "5"]
    assert (tmp_path / "name/3/made").read_text() == "name-3 at 30"
    assert runner.cleaned == ["name-1", "name-3", "name-5"]
    assert (replayed.output, replayed.exit_code, replayed.duration_ms) == (
        make_cid("ends"),
        0,
        3_000,
    )


async def test_checkpoints_that_are_no_end_of_a_segment_are_not_kept(tmp_path):
    runner = make_runner(tmp_path, leaves=lambda training: [0, 10, 20, 30, 40, 50])
    await replay_segments(make_request(), runner, "name")
    assert runner.stored == ["0", "1", "3", "5"]
    assert (tmp_path / "name/5/made").read_text() == "name-5 at 50"


@pytest.mark.parametrize(("exit_code", "said"), [(3, 3), (0, 1)])
async def test_a_segment_that_does_not_reach_its_end_stops_the_replay(tmp_path, exit_code, said):
    def leave(training):
        return [] if training.stop_at == 30 else [training.stop_at]

    runner = make_runner(tmp_path, leaves=leave)
    if exit_code:
        runner = make_runner(tmp_path, exit_code=exit_code)
    replayed = await replay_segments(make_request(), runner, "name")
    assert replayed.exit_code == said
    assert len(runner.runs) == (1 if exit_code else 2)


# ---- comparing -----------------------------------------------------------------------------

COMPARED = (1, 3)


@dataclass
class FakeContent:
    """Has folders by name; what it has not cannot be fetched."""

    folders: dict[Cid, Path]
    fetched: list[Cid] = field(default_factory=list)

    async def fetch(self, cid: Cid, **_: Any) -> None:
        if cid not in self.folders:
            raise ContentError("nobody has it", code="GM-6012")
        self.fetched.append(cid)

    async def export(self, cid: Cid, path: Path, **_: Any) -> None:
        shutil.copytree(self.folders[cid], path)


def write_checkpoint(path: Path, checkpoint: Any) -> Path:
    path.mkdir(parents=True)
    for name, data in checkpoint.encode().items():
        (path / name).write_bytes(data)
    return path


@dataclass
class Scene:
    """A run, and what a verifier got that did two of its segments again."""

    effect: CompareOutputs
    content: Any
    folder: Path

    @property
    def states(self) -> tuple[SegmentState, ...]:
        """The provider's chain."""
        assert self.effect.segments is not None
        return self.effect.segments.states


def make_scene(folder: Path, run: Run) -> Scene:
    states = run.sign()
    folders = {
        state.folder: write_checkpoint(folder / f"theirs-{state.index}", checkpoint)
        for state, checkpoint in zip(states, run.checkpoints, strict=True)
    }
    for index, checkpoint in run.replay(COMPARED).items():
        write_checkpoint(folder / f"ends/{index}", checkpoint)
    folders[make_cid("ends")] = folder / "ends"
    request = make_request(
        job=make_spec(checkpoint=run.plan), segments=make_starts(states, COMPARED, run.plan)
    )
    effect = CompareOutputs(
        request=request,
        own=make_own_result(output=make_cid("ends"), repro_class=CLASS),
        theirs=change(make_result(), provider=PROVIDER),
        sources=(),
        segments=SegmentAudit(states=states, drawn=COMPARED),
    )
    (folder / "work").mkdir()
    return Scene(effect, FakeContent(folders), folder / "work")


async def compare(scene: Scene) -> tuple[Verdict, str]:
    outcome = await compare_segments(scene.effect, scene.content, scene.folder)
    # Whatever came out, nothing is left lying.
    assert list(scene.folder.iterdir()) == []
    return outcome.verdict, outcome.sentence


async def test_honest_segments_are_a_match_and_only_their_ends_are_fetched(tmp_path, honest_run):
    scene = make_scene(tmp_path, honest_run)
    assert await compare(scene) == (Verdict.MATCH, "segments 1, 3 of 6: equal byte by byte")
    assert scene.content.fetched == [scene.states[index].folder for index in (0, 1, 2, 3)]


async def test_a_segment_that_was_not_trained_is_a_mismatch(tmp_path, stale_run):
    verdict, sentence = await compare(make_scene(tmp_path, stale_run))
    assert (verdict, "segment 3 of 6" in sentence) == (Verdict.MISMATCH, True)


async def test_a_false_segment_of_an_earlier_provider_blames_nobody(tmp_path, stale_run):
    stale_run.said = {index: {"provider": make_address("earlier")} for index in range(4)}
    verdict, sentence = await compare(make_scene(tmp_path, stale_run))
    assert (verdict, "earlier provider" in sentence) == (Verdict.INCONCLUSIVE, True)


@pytest.mark.parametrize("index", [0, 2, 3])
async def test_a_checkpoint_that_nobody_has_proves_nothing(tmp_path, honest_run, index):
    scene = make_scene(tmp_path, honest_run)
    del scene.content.folders[scene.states[index].folder]
    verdict, sentence = await compare(scene)
    assert verdict is Verdict.INCONCLUSIVE
    assert sentence.startswith("the segments could not be compared: ")
    assert "nobody has it" in sentence


async def test_an_own_end_that_is_missing_proves_nothing(tmp_path, honest_run):
    scene = make_scene(tmp_path, honest_run)
    shutil.rmtree(tmp_path / "ends/3")
    verdict, sentence = await compare(scene)
    assert (verdict, "could not be compared" in sentence) == (Verdict.INCONCLUSIVE, True)


@pytest.mark.parametrize("part", ["segments", "plan"])
async def test_a_task_without_segments_is_not_compared_as_one(tmp_path, honest_run, part):
    scene = make_scene(tmp_path, honest_run)
    request = change(scene.effect.request, job=make_spec())
    other: dict[str, Any] = {"segments": None} if part == "segments" else {"request": request}
    scene = replace(scene, effect=change(scene.effect, **other))
    verdict, sentence = await compare(scene)
    assert (verdict, "has no segments" in sentence) == (Verdict.INCONCLUSIVE, True)


# ---- deciding ------------------------------------------------------------------------------


def make_sealed() -> Verifier:
    """Return a verifier that has done its segments again and sealed them."""
    state = Verifier(
        verifier=make_address("verifier-1"), domain=DOMAIN, repro_class=make_hash("class"), slots=1
    )
    coordinator = make_address("coordinator")
    asked = CheckAsked(coordinator=coordinator, request=make_request(), at=NOW)
    assert state.decide(asked) == [ReplayUnit(request=make_request())]
    replayed = UnitReplayed(
        receipt_hash=RECEIPT,
        output=make_cid("ends"),
        exit_code=0,
        duration_ms=5,
        nonce=make_hash("nonce"),
        at=NOW,
    )
    state.decide(replayed)
    return state


def reveal(state: Verifier, *, states=STATES, claim=CLAIM) -> list[Any]:
    result = change(make_result(), order_hash=make_hash("order"), training=claim)
    opening = Opening(
        result=result,
        receipt_hash=RECEIPT,
        seal_hashes=(compute_content_hash(state.checks[RECEIPT].seal),),
    )
    event = ResultRevealed(
        coordinator=make_address("coordinator"),
        opening=sign(opening, "provider-1"),
        sources=(),
        states=states,
        at=NOW,
    )
    return list(state.decide(event))


def test_a_verdict_names_the_chain_and_the_segments_it_rests_on():
    state, audit = make_sealed(), SegmentAudit(states=STATES, drawn=DRAWN)
    (comparing,) = reveal(state)
    assert isinstance(comparing, CompareOutputs)
    assert comparing.segments == audit
    compared = OutputsCompared(
        receipt_hash=RECEIPT, verdict=Verdict.MATCH, rule="segments", comparison="so", at=NOW
    )
    (attested,) = state.decide(compared)
    assert isinstance(attested, SendAttestation)
    assert attested.evidence.segments == audit
    assert attested.attestation.evidence_hash == compute_content_hash(attested.evidence)


def test_a_restart_between_seal_and_verdict_compares_the_same_segments_again():
    state = make_sealed()
    first = reveal(state)
    assert list(state.decide(ProcessStarted(at=NOW))) == first


@pytest.mark.parametrize(
    ("states", "claim"),
    [
        ((), CLAIM),
        (STATES[1:], CLAIM),
        (STATES[:-1], CLAIM),
        ((*STATES[:2], *STATES[3:]), CLAIM),
        (STATES, None),
        (STATES, change(CLAIM, chain=make_hash("other"))),
        ((*STATES[:-1], change(STATES[-1], loss="0.1")), CLAIM),
        (make_states(PLAN, start=make_hash("elsewhere")), CLAIM),
    ],
)
def test_a_chain_that_the_result_does_not_end_is_not_looked_at(states, claim):
    state = make_sealed()
    assert reveal(state, states=states, claim=claim) == []
    assert state.checks[RECEIPT].state is CheckState.SEALED
    assert reveal(state)


def test_a_chain_with_other_starts_than_were_given_is_not_looked_at():
    # It fits together and the result ends it, but our segments began elsewhere.
    other = [change(STATES[0], folder=make_cid("other 0"))]
    for each in STATES[1:]:
        folder = make_cid(f"other {each.index}")
        other.append(change(each, folder=folder, previous=other[-1].compute_chain()))
    verifier = make_sealed()
    assert reveal(verifier, states=tuple(other), claim=make_claim(other[-1])) == []
    assert verifier.checks[RECEIPT].state is CheckState.SEALED
