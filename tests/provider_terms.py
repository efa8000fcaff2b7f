"""The terms of a provider node that tests of its core run."""

from __future__ import annotations

from typing import Any

from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import DOMAIN, make_address, make_device, make_hash
from provider_node.core.terms import Terms


def make_terms(**changes: Any) -> Terms:
    """Return what a node with one device and one slot sells; `changes` replace fields by name."""
    values: dict[str, Any] = {
        "provider": make_address("provider-1"),
        "domain": Domain(chain_id=DOMAIN.chain_id, contract=DOMAIN.contract),
        "devices": (make_device(),),
        "slots": 1,
        "cpus": 16,
        "memory_bytes": 64 * 10**9,
        "disk_bytes": 10**12,
        "region": "SE",
        "isolation": "runc",
        "repro_class": make_hash("class"),
        "price_per_device_hour": Amount(400_000),
        "order_lifetime_seconds": 7 * 86_400,
        "bond_min": Amount(100),
    }
    return Terms(**(values | changes))
