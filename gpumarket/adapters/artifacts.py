"""The compiled contracts, which are committed: ABI, code, and where the code keeps what."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from gpumarket.protocol.anchoring import Compiled
from gpumarket.protocol.contract_code import read_contract


@cache
def load_artifact(name: str) -> dict[str, Any]:
    """Return what scripts/compile-contracts wrote about a contract; nobody changes it."""
    path = resources.files("gpumarket.adapters") / "abi" / f"{name}.json"
    artifact: dict[str, Any] = json.loads(path.read_text())
    return artifact


def load_compiled() -> Compiled:
    """Return the contracts whose state proofs show, as an auditor must know them."""
    return Compiled(
        settlement=read_contract(load_artifact("Settlement")),
        disputes=read_contract(load_artifact("Disputes")),
        jury=read_contract(load_artifact("Jury")),
    )
