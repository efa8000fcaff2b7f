"""
The error catalog: what every code means, whose fault it is, how a command ends, what to do.

Ranges: 1xxx usage and files, 2xxx this machine, 3xxx wallet and chain, 4xxx market, 5xxx job,
6xxx content, 7xxx verification and audit, 8xxx coordinator and network, 9xxx bugs.
`gpumarket explain CODE` prints an entry; a test holds every code in the tree to this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from gpumarket.protocol import catalog_market, catalog_work
from gpumarket.protocol.errors import GpuMarketError, InvalidInput

Fault = Literal["requester", "provider", "verifier", "coordinator", "chain", "network", "none"]


class Exit(IntEnum):
    """How a command ends; the numbers are part of the interface and never change."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INVALID_FILE = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    NO_MONEY = 6
    NO_OFFER = 7
    UNREACHABLE = 8
    CONFLICT = 9
    AUDIT_FAIL = 10
    AUDIT_INCOMPLETE = 11
    DOCTOR_BLOCKS = 12
    JOB_FAILED = 20
    """By its own code."""
    MARKET_FAILED = 21
    """Provider, verifier, coordinator, network or chain."""
    JOB_CANCELLED = 22
    NOT_FINISHED = 23
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Entry:
    """One page of `gpumarket explain`; remedies are commands or one thing to do each."""

    code: str
    title: str
    http_status: int
    exit: Exit
    fault: Fault
    retryable: bool
    summary: str
    remedies: tuple[str, ...]


def _make_entry(row: str) -> Entry:
    head, title, summary, remedies = row.split("\n", 3)
    code, status, exit_name, fault, retry = head.split()
    return Entry(
        code=code,
        title=title,
        http_status=int(status),
        exit=Exit[exit_name],
        fault=fault,  # type: ignore[arg-type]  # the test of the table checks it
        retryable=retry == "retry",
        summary=summary,
        remedies=tuple(remedies.split("\n")),
    )


_ROWS = catalog_market.ROWS + catalog_work.ROWS
CATALOG: dict[str, Entry] = {entry.code: entry for entry in map(_make_entry, _ROWS)}


def find_entry(code: str) -> Entry | None:
    """Return the entry of a code, or None where the catalog has none."""
    return CATALOG.get(code.upper())


def get_entry(code: str) -> Entry:
    """Return the entry of a code that the caller typed; raise `InvalidInput` for an unknown one."""
    wanted = code.upper() if code.upper().startswith("GM-") else f"GM-{code}"
    entry = find_entry(wanted)
    if entry is None:
        raise InvalidInput(
            f"there is no code {wanted[:20]}",
            code="GM-1002",
            why=f"the catalog has {len(CATALOG)} codes from GM-1001 to GM-9002",
            hints=("gpumarket explain --list",),
        )
    return entry


def find_exit(error: GpuMarketError) -> Exit:
    """Return how a command ends that stopped with this error."""
    entry = find_entry(error.code)
    return Exit.BUG if entry is None else entry.exit


def find_http_status(error: GpuMarketError) -> int:
    """Return the HTTP status of this error; 500 for a code outside the catalog."""
    entry = find_entry(error.code)
    return 500 if entry is None else entry.http_status


def find_fault(error: GpuMarketError) -> str:
    """Return whose fault it is: what the error says itself, else what the catalog says."""
    entry = find_entry(error.code)
    return error.fault or ("none" if entry is None else entry.fault)
