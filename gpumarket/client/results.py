"""
Results: outputs of a job on this disk, every block checked against its CID.

Each task lands in a folder of its own, whole or not at all; a second run fetches only what is
missing. What is done stands in `outputs.json` beside the folders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from gpumarket.protocol.car import CarDecoder
from gpumarket.protocol.cids import ContentId, format_cid, parse_cid
from gpumarket.protocol.errors import ContentError, InvalidInput

RECORD_NAME: Final = "outputs.json"
PARTIAL_PREFIX: Final = ".partial-"
CAR_OVERHEAD_BYTES: Final = 2**20
"""Room for headers, names and the nodes above the content."""


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """One task's result as the coordinator names it; nothing of it is believed but the CID."""

    task: int
    cid: str
    size_bytes: int
    provider: str
    is_verified: bool

    @property
    def folder_name(self) -> str:
        """Where the task's files go, below the job's folder."""
        return f"task-{self.task:05d}"


def read_outputs(entries: Iterable[Mapping[str, Any]]) -> list[TaskOutput]:
    """Read the coordinator's list of outputs."""
    try:
        return [
            TaskOutput(
                task=int(entry["task"]),
                cid=str(entry["cid"]),
                size_bytes=int(entry.get("bytes", 0)),
                provider=str(entry.get("provider", "")),
                is_verified=bool(entry.get("verified", False)),
            )
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            "the list of outputs is not understood", code="GM-8004", why=str(error)[:200]
        ) from error


class ResultFolder:
    """The folder of one job's results; remembers what is already whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done = self._read_record()

    def has(self, output: TaskOutput) -> bool:
        """Tell whether this very output is here already."""
        at = self.folder / output.folder_name
        return self._done.get(str(output.task)) == output.cid and at.exists()

    def open_spool(self, output: TaskOutput) -> Spool:
        """Begin to receive one task's blocks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Spool(self.folder / f"{PARTIAL_PREFIX}{output.task}.car", output)

    def accept(self, output: TaskOutput, spool: Spool) -> Path:
        """Write a received task to its folder in one step and remember it."""
        from gpumarket.adapters.trees import export_tree

        target = self.folder / output.folder_name
        partial = self.folder / f"{PARTIAL_PREFIX}{output.task}"
        _remove(partial)
        export_tree(spool.root, partial, spool.get_block, bytes_max=output.size_bytes)
        _remove(target)
        partial.rename(target)
        self._done[str(output.task)] = output.cid
        record = self.folder / f"{PARTIAL_PREFIX}{RECORD_NAME}"
        record.write_text(json.dumps(self._done, indent=2, sort_keys=True) + "\n")
        record.replace(self.folder / RECORD_NAME)
        return target

    def _read_record(self) -> dict[str, str]:
        try:
            record = json.loads((self.folder / RECORD_NAME).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


class Spool:
    """Blocks of one CAR on disk, each checked as it came; use as a context manager."""

    def __init__(self, path: Path, output: TaskOutput) -> None:
        self.root = parse_cid(output.cid)
        self.received = 0
        self._path = path
        self._file: BinaryIO = path.open("w+b")
        self._places: dict[bytes, tuple[int, int]] = {}
        bytes_max = output.size_bytes + output.size_bytes // 64 + CAR_OVERHEAD_BYTES
        self._decoder = CarDecoder(bytes_max=bytes_max, roots=(self.root,))

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the CAR; raises `RemoteProtocolError` at the first wrong one."""
        self.received += len(piece)
        for block in self._decoder.feed_untrusted(piece):
            if block.cid.digest not in self._places:
                self._places[block.cid.digest] = (self._file.tell(), len(block.data))
                self._file.write(block.data)

    def finish(self) -> None:
        """Say that the CAR has ended."""
        self._decoder.finish_untrusted()

    def get_block(self, cid: ContentId) -> bytes:
        """Return a received block; raises `ContentError` where it did not come."""
        place = self._places.get(cid.digest)
        if place is None:
            raise ContentError(
                f"the archive lacks {format_cid(cid)}",
                code="GM-6001",
                hints=("run the command again",),
            )
        self._file.seek(place[0])
        return self._file.read(place[1])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
