"""What is made of measured times: ratios, quantiles, and where they were measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def compute_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round, so that a slow minute of the machine is on both sides."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def compute_quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all (0 to 1) is at most, between neighbors in a line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarize(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | int]:
    """Return the median and p95 of the ratios, and the medians themselves in milliseconds."""
    ratios = compute_ratios(ours, theirs)
    return {
        "median_ratio": round(statistics.median(ratios), 3),
        "p95_ratio": round(compute_quantile(ratios, 0.95), 3),
        "n": len(ratios),
        "ours_median_ms": round(statistics.median(ours) * 1000, 1),
        "theirs_median_ms": round(statistics.median(theirs) * 1000, 1),
    }


def describe_machine() -> str:
    """Say in one line what this machine is and how busy."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, load {load:.1f} at the start"


def write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    path.write_text(json.dumps(figures, indent=2) + "\n")
