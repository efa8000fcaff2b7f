"""
The rule `llm` on the model of examples/llm: honest machines of other classes against cheats.

A round is a task of 32 prompts with a seed of its own. Both signals are measured for each prompt
(64 tokens, one window) by the verifier's replay; AUC is the chance that a cheat's prompt is further
off than an honest one of another class.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpumarket.comparing.llm import Signals, measure_signals
from gpumarket.protocol.comparison import FINGERPRINTS_NAME, MARGINS_NAME, TOKENS_NAME, LlmRule
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks import Figures
from scripts.benchmarks.llm_work import (
    CHEATS,
    HIDDEN_CHEATS,
    WEIGHTS,
    Task,
    generate_elsewhere,
)

RULE = LlmRule(command=("replay",))
HONEST = ("avx2", "sse", "two threads")


def run(rounds: int) -> Figures:
    """Measure and print the table; return its figures."""
    found: dict[str, list[Signals]] = {}
    seconds = {"generate": 0.0, "replay": 0.0}
    for seed in range(1, rounds + 1):
        task = Task(1_000 * seed)
        started = time.perf_counter()
        own = task.generate(WEIGHTS)
        middle = time.perf_counter()
        task.replay(own[TOKENS_NAME])
        seconds["generate"] += middle - started
        seconds["replay"] += time.perf_counter() - middle
        outputs: dict[str, dict[str, Any]] = {"honest, same class": own}
        for name in HONEST:
            files = generate_elsewhere(task.seed, CLASSES[name])
            outputs[f"honest, {name}"] = {key: np.load(io.BytesIO(files[key])) for key in own}
        for name, cheat in {**CHEATS, **HIDDEN_CHEATS}.items():
            outputs[name] = cheat(task)
        for name, arrays in outputs.items():
            found.setdefault(name, []).extend(measure_prompts(task, arrays))
    honest = [s for name in HONEST for s in found[f"honest, {name}"]]
    figures = {name: _summarize(signals, honest) for name, signals in found.items()}
    print(f"{'':28}{'margin':>22}{'distance':>24}{'AUC':>14}{'passing':>10}")
    for name, row in figures.items():
        print(
            f"{name:28}{row['margin_least']:>11.2g}{row['margin_most']:>11.2g}"
            f"{row['distance_least']:>13.2g}{row['distance_most']:>11.2g}"
            f"{row['auc_margin']:>7.3f}{row['auc_distance']:>7.3f}{row['passing']:>10.3f}"
        )
    ratio = seconds["generate"] / seconds["replay"]
    print(f"generation costs {ratio:.1f} times the replay; {len(honest)} honest prompts elsewhere")
    return {**figures, "generation_for_replay": round(ratio, 2)}


def measure_prompts(task: Task, arrays: Mapping[str, Any]) -> list[Signals]:
    """Return the two signals of each prompt of an output, as the comparator measures them."""
    replayed = task.replay(arrays[TOKENS_NAME])
    return [
        measure_signals(
            {name: _encode(replayed[name][[row]]) for name in (MARGINS_NAME, FINGERPRINTS_NAME)},
            {name: _encode(arrays[name][[row]]) for name in (TOKENS_NAME, FINGERPRINTS_NAME)},
            clip=float(RULE.margin_clip),
        )
        for row in range(len(arrays[TOKENS_NAME]))
    ]


def passes(signals: Signals) -> bool:
    """Say whether both signals are within the rule's defaults."""
    return signals.margin <= float(RULE.margin_max) and (
        signals.distance <= float(RULE.distance_max)
    )


def compute_auc(larger: Sequence[float], smaller: Sequence[float]) -> float:
    """Return the chance that one of the first is above one of the second; ties count half."""
    a, b = np.asarray(larger)[:, None], np.asarray(smaller)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def _summarize(signals: Sequence[Signals], honest: Sequence[Signals]) -> dict[str, float]:
    margins, distances = ([s[i] for s in signals] for i in (0, 1))
    return {
        "margin_least": min(margins),
        "margin_most": max(margins),
        "distance_least": min(distances),
        "distance_most": max(distances),
        "auc_margin": compute_auc(margins, [s.margin for s in honest]),
        "auc_distance": compute_auc(distances, [s.distance for s in honest]),
        "passing": sum(map(passes, signals)) / len(signals),
    }


def _encode(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
