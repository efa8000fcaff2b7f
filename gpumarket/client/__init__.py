"""The SDK: one asynchronous client, and a synchronous one with the same methods."""

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
