"""
TOPLOC's proofs beside random projections: honest machines against cheats, in float32 and bfloat16.

    python3 -m scripts.benchmarks.toploc ROUNDS       where gpumarket[toploc] is installed

A round is a task of 32 prompts with a seed of its own; both
fingerprints are of the same states, 8 bytes a token, and each is judged by a prompt's worst place.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from toploc import build_proofs_bytes

from gpumarket.adapters.toploc import find_verify_proof
from gpumarket.comparing.llm import measure_signals
from gpumarket.comparing.toploc_proofs import (
    PROOF_BYTES,
    PROOF_TOKENS,
    PROOF_VALUES,
    ProofError,
    decode_proofs_untrusted,
    is_close,
    measure_proofs,
)
from gpumarket.protocol.comparison import LlmRule
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks import Figures
from scripts.benchmarks.llm import compute_auc
from scripts.benchmarks.llm_work import LM, TOKENS, WEIGHTS, Task, drop_layers, round_weights
from scripts.benchmarks.toploc_work import KINDS, generate, generate_elsewhere, replay

RULE = LlmRule(command=("replay",), fingerprint="toploc")
PUBLISHED = LlmRule(
    command=("replay",),
    fingerprint="toploc",
    exponent_max=str(38 / PROOF_VALUES),
    mantissa_max="10",
)
"""What TOPLOC's authors propose for bfloat16, of exponents and the mean of mantissas."""
HONEST = ("avx2", "sse", "two threads")
CHEATS = {
    "weights in int8": round_weights(WEIGHTS, 8),
    "weights in int4": round_weights(WEIGHTS, 4),
    "last layer dropped": drop_layers(WEIGHTS, LM.LAYERS - 1),
}


class Prompt(NamedTuple):
    """What one prompt of an output is off by."""

    error: ProofError
    distance: float


def run(rounds: int) -> Figures:
    """Measure and print both tables; return their figures."""
    verify = find_verify_proof()
    if verify is None:
        raise ImportError("toploc is not installed")
    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        found: dict[str, list[Prompt]] = {}
        for seed in range(1, rounds + 1):
            for name, states in _generate_all(Task(1_000 * seed), kind).items():
                found.setdefault(name, []).extend(
                    _measure(Task(1_000 * seed), kind, states, verify)
                )
        honest = [each for name in HONEST for each in found[f"honest, {name}"]]
        for name, prompts in found.items():
            figures[f"{kind}, {name}"] = _summarize(prompts, honest)
    for name, row in figures.items():
        print(f"{name:36}" + "".join(f"{value:>10.3g}" for value in row.values()))
    print(f"{'':36}" + "".join(f"{name:>10}" for name in next(iter(figures.values()))))
    return {**figures, "milliseconds a proof": _time(verify)}


def _generate_all(task: Task, kind: str) -> dict[str, tuple[Any, Any]]:
    found = {"honest, same class": generate(task, WEIGHTS, kind)}
    for name in HONEST:
        found[f"honest, {name}"] = generate_elsewhere(task, kind, CLASSES[name])
    return found | {name: generate(task, cheat, kind) for name, cheat in CHEATS.items()}


def _measure(task: Task, kind: str, states: tuple[Any, Any], verify: Any) -> list[Prompt]:
    tokens, hidden = states
    replayed = replay(task, tokens, kind)
    shape = (1, TOKENS)
    prompts = []
    for row in range(len(tokens)):
        proofs = decode_proofs_untrusted(_encode(build(hidden[[row]])), shape)
        activations = _encode(replayed[[row]])
        error = measure_proofs(activations, proofs, shape=shape, verify=verify)
        prompts.append(
            Prompt(error, _measure_distance(tokens[[row]], hidden[[row]], replayed[[row]]))
        )
    return prompts


def build(hidden: Any) -> Any:
    """Do what a task does for its `toploc.npy`: proofs [prompts, proofs, bytes] of states."""
    return np.array(
        [
            [
                np.frombuffer(proof, np.uint8)
                for proof in build_proofs_bytes(
                    list(torch.from_numpy(rows).bfloat16()),
                    decode_batching_size=PROOF_TOKENS,
                    topk=PROOF_VALUES,
                    skip_prefill=True,
                )
            ]
            for rows in hidden
        ]
    )


def _measure_distance(tokens: Any, hidden: Any, replayed: Any) -> float:
    own, theirs = (_encode(LM.compute_fingerprints(states)) for states in (replayed, hidden))
    margins = _encode(np.zeros(tokens.shape))
    return measure_signals(
        {"margins.npy": margins, "fingerprints.npy": own},
        {"tokens.npy": _encode(tokens), "fingerprints.npy": theirs},
        clip=1.0,
    ).distance


def _summarize(prompts: Sequence[Prompt], honest: Sequence[Prompt]) -> dict[str, float]:
    mantissas, distances = ([_pick(p)[i] for p in prompts] for i in (0, 1))
    honest_mantissas, honest_distances = ([_pick(p)[i] for p in honest] for i in (0, 1))
    return {
        "exps most": max(p.error.exponents for p in prompts),
        "mant least": min(mantissas),
        "mant most": max(mantissas),
        "auc mant": compute_auc(mantissas, honest_mantissas),
        "dist least": min(distances),
        "dist most": max(distances),
        "auc dist": compute_auc(distances, honest_distances),
        "passing": sum(is_close(p.error, RULE) for p in prompts) / len(prompts),
        "published": sum(is_close(p.error, PUBLISHED) for p in prompts) / len(prompts),
    }


def _pick(prompt: Prompt) -> tuple[float, float]:
    return prompt.error.mantissa, prompt.distance


def _time(verify: Any) -> Mapping[str, float]:
    width, repeats = 4096, 50
    states = np.random.default_rng(1).normal(size=(1, PROOF_TOKENS, width)).astype(np.float32)
    proofs = build(states)
    started = time.perf_counter()
    for _ in range(repeats):
        build(states)
    middle = time.perf_counter()
    for _ in range(repeats):
        verify(states[0], proofs[0, 0].tobytes())
    ended = time.perf_counter()
    found = {"build": (middle - started) / repeats, "verify": (ended - middle) / repeats}
    found = {name: round(1e3 * seconds, 2) for name, seconds in found.items()}
    print(f"of 32 tokens of width {width}, milliseconds: {found}; {PROOF_BYTES} bytes")
    return found


def _encode(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


if __name__ == "__main__":
    run(int(sys.argv[1]))
