"""Calibration documents: those that are published, and how the runs of one are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpumarket.protocol.comparison import (
    CALIBRATIONS,
    DECIMAL_FIELDS,
    RULES,
    Calibration,
    JsonRule,
    LlmRule,
)
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks import llm_runs
from scripts.benchmarks.calibration import FOLDER, name_document, read_document, write_document

PUBLISHED = sorted(FOLDER.glob("*.json"))


def read_all() -> dict[str, Calibration]:
    return {name_document(found): found for found in map(read_document, PUBLISHED)}


def test_every_document_is_named_by_a_rule_and_every_name_has_its_document() -> None:
    assert {*CALIBRATIONS.values()} == {*read_all()}
    page = (FOLDER / "README.md").read_text()
    for path in PUBLISHED:
        assert f"| [{path.stem}]({path.name}) | `{name_document(read_document(path))}` |" in page


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_the_default_tolerances_are_those_that_were_measured_and_above_all_honest_runs(
    name: str,
) -> None:
    found = read_all()[CALIBRATIONS[name]]
    kind: Any = RULES[name]
    default = kind(command=("x",)) if kind is LlmRule else kind()
    for field in DECIMAL_FIELDS & {*kind.__struct_fields__} & {*found.rule.__struct_fields__}:
        assert getattr(default, field) == getattr(found.rule, field), field
    honest = [each for each in found.noise if each.what == "honest"]
    assert {each.pair[0] for each in honest} == {honest[0].pair[0]}
    assert {each.pair[1] for each in honest} == {*found.classes}
    for each in honest:
        assert each.quantiles[-1].share_ppm == 1_000_000
        assert float(each.quantiles[-1].value) < float(getattr(default, each.quantity))
    assert found.software
    assert found.digests
    if name == "llm":
        assert min(each.samples for each in honest) >= 10_000


def test_a_document_written_and_read_has_the_same_name(tmp_path: Path) -> None:
    found = Calibration(
        rule=JsonRule(), classes=("a",), noise=(), software={}, digests={"x": b"1" * 32}
    )
    assert write_document(found, tmp_path / "json.json") == name_document(found)
    assert read_document(tmp_path / "json.json") == found


# ---- runs --------------------------------------------------------------------------------------


@pytest.fixture(name="measured")
def measured_fixture(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let runs cost nothing; return the seeds of which they were."""
    seeds: list[int] = []

    def measure(some: Sequence[int]) -> Iterator[dict[str, dict[str, list[float]]]]:
        for seed in some:
            seeds.append(seed)
            value = [seed / 10**9] * llm_runs.PROMPTS
            yield {kind: {"margin_max": value, "distance_max": value} for kind in CLASSES}

    monkeypatch.setattr(llm_runs, "_measure", measure)
    return seeds


def test_runs_go_on_where_they_were_stopped_and_none_counts_twice(
    tmp_path: Path, measured: list[int]
) -> None:
    state = tmp_path / "made/runs.jsonl"
    assert llm_runs.measure_more(state, runs=100, seconds=0) == 0
    assert llm_runs.measure_more(state, runs=100, seconds=60) == 128
    with state.open("a") as file:
        file.write('{"native": {"margin')  # killed here
    assert llm_runs.measure_more(state, runs=100, seconds=60) == 128
    assert llm_runs.measure_more(state, runs=1_000, seconds=60) == 1_024
    assert measured == [*range(llm_runs.SEEDS_FROM, llm_runs.SEEDS_FROM + 32)]
    assert [*map(json.loads, state.read_text().splitlines())] == llm_runs.read_state(state)
    found = llm_runs.make_calibration(state)
    assert {each.samples for each in found.noise} == {1_024}
    assert len(found.noise) == 2 * len(CLASSES)
