"""One market for each module of end-to-end tests; all of it is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.market import Market, keep_logs
from tests.job_image import build_job_image


@pytest.fixture(scope="session", name="job_image")
def job_image_fixture() -> Path:
    """The archive of the job image."""
    return build_job_image()[0]


@pytest.fixture(scope="module", name="market")
def market_fixture(
    request: pytest.FixtureRequest, job_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A market with three providers; `DEVNET_FLAGS` or `DEVNET_MEMBERS` of a module change that."""
    assert job_image.is_file()
    failed = request.session.testsfailed
    market = Market(tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2]))
    try:
        members = getattr(request.module, "DEVNET_MEMBERS", None)
        if members is None:
            market.start(*getattr(request.module, "DEVNET_FLAGS", ()))
        else:
            market.start_with(*members)
        yield market
    finally:
        if request.session.testsfailed > failed:
            keep_logs(market)
        killed = market.stop()
    assert killed == []
    assert market.list_containers() == []
