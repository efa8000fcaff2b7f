"""What the coordinator remembers of canaries; `canaries.py` changes it."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.canaries import CanaryNote
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.signing import Signed


class CanaryBook(msgspec.Struct, kw_only=True):
    """Notes that no epoch has yet, and how many checks were of canaries."""

    notes: dict[Hash32, Signed[CanaryNote]] = {}
    """By lease."""
    checks: int = 0
    """Of all results, that ended with a verdict; in epochs that are closed."""
    canaries: int = 0
    """Those of them that were of a result forged on purpose."""
