"""
Prometheus metrics: every role's numbers, each declared once with its meaning.

Names end in a base unit or `_total`; labels never hold a job, wallet, peer or CID, whose
number is unbounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpumarket.protocol.errors import LocalProtocolError

PREFIX = "gpumarket_"
_NAME = re.compile(r"^gpumarket_[a-z0-9_]+$")
_UNBOUNDED_LABELS = frozenset({"job", "job_id", "wallet", "address", "peer", "cid", "tx"})


class Metrics:
    """One role's registry."""

    def __init__(self, role: str) -> None:
        self._registry = CollectorRegistry()
        info = self.gauge("gpumarket_build_info", "What runs here.", ("role", "version"))
        info.labels(role=role, version=version("gpumarket")).set(1)

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """Declare a count that only rises; its name ends in `_total`."""
        if not name.endswith("_total"):
            raise LocalProtocolError(f"counter {name} does not end in _total")
        return Counter(_checked(name, labels), meaning, labels, registry=self._registry)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare a value that goes up and down."""
        return Gauge(_checked(name, labels), meaning, labels, registry=self._registry)

    def histogram(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Histogram:
        """Declare a distribution in seconds or bytes."""
        return Histogram(_checked(name, labels), meaning, labels, registry=self._registry)

    def render(self) -> str:
        """Write all values in Prometheus' text format."""
        return generate_latest(self._registry).decode()


def _checked(name: str, labels: Sequence[str]) -> str:
    if not _NAME.match(name) or _UNBOUNDED_LABELS & set(labels):
        raise LocalProtocolError(f"metric {name} {labels} breaks the naming rules")
    return name
