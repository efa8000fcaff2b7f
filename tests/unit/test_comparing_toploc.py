"""The rule `llm` with TOPLOC: what is refused before the package, and without it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.adapters import output_files, toploc
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.output_files import judge_replay
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.llm import compare_before_replay, compare_replay
from gpumarket.comparing.toploc_proofs import (
    PRIME,
    PROOF_BYTES,
    PROOF_VALUES,
    WIDTH_MAX,
    ProofError,
    decode_proofs_untrusted,
    measure_proofs,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import BytesRule, LlmRule
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.messages import CheckRequested
from gpumarket.testing.factories import change, make_spec
from verifier.core.effects import ReplayUnit
from verifier.core.events import Event, ReplayFailed
from verifier.perform import World, perform

MATCH, MISMATCH, INCONCLUSIVE = Verdict
RULE = LlmRule(command=("replay",), fingerprint="toploc", exponent_max="0.1", mantissa_max="0.5")
Files = dict[str, bytes]
ROWS, COUNT, WIDTH = 2, 72, 64
"""Three proofs a text, the last of 8 tokens."""
TOKENS = np.random.default_rng(1).integers(0, 128, (ROWS, COUNT)).astype(np.int32)
STATES = np.random.default_rng(2).normal(size=(ROWS, COUNT, WIDTH)).astype(np.float32)
MARGINS = np.zeros((ROWS, COUNT))


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def make_proofs(modulus: int = PRIME, coefficient: int = 7) -> Any:
    words = np.full((ROWS, 3, PROOF_BYTES // 2), coefficient, ">u2")
    words[:, :, 0] = modulus
    return words.view(np.uint8)


PROOFS = make_proofs()
WORST = np.array(PROOFS)
WORST[1, 2, 1] = 0  # another modulus, in the field


def make_output(tokens: Any = TOKENS, proofs: Any = PROOFS, texts: bytes = b"[]") -> Files:
    return {"tokens.npy": an_npy(tokens), "toploc.npy": an_npy(proofs), "texts.json": texts}


def make_replay(margins: Any = MARGINS, states: Any = STATES, texts: bytes = b"[]") -> Files:
    return {"margins.npy": an_npy(margins), "activations.npy": an_npy(states), "texts.json": texts}


def replace_at(array: Any, place: Any, value: float) -> Any:
    changed = np.array(array)
    changed[place] = value
    return changed


class Package:
    """In the package's place: says what it is told to, and remembers what it was given."""

    def __init__(self, *said: ProofError) -> None:
        self._said = list(said)
        self.asked: list[tuple[Any, bytes]] = []

    def __call__(self, states: Any, proof: bytes) -> ProofError:
        self.asked.append((states, proof))
        return self._said[(len(self.asked) - 1) % len(self._said)]


CLOSE = ProofError(0, 0.0)


def never(_states: Any, _proof: bytes) -> ProofError:
    raise AssertionError("the package was given what must be refused before it")


def before(theirs: Files, own: Files | None = None) -> Any:
    found = compare_before_replay(own or make_output(), theirs, RULE, is_same_class=False)
    return found and found.verdict


def judge(replayed: Files, verify: Any, theirs: Files | None = None) -> Verdict:
    theirs = theirs or make_output(proofs=WORST)
    return compare_replay(replayed, theirs, RULE, verify_proof=verify).verdict


# ---- before the package ----------------------------------------------------------------------

