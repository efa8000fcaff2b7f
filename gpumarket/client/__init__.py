"""The SDK: one asynchronous client, and a synchronous one with the same methods."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gpumarket.client.aio import AsyncClient, Download
    from gpumarket.client.connection import Connection, find_connection
    from gpumarket.client.ordering import Plan
    from gpumarket.client.sync import Client
    from gpumarket.client.transport import (
        AnswerNotUnderstood,
        CoordinatorRefused,
        CoordinatorUnreachable,
    )
    from gpumarket.client.views import Event
    from gpumarket.client.wallet import Signer

__all__ = [
    "AnswerNotUnderstood",
    "AsyncClient",
    "Client",
    "Connection",
    "CoordinatorRefused",
    "CoordinatorUnreachable",
    "Download",
    "Event",
    "Plan",
    "Signer",
    "find_connection",
]
_MODULES: Final = {
    "AnswerNotUnderstood": "transport",
    "AsyncClient": "aio",
    "Client": "sync",
    "Connection": "connection",
    "CoordinatorRefused": "transport",
    "CoordinatorUnreachable": "transport",
    "Download": "aio",
    "Event": "views",
    "Plan": "ordering",
    "Signer": "wallet",
    "find_connection": "connection",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: an audit of a file must not load a network stack."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"the SDK has no {name}")
    return getattr(import_module(f"gpumarket.client.{module}"), name)
