"""
The journal: events in order on disk, and snapshots that bound their replay.

SQLite in WAL mode with full synchronisation: an event that `append` returned for survives
`kill -9` and power loss; without `is_synced` it survives `kill -9`, and power loss once any later
event did. One process owns a data folder; a second is refused.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TextIO

import sqlalchemy as sa
import trio

from gpumarket.protocol.errors import InvalidInput, Unrecoverable

SNAPSHOTS_KEPT = 2
_LOCK_NAME = "lock"
_DATABASE_NAME = "journal.sqlite"

_metadata = sa.MetaData()
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_snapshots = sa.Table(
    "snapshots",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


class Journal(Protocol):
    """Keeps what a role must not forget."""

    async def load(self) -> tuple[bytes | None, list[bytes]]:
        """Return the newest snapshot, if any, and the events after it, oldest first."""

    async def append(self, events: Sequence[bytes], *, is_synced: bool = True) -> None:
        """Store events durably, in order, before returning; unsynced ones power loss may take."""

    async def save_snapshot(self, snapshot: bytes) -> None:
        """Store the state after the last appended event and drop the events before it."""


class SqlJournal:
    """A journal in one SQLite file inside a role's data folder."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = _lock_folder(data_dir)
        self._engine = sa.create_engine(f"sqlite:///{data_dir / _DATABASE_NAME}")
        sa.event.listen(self._engine, "connect", _set_pragmas)
        _metadata.create_all(self._engine)
        self._sequence = 0
        # One writer: the order of appends is the order of events.
        self._limiter = trio.CapacityLimiter(1)

    async def load(self) -> tuple[bytes | None, list[bytes]]:
        """Return the newest snapshot, if any, and the events after it, oldest first."""
        return await trio.to_thread.run_sync(self._load, limiter=self._limiter)

    async def append(self, events: Sequence[bytes], *, is_synced: bool = True) -> None:
        """Store events durably, in order, before returning; unsynced ones power loss may take."""
        # Not abandoned on cancel: a half-known append would fork memory from disk.
        await trio.to_thread.run_sync(self._append, list(events), is_synced, limiter=self._limiter)

    async def save_snapshot(self, snapshot: bytes) -> None:
        """Store the state after the last appended event and drop the events before it."""
        await trio.to_thread.run_sync(self._save_snapshot, snapshot, limiter=self._limiter)

    def close(self) -> None:
        """Close the database and let go of the data folder."""
        self._engine.dispose()
        self._lock_file.close()

    def _load(self) -> tuple[bytes | None, list[bytes]]:
        with self._engine.connect() as connection:
            newest = connection.execute(
                sa.select(_snapshots).order_by(_snapshots.c.sequence.desc()).limit(1)
            ).first()
            after = newest.sequence if newest else 0
            rows = connection.execute(
                sa.select(_events).where(_events.c.sequence > after).order_by(_events.c.sequence)
            ).all()
        numbers = [row.sequence for row in rows]
        if numbers != list(range(after + 1, after + 1 + len(rows))):
            raise Unrecoverable(f"the journal has a gap after event {after}")
        self._sequence = after + len(rows)
        return (newest.body if newest else None), [row.body for row in rows]

    def _append(self, events: list[bytes], is_synced: bool) -> None:
        rows = [
            {"sequence": self._sequence + 1 + offset, "body": body}
            for offset, body in enumerate(events)
        ]
        level = "FULL" if is_synced else "NORMAL"
        with self._engine.begin() as connection:
            # Outside of a transaction yet: it begins with the insert.
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            connection.execute(sa.insert(_events), rows)
        self._sequence += len(rows)

    def _save_snapshot(self, snapshot: bytes) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(_snapshots), {"sequence": self._sequence, "body": snapshot}
            )
            kept = sa.select(_snapshots.c.sequence).order_by(_snapshots.c.sequence.desc())
            oldest = connection.execute(kept.limit(SNAPSHOTS_KEPT)).scalars().all()[-1]
            connection.execute(sa.delete(_snapshots).where(_snapshots.c.sequence < oldest))
            connection.execute(sa.delete(_events).where(_events.c.sequence <= oldest))


def _lock_folder(data_dir: Path) -> TextIO:
    handle = open(data_dir / _LOCK_NAME, "a+")  # noqa: SIM115  held for the life of the process
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise InvalidInput(
            f"the data folder {data_dir} is in use by another process",
            code="GM-8102",
            why=f"process {owner or 'unknown'} holds its lock",
            money="nothing was changed",
            hints=("stop the other process, or give this one its own data_dir",),
        ) from error
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _set_pragmas(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # the DBAPI connection is untyped
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
