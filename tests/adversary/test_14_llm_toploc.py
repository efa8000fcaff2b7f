"""
Attack 14 against TOPLOC's proofs, judged by the package itself.

Real sampling from the model of examples/llm in PyTorch. The package is an extra of 5 GB that no CI
installs: `pip install -e '.[node,toploc]'` in a virtual environment of its own, then this file.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from gpumarket.adapters.toploc import check_toploc, find_verify_proof
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.llm import compare_before_replay, compare_replay
from gpumarket.comparing.toploc_proofs import PROOF_VALUES, ProofError
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import LlmRule
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks.llm_work import WEIGHTS, Task, Weights

REASON = "takes the package toploc: pip install 'gpumarket[toploc]'"
toploc = pytest.importorskip("toploc", reason=REASON, exc_type=ImportError)
torch = pytest.importorskip("torch")
bench = pytest.importorskip("scripts.benchmarks.toploc")
work = pytest.importorskip("scripts.benchmarks.toploc_work")
RULE = LlmRule(command=("replay",), fingerprint="toploc", exact_in_class=False)
TASK = Task(7_000)
Files = dict[str, bytes]


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pack(tokens: Any, hidden: Any) -> Files:
    return {"tokens.npy": an_npy(tokens), "toploc.npy": an_npy(bench.build(hidden))}


@pytest.fixture(scope="module", name="own")
def own_fixture() -> Files:
    return pack(*work.generate(TASK, WEIGHTS, "float32"))


def compare(own: Files, theirs: Files) -> Outcome:
    """Judge an output as a verifier does, with the replay in this process."""
    found = compare_before_replay(own, theirs, RULE, is_same_class=False)
    if found is not None:
        return found
    tokens = np.load(io.BytesIO(theirs["tokens.npy"]))
    replayed = {
        "margins.npy": an_npy(TASK.replay(tokens)["margins.npy"]),
        "activations.npy": an_npy(work.replay(TASK, tokens, "float32")),
    }
    return compare_replay(replayed, theirs, RULE, verify_proof=find_verify_proof())


def judge(states: Any, proof: bytes) -> ProofError:
    verify = find_verify_proof()
    assert verify is not None
    return verify(states, proof)


@pytest.mark.parametrize("name", bench.HONEST)
def test_an_honest_machine_of_another_class_passes(name: str, own: Files) -> None:
    theirs = pack(*work.generate_elsewhere(TASK, "float32", CLASSES[name]))
    found = compare(own, theirs)
    assert found.verdict is Verdict.MATCH, found.sentence


@pytest.mark.parametrize("name", bench.CHEATS)
def test_proofs_of_another_model_do_not_hold_for_the_true_ones_text(name: str, own: Files) -> None:
    """Tokens that the margins accept, so that the proofs alone decide."""
    tokens = np.load(io.BytesIO(own["tokens.npy"]))
    found = compare(own, pack(tokens, _read(bench.CHEATS[name], tokens)))
    assert found.verdict is Verdict.MISMATCH
    assert "other activations" in found.sentence


def _read(weights: Weights, tokens: Any) -> Any:
    """Return the states that another model has over the true one's text."""
    return work.replay(TASK, tokens, "float32", weights=weights)


@pytest.mark.parametrize("kind", ["noise", "zeros", "of another prompt"])
def test_well_formed_proofs_of_nothing_are_rejected(kind: str, own: Files) -> None:
    proofs = np.load(io.BytesIO(own["toploc.npy"]))
    draw = np.random.default_rng(5)
    made = {
        "noise": draw.integers(0, 255, proofs.shape),
        "zeros": np.zeros(proofs.shape),
        "of another prompt": proofs[::-1],
    }[kind].astype(np.uint8)
    made[:, :, :2] = proofs[:, :, :2]
    found = compare(own, {**own, "toploc.npy": an_npy(made)})
    assert found.verdict is Verdict.MISMATCH
    assert "other activations" in found.sentence


# ---- what is assumed of the package ------------------------------------------------------------


def test_the_package_makes_the_proofs_that_it_publishes() -> None:
    torch.manual_seed(42)
    states = [torch.randn(5, 16, dtype=torch.bfloat16)]
    states += [torch.randn(16, dtype=torch.bfloat16) for _ in range(10)]
    first, *_ = toploc.build_proofs_bytes(states, decode_batching_size=3, topk=4)
    assert first == b"\xff\xd9\x1bB+g\xbaKum"


def test_places_beyond_the_field_are_told_apart_by_the_proofs_own_modulus() -> None:
    states = np.random.default_rng(3).normal(size=(32, 4096)).astype(np.float32)
    states.ravel()[[5, 5 + 65_497]] = 50.0, -70.0
    proof = bench.build(states[None])[0, 0].tobytes()
    assert proof[:2] != b"\xff\xd9"
    assert judge(states, proof) == ProofError(0, 0.0)


def test_nothing_at_all_is_proved_by_nothing() -> None:
    states = np.zeros((32, 64), np.float32)
    assert judge(states, bench.build(states[None])[0, 0].tobytes()) == ProofError(0, 0.0)


def test_signs_are_not_looked_at() -> None:
    states = np.random.default_rng(4).normal(size=(32, 64)).astype(np.float32)
    assert judge(-states, bench.build(states[None])[0, 0].tobytes()) == ProofError(0, 0.0)


def test_where_no_exponent_agrees_the_mantissa_is_infinite_for_any_rule() -> None:
    states = np.full((32, 64), 1.0, np.float32)
    found = judge(states * 16, bench.build(states[None])[0, 0].tobytes())
    assert found.exponents == PROOF_VALUES
    assert found.mantissa > 10**9


def test_a_verifier_with_the_package_takes_such_a_check() -> None:
    check_toploc(RULE)