HOSTILE = {
    "too few": PROOFS[:, :2],
    "too many": np.concatenate([PROOFS, PROOFS], 1),
    "too short": PROOFS[:, :, :-1],
    "too long": np.concatenate([PROOFS, PROOFS[:, :, :2]], 2),
    "of another kind": PROOFS.astype(np.uint16),
    "signed": PROOFS.astype(np.int8),
    "by columns": np.asfortranarray(PROOFS),
    "flat": PROOFS.ravel(),
    "a modulus of zero": make_proofs(modulus=0),
    "a modulus of one": make_proofs(modulus=1),
    "a small modulus": make_proofs(modulus=2**15),
    "a modulus over the field": make_proofs(modulus=PRIME + 1),
    "a coefficient over the field": make_proofs(coefficient=PRIME),
    "one bad proof": replace_at(PROOFS, (1, 2, slice(0, 2)), 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_proofs_that_are_none_are_the_providers_fault(name: str) -> None:
    assert before(make_output(proofs=HOSTILE[name])) is MISMATCH


@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_verifiers_own_output_they_blame_nobody(name: str) -> None:
    own = make_output(proofs=HOSTILE[name])
    assert before(make_output(texts=b"other"), own=own) is INCONCLUSIVE


@pytest.mark.parametrize(
    "theirs",
    [
        make_output(TOKENS[:, :-1]),
        make_output(TOKENS[:1], PROOFS[:1]),
        {"tokens.npy": an_npy(TOKENS), "fingerprints.npy": b"", "texts.json": b"[]"},
        {**make_output(), "toploc.npy": an_npy(PROOFS)[:-1]},
        {**make_output(), "toploc.npy": b"garbage"},
    ],
)
def test_an_output_of_another_form_is_never_replayed(theirs: Files) -> None:
    assert before(theirs) is MISMATCH


def test_well_formed_proofs_need_a_replay_and_equal_ones_none() -> None:
    assert before(make_output(proofs=WORST)) is None
    assert before(make_output()) is MATCH


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=12), st.booleans())
def test_no_bytes_of_a_provider_reach_the_package_unless_they_are_proofs(
    place: int, junk: bytes, is_cut: bool
) -> None:
    data = an_npy(PROOFS)
    hostile = data[:place] + junk + (b"" if is_cut else data[place + len(junk) :])
    try:
        proofs = decode_proofs_untrusted(hostile, TOKENS.shape)
    except RemoteProtocolError as error:
        assert len(error.message) < 200
        return
    words = proofs.view(">u2")
    assert proofs.shape == PROOFS.shape
    assert ((words[:, :, 0] > 2**15) & (words[:, :, 0] <= PRIME)).all()
    assert (words[:, :, 1:] < PRIME).all()


# ---- the replay's activations ----------------------------------------------------------------


@pytest.mark.parametrize(
    "states",
    [
        replace_at(STATES, (0, 0, 0), np.nan),
        replace_at(STATES, (1, 70, 3), np.inf),
        STATES[:, 1:],
        STATES[:1],
        STATES.astype(np.float16),
        STATES.astype(np.float64),
        STATES.astype(np.int32),
        STATES[:, :, 0],
        STATES[:, :, :0],
        STATES[:, :, :1],  # 32 values for a proof of 128
        STATES[:, :, :15],  # enough for a whole proof, not for the last of a text
        STATES[:, :, :15] * 0,
        np.asfortranarray(STATES),
        replace_at(STATES, (0, slice(0, 31)), 0),  # any zero could be among the largest
    ],
)
def test_activations_that_are_none_decide_nothing(states: Any) -> None:
    replayed = make_replay(states=states)
    theirs = make_output(proofs=WORST)
    found = compare_replay(replayed, theirs, RULE, verify_proof=Package(CLOSE))
    assert found.verdict is INCONCLUSIVE
    assert "activations.npy" in found.sentence
    with pytest.raises(RemoteProtocolError):
        first = {"proofs": PROOFS, "shape": (ROWS, COUNT), "verify": Package(CLOSE)}
        measure_proofs(replayed["activations.npy"], **first)


def test_activations_wider_than_any_model_are_not_read() -> None:
    wide = np.zeros((1, 1, WIDTH_MAX + 1), np.float32)
    with pytest.raises(RemoteProtocolError, match="width"):
        measure_proofs(an_npy(wide), PROOFS[:1, :1], shape=(1, 1), verify=never)


def test_each_proof_is_judged_with_the_activations_of_its_own_tokens() -> None:
    package = Package(CLOSE)
    assert judge(make_replay(), package) is MATCH
    places = [(0, 0, 32), (0, 32, 64), (0, 64, 72), (1, 0, 32), (1, 32, 64), (1, 64, 72)]
    for (states, proof), (row, start, stop) in zip(package.asked, places, strict=True):
        assert states.dtype == np.float32
        assert (states == STATES[row, start:stop]).all()
        assert proof == WORST[row, start // 32].tobytes()


def test_after_the_end_of_a_text_nothing_is_left_and_that_is_judged_too() -> None:
    package = Package(CLOSE)
    states = replace_at(STATES, (slice(None), slice(32, None)), 0)
    assert judge(make_replay(states=states), package) is MATCH
    assert len(package.asked) == 6


# ---- judged ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worst", "verdict"),
    [
        (ProofError(0, 0.5), MATCH),
        (ProofError(0, 0.51), MISMATCH),
        (ProofError(12, 0.0), MATCH),
        (ProofError(13, 0.0), MISMATCH),
        (ProofError(PROOF_VALUES, 2.0**64), MISMATCH),
        (ProofError(0, float("nan")), MISMATCH),
    ],
)
def test_the_worst_proof_decides(worst: ProofError, verdict: Verdict) -> None:
    assert judge(make_replay(), Package(CLOSE, CLOSE, worst)) is verdict


