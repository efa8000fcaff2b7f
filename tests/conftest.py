"""What every test shares: how hypothesis looks for counterexamples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# `ci` finds the same examples every time; `fast` is for the keyboard; `deep` is for the night.
_QUIET = [HealthCheck.too_slow]
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("fast", max_examples=20, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("deep", max_examples=2_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
