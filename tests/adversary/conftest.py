"""The contracts on a real node, for the attacks on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from gpumarket.adapters.deployment import deploy_devnet
from gpumarket.testing.anvil import run_anvil
from tests.integration.court import CONFIG, Court, open_court


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    """A node of its own for each file: fresh contracts, nobody registered."""
    with run_anvil(tmp_path_factory.mktemp("court"), block_seconds=None) as url:
        yield open_court(url, *trio.run(deploy_devnet, url, CONFIG))
