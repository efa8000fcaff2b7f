"""How long tests wait for what must come: one bound for all, far above what any machine needs."""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 90.0
"""Seconds. Only what is broken takes so long, so that no test passes or fails by its machine's
speed; and less than pytest's own timeout, so that a failure says what was waited for."""
