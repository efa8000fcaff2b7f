"""What the coordinator shows of a job: states, events and where the money is, read leniently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpumarket.protocol.errors import InvalidInput

Json = dict[str, Any]
ENDED: Final = frozenset({"settled", "failed", "cancelled"})
"""States that a job never leaves."""
WORK_DONE: Final = ENDED | {"settling"}
"""States in which all results are accepted, or never will be."""
_JOB_ID = re.compile(r"^gm-[a-z2-7]{1,10}$")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history; `id` rises by one and resumes a stream."""

    id: int
    time: str
    type: str
    text: str
    actor: str = ""
    task: int | None = None
    fault: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> Json:
        """Return the event as the API writes it."""
        return {name: getattr(self, name) for name in self.__slots__}


def read_event(value: Any) -> Event:
    """Read one event; raises `InvalidInput` GM-8004 where it has no number or type."""
    try:
        task = value.get("task")
        return Event(
            id=int(value["id"]),
            time=str(value.get("time", "")),
            type=str(value["type"]),
            text=str(value.get("text", "")),
            actor=str(value.get("actor") or ""),
            task=None if task is None else int(task),
            fault=str(value.get("fault") or ""),
            data=dict(value.get("data") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            "an event is not understood", code="GM-8004", why=str(error)[:200]
        ) from error


def read_rows(answer: Any, name: str) -> list[Json]:
    """Read a list answer: a bare list, or an object with it under `data` or `name`."""
    if isinstance(answer, dict):
        answer = answer.get("data", answer.get(name))
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise InvalidInput(f"the list of {name} is not understood", code="GM-8004")
    return answer


def read_object(answer: Any, name: str) -> Json:
    """Read an object answer: the object itself, or one that holds it under `name`."""
    if isinstance(answer, dict) and isinstance(answer.get(name), dict):
        answer = answer[name]
    if not isinstance(answer, dict):
        raise InvalidInput(f"the {name} is not understood", code="GM-8004")
    return answer


def find_state(job: Mapping[str, Any]) -> str:
    """Return a job's state in lower case."""
    return str(job.get("state", "")).lower()


def find_reason(job: Mapping[str, Any]) -> Json:
    """Return why a job ended: code, text, fault; empty where it has not or went well."""
    reason = job.get("reason")
    return dict(reason) if isinstance(reason, Mapping) else {}


def check_job_id(text: str) -> str:
    """Return a job id or the beginning of one; raise `InvalidInput` for anything else."""
    wanted = text if text.startswith("gm-") else f"gm-{text}"
    if not _JOB_ID.match(wanted):
        raise InvalidInput(
            f"'{text[:40]}' is not a job id; it looks like gm-7f3kq2x4ab",
            code="GM-5001",
            hints=("gpumarket job list",),
        )
    return wanted
