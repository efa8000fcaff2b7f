"""
gpumarket: an open market for verified compute, as a library.

The public names are below; each is imported when it is first used, so that `import gpumarket`
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpumarket.client import (
        AsyncClient,
        Client,
        Connection,
        CoordinatorRefused,
        CoordinatorUnreachable,
        Event,
        Plan,
        Signer,
        find_connection,
    )
    from gpumarket.jobfile import InvalidJobFile, JobFile, load_job_file
    from gpumarket.protocol.errors import GpuMarketError, InvalidInput
    from gpumarket.protocol.job import JobSpec
    from gpumarket.protocol.order import Order
    from gpumarket.protocol.receipt import Receipt

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "gpumarket.client",
    "Client": "gpumarket.client",
    "Connection": "gpumarket.client",
    "CoordinatorRefused": "gpumarket.client",
    "CoordinatorUnreachable": "gpumarket.client",
    "Event": "gpumarket.client",
    "GpuMarketError": "gpumarket.protocol.errors",
    "InvalidInput": "gpumarket.protocol.errors",
    "InvalidJobFile": "gpumarket.jobfile",
    "JobFile": "gpumarket.jobfile",
    "JobSpec": "gpumarket.protocol.job",
    "Order": "gpumarket.protocol.order",
    "Plan": "gpumarket.client",
    "Receipt": "gpumarket.protocol.receipt",
    "Signer": "gpumarket.client",
    "find_connection": "gpumarket.client",
    "load_job_file": "gpumarket.jobfile",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Connection",
    "CoordinatorRefused",
    "CoordinatorUnreachable",
    "Event",
    "GpuMarketError",
    "InvalidInput",
    "InvalidJobFile",
    "JobFile",
    "JobSpec",
    "Order",
    "Plan",
    "Receipt",
    "Signer",
    "find_connection",
    "load_job_file",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpumarket' has no attribute {name!r}")
    return getattr(import_module(home), name)
