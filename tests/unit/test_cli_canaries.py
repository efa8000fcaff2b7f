"""`gpumarket coordinator canaries`: orders one of its jobs where a canary is due, else none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpumarket.cli import main as cli_main
from gpumarket.testing.fake_coordinator import FakeCoordinator
from tests.unit.test_cli import OFFER

COUNTS = {"checks": 1_000, "canaries": 4, "rate_ppm": 5_000}


@pytest.fixture
def market(fake: FakeCoordinator, devnet: Path) -> FakeCoordinator:
    fake.offers = [OFFER]
    return fake


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, dict[str, Any]]:
    code = cli_main.run(["coordinator", "canaries", *map(str, argv), "--once", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_job_is_ordered_where_one_is_due_and_its_end_awaited(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    market.canaries = {**COUNTS, "is_due": True}
    code, envelope = run(capsys, job_path, "-y")
    assert code == 0 and len(market.jobs) == 1
    assert envelope["data"] == {**COUNTS, "job": next(iter(market.jobs)), "state": "settled"}


def test_nothing_is_signed_where_none_is_due(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    market.canaries = {**COUNTS, "is_due": False}
    code, envelope = run(capsys, job_path, "-y")
    assert code == 0 and not market.jobs
    assert envelope["data"]["job"] is None


def test_it_is_not_ordered_without_a_yes(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    market.canaries = {**COUNTS, "is_due": True}
    code, envelope = run(capsys, job_path)
    assert code == 2 and not market.jobs
    assert "-y" in json.dumps(envelope["errors"])
