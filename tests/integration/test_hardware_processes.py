"""Hardware challenges between real processes: one processor that says so, and one that poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumarket.testing.devnet import CPU_PROVIDER, IMPOSTOR, Devnet


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_processor_passes_as_a_processor_and_not_as_a_card(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path)
    try:
        devnet.up(providers=(CPU_PROVIDER, IMPOSTOR))
        offers: list[dict[str, Any]] = devnet.ask("/v1/offers")["data"]
        accounts = devnet.state["accounts"]
        found = {offer["provider"]: offer["hardware"] for offer in offers}
        honest = found[accounts[CPU_PROVIDER.name]["address"]]
        impostor = found[accounts[IMPOSTOR.name]["address"]]
        assert honest is None
        assert impostor["code"] == "GM-4051"
        assert "the product" in impostor["text"]
        log = (tmp_path / "logs" / f"{IMPOSTOR.name}.log").read_text()
        assert "GM-4051" in log
    finally:
        devnet.down()
