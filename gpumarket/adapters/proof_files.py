"""
A coordinator's folder of proofs: each a file as an auditor gets it, for years after the job.

The names say what is inside and in which order it came, so the folder is all there is to know.
When there is no room, whole proofs go before compact ones, since a compact one still proves the
sample, and of either the oldest go first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from gpumarket.adapters.first_blocks import replace_file
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.ids import Hash32, make_job_id

Form = Literal["whole", "bare", "compact"]
"""`bare` is compact and without anchors: all that could be made. In the order they are let go."""
_FORMS: Final[tuple[Form, ...]] = get_args(Form)
_NAME: Final = re.compile(r"(\d{12})-([0-9a-f]{64})-(whole|bare|compact)\.cbor")
_PAPERS: Final = re.compile(r"epoch-(\d{12})\.papers")
_Key = tuple[Hash32, Form]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file: when it came, among the others, and how long it is."""

    number: int
    size_bytes: int


class ProofFolder:
    """
    Keeps proofs of jobs, of each one file in every form, up to so many bytes together.

    Synchronous; one process owns the folder, as it owns the journal beside it.
    """

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._entries: dict[_Key, _Entry] = {}
        self.epochs: set[int] = set()
        """Epochs of which papers are here; they are not counted, and go with their epoch."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            papers = _PAPERS.fullmatch(path.name)
            if papers is not None:
                self.epochs.add(int(papers[1]))
            if found is None:
                if path.suffix == ".new":  # of a process that died while it wrote
                    path.unlink()
                continue
            form = next(each for each in _FORMS if each == found[3])
            key = (bytes.fromhex(found[2]), form)
            if key in self._entries:  # the same job filed anew: the later file counts
                self._find_path(key).unlink()
            self._entries[key] = _Entry(int(found[1]), path.stat().st_size)

    @property
    def used_bytes(self) -> int:
        """How much all proofs take."""
        return sum(entry.size_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, order_hash: Hash32, form: Form) -> bool:
        """Say whether a job's proof in this form is here."""
        return (order_hash, form) in self._entries

    def find_orders(self, prefix: str) -> list[Hash32]:
        """Return the orders of which a proof is here and whose job id begins like this."""
        orders = {order for order, _ in self._entries}
        return sorted(order for order in orders if make_job_id(order).startswith(prefix))

    def read(self, order_hash: Hash32, form: Form) -> bytes | None:
        """Return a job's proof as it was kept, or None where it is not here or was let go."""
        key = (order_hash, form)
        if key not in self._entries:
            return None
        try:
            return self._find_path(key).read_bytes()
        except FileNotFoundError:  # somebody cleared the folder while we run
            del self._entries[key]
            return None

    def keep(self, order_hash: Hash32, data: bytes, form: Form) -> None:
        """
        Keep a proof, in place of an earlier one of this form, and let others go for it.

        Raises `ContentError` GM-6030 for one that is longer than all may be together, or where the
        disk is full.
        """
        if len(data) > self._bytes_max:
            raise ContentError(
                "the proof is longer than all proofs together may be",
                code="GM-6030",
                why=f"{len(data)} of {self._bytes_max} bytes",
                hints=("raise coordinator.proofs_bytes_max",),
            )
        key = (order_hash, form)
        before = self._find_path(key) if key in self._entries else None
        number = 1 + max((entry.number for entry in self._entries.values()), default=0)
        _write(self._folder / _make_name(number, key), data)
        self._entries[key] = _Entry(number, len(data))
        if before is not None:
            before.unlink(missing_ok=True)
        if form == "compact" and (order_hash, "bare") in self._entries:
            self._drop((order_hash, "bare"))
        self._make_room(key)

    # ---- papers of epochs ------------------------------------------------------------------

    def keep_papers(self, epoch: int, data: bytes) -> None:
        """Keep what was proven of an epoch's parties; raises `ContentError` as `keep`."""
        _write(self._folder / _name_papers(epoch), data)
        self.epochs.add(epoch)

    def read_papers(self, epoch: int) -> bytes | None:
        """Return an epoch's papers, or None where there are none."""
        try:
            return (self._folder / _name_papers(epoch)).read_bytes()
        except FileNotFoundError:
            return None

    def drop_papers(self, epoch: int) -> None:
        """Forget an epoch's papers."""
        (self._folder / _name_papers(epoch)).unlink(missing_ok=True)
        self.epochs.discard(epoch)

    # ---- room ------------------------------------------------------------------------------

    def _make_room(self, kept: _Key) -> None:
        used = self.used_bytes

        def rank(key: _Key) -> tuple[int, int]:
            return _FORMS.index(key[1]), self._entries[key].number

        for key in sorted(self._entries, key=rank):
            if used <= self._bytes_max:
                return
            if key != kept:
                used -= self._entries[key].size_bytes
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        self._find_path(key).unlink(missing_ok=True)
        del self._entries[key]

    def _find_path(self, key: _Key) -> Path:
        return self._folder / _make_name(self._entries[key].number, key)


def _make_name(number: int, key: _Key) -> str:
    return f"{number:012d}-{key[0].hex()}-{key[1]}.cbor"


def _name_papers(epoch: int) -> str:
    return f"epoch-{epoch:012d}.papers"


def _write(path: Path, data: bytes) -> None:
    try:
        replace_file(path, data)
    except OSError as error:
        raise ContentError(
            "the proof could not be written", code="GM-6030", why=str(error.strerror)
        ) from error
