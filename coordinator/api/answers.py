"""How the API writes things: money, times, problems; the same everywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gpumarket.protocol.catalog import find_entry, find_fault, find_http_status
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.units import TOKEN_DECIMALS, TOKEN_SYMBOL, format_amount

JSON_PROBLEM = "application/problem+json"
NOTHING_CHARGED = "nothing was charged"


def show_money(amount: int) -> dict[str, Any]:
    """Write an amount as text and as base units; never as a JSON number."""
    return {
        "amount": format_amount(amount),
        "token": TOKEN_SYMBOL,
        "base": str(amount),
        "decimals": TOKEN_DECIMALS,
    }


def show_time(at: int | None) -> str | None:
    """Write unix seconds as RFC 3339 in UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def answer_json(data: object, *, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(
        text=json.dumps(data, ensure_ascii=False), status=status, content_type="application/json"
    )


def answer_problem(error: GpuMarketError, instance: str) -> web.Response:
    """Answer with an RFC 9457 problem: code, why, money, what to try, and any funnel."""
    entry = find_entry(error.code)
    status = find_http_status(error)
    problem = {
        "type": f"urn:gpumarket:error:{error.code}",
        "title": entry.title if entry else error.message,
        "status": status,
        "detail": error.message,
        "instance": instance,
        "code": error.code,
        "why": error.why,
        "money": error.money or NOTHING_CHARGED,
        "fault": error.fault or find_fault(error),
        "charged": show_money(0),
        "retryable": bool(entry and entry.retryable),
        "hints": list(error.hints),
    }
    funnel = getattr(error, "funnel", None)
    if funnel is not None:
        problem["funnel"] = funnel
    return web.Response(
        text=json.dumps(problem, ensure_ascii=False), status=status, content_type=JSON_PROBLEM
    )
