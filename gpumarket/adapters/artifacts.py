"""The compiled contracts, which are committed: ABI, code, and where the code keeps what."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def load_artifact(name: str) -> dict[str, Any]:
    """Return what scripts/compile-contracts wrote about a contract; nobody changes it."""
    path = resources.files("gpumarket.adapters") / "abi" / f"{name}.json"
    artifact: dict[str, Any] = json.loads(path.read_text())
    return artifact