def test_margins_are_judged_first_and_need_no_package() -> None:
    far = make_replay(replace_at(MARGINS, (1, 70), 0.9))
    assert judge(far, never) is MISMATCH
    assert judge(far, None) is MISMATCH
    assert judge(make_replay(MARGINS[:, 1:]), never) is INCONCLUSIVE


def test_other_files_are_what_the_tokens_give() -> None:
    assert judge(make_replay(texts=b"[1]"), never) is MISMATCH
    assert judge({**make_replay(), "fingerprints.npy": b""}, never) is INCONCLUSIVE
    assert judge({"margins.npy": an_npy(MARGINS)}, never) is INCONCLUSIVE


# ---- without the package ---------------------------------------------------------------------


def judge_on_disk(folder: Path) -> Outcome:
    for name, files in (("written", make_replay()), ("theirs", make_output())):
        (folder / name).mkdir()
        for key, data in files.items():
            (folder / name / key).write_bytes(data)
    result = RunResult(
        exit_code=0,
        is_timed_out=False,
        is_output_over_limit=False,
        is_oom_killed=False,
        wall_ms=1,
        output_bytes=1,
        skipped_outputs=(),
        stdout_tail=b"",
        stderr_tail=b"",
    )
    return judge_replay(result, written=folder / "written", theirs=folder / "theirs", rule=RULE)


def test_with_the_package_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package(CLOSE)
    monkeypatch.setattr(output_files, "find_verify_proof", lambda: package)
    assert judge_on_disk(tmp_path).verdict is MATCH
    assert len(package.asked) == 6


@pytest.fixture(name="absent")
def absent_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toploc", None)


@pytest.mark.usefixtures("absent")
def test_without_the_package_nothing_is_decided_and_the_command_is_said(tmp_path: Path) -> None:
    found = judge_on_disk(tmp_path)
    assert found.verdict is INCONCLUSIVE
    assert "pip install 'gpumarket[toploc]'" in found.sentence


@pytest.mark.usefixtures("absent")
def test_without_the_package_only_checks_that_need_it_are_declined() -> None:
    with pytest.raises(InvalidInput) as caught:
        toploc.check_toploc(RULE)
    assert caught.value.code == "GM-7205"
    assert caught.value.hints == ("pip install 'gpumarket[toploc]'",)
    toploc.check_toploc(change(RULE, fingerprint="projection"))
    toploc.check_toploc(BytesRule())


class Watched:
    """A runner that must not be asked for anything, and where events are left."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.events: list[Event] = []

    def __getattr__(self, name: str) -> Any:
        self.deeds.append(name)
        raise InvalidInput(f"{name} was asked for")

    async def post(self, event: Event) -> None:
        self.events.append(event)

    async def replay(self, rule: LlmRule) -> str:
        """Ask a verifier for a check; return the code that it declines with."""
        job = change(make_spec(units=1), verify=VerifyPolicy(mode="full", comparison=rule))
        request = CheckRequested(
            order_hash=b"o" * 32,
            unit=0,
            receipt_hash=b"r" * 32,
            job=job,
            deadline=1_000,
            sources=(),
        )
        world = World(
            **dict.fromkeys(("identity", "domain", "content", "link"), cast(Any, None)),
            runner=cast(Any, self),
            post=self.post,
            clock=cast(Any, SimpleNamespace(now=lambda: 5)),
            log=cast(Any, SimpleNamespace(warn=lambda *_, **__: None)),
            folder=Path("/nowhere"),
        )
        await perform(ReplayUnit(request=request), world)
        (failed,) = self.events
        assert isinstance(failed, ReplayFailed)
        return failed.code


@pytest.mark.usefixtures("absent")
async def test_a_verifier_without_the_package_declines_before_any_work() -> None:
    watched = Watched()
    assert await watched.replay(RULE) == "GM-7205"
    assert watched.deeds == []
    other = Watched()
    assert await other.replay(change(RULE, fingerprint="projection")) == "GM-1001"
    assert other.deeds == ["prepare"]
