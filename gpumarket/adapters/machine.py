"""What an offer says of its machine: from the kernel, the settings and the last bench."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

from gpumarket.adapters.bandwidth import find_measured
from gpumarket.adapters.fabric import read_fabric
from gpumarket.config import ProviderSettings
from gpumarket.protocol.compatibility import name_architecture
from gpumarket.protocol.machine import Machine


def inspect_machine(root: Path = Path("/")) -> Machine:
    """Describe what the kernel knows of the machine whose file system is at `root`."""
    return Machine(
        architecture=name_architecture(platform.machine()),
        fabric=read_fabric(root),
    )


def read_machine(settings: ProviderSettings, data_dir: Path, *, root: Path = Path("/")) -> Machine:
    """Describe the machine whose file system is at `root`, with all that its operator says."""
    return msgspec.structs.replace(
        inspect_machine(root),
        measured=find_measured(data_dir),
        region_source=settings.region_source,
        carbon_grams_per_kwh=settings.carbon_grams_per_kwh,
        carbon_source=settings.carbon_source,
    )
