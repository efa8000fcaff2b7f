"""Structured logs: one JSON object a line on stderr, from every role in the same shape."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

VALUE_CHARS_MAX = 500
_FIELDS = "gpumarket_fields"


class Log:
    """Writes facts: a short sentence and named values."""

    def __init__(self, role: str) -> None:
        self._logger = logging.getLogger(f"gpumarket.{role}")

    def info(self, text: str, **fields: object) -> None:
        """Record a normal change of state."""
        self._logger.info(text, extra={_FIELDS: fields})

    def warn(self, text: str, **fields: object) -> None:
        """Record something that went wrong and was handled."""
        self._logger.warning(text, extra={_FIELDS: fields})

    def error(self, text: str, **fields: object) -> None:
        """Record something that a person must look at."""
        self._logger.error(text, extra={_FIELDS: fields})


def open_log(role: str, *, level: str = "INFO") -> Log:
    """Send this process's logs to stderr as JSON lines; libraries are heard from WARNING up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # A peer that hangs up is no event of ours; the libraries tell it as an error.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    logging.getLogger("gpumarket").setLevel(level)
    return Log(role)


class _JsonLines(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "text": record.getMessage(),
        }
        for key, value in getattr(record, _FIELDS, {}).items():
            entry[key] = _readable(value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _readable(value: object) -> object:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int | float | bool | None):
        return value
    return str(value)[:VALUE_CHARS_MAX]
