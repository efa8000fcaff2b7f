"""
Checkpoints in folders, read and judged: the same for the verifier and for an auditor.

An auditor reads them without a network, so nothing of a loop or a socket is loaded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gpumarket.comparing.checkpoints import FILES, Checkpoint, decode_checkpoint_untrusted
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.segments import RULE, judge_segments
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.training import SegmentAudit


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's files; raise `RemoteProtocolError` for anything else."""
    files = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    if files.keys() != FILES or not all(path.is_file() for path in files.values()):
        raise RemoteProtocolError(f"a checkpoint is a folder with {', '.join(sorted(FILES))}")
    return decode_checkpoint_untrusted({name: path.read_bytes() for name, path in files.items()})


class StoredCheckpoints(Mapping[int, Checkpoint]):
    """Checkpoints in folders by number, each read when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._folders = {int(path.name): path for path in root.iterdir() if path.name.isdigit()}

    def __getitem__(self, index: int) -> Checkpoint:
        return read_checkpoint(self._folders[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


def judge_stored(
    audit: SegmentAudit,
    *,
    own: Path,
    theirs: Path,
    own_class: Hash32,
    provider: Address,
    tolerance: str,
) -> Outcome:
    """
    Judge a task by its drawn segments, as `judge_segments`, from folders of checkpoints by number.

    Raises `InvalidInput` where a checkpoint is missing.
    """
    try:
        return judge_segments(
            audit,
            own=StoredCheckpoints(own),
            theirs=StoredCheckpoints(theirs),
            own_class=own_class,
            provider=provider,
            tolerance=tolerance,
        )
    except RemoteProtocolError as error:
        # Ours were written by the same program; its rules of form are what a provider signed.
        by_another = any(state.provider != provider for state in audit.states)
        verdict = Verdict.INCONCLUSIVE if by_another else Verdict.MISMATCH
        return Outcome(verdict, RULE, f"a checkpoint is malformed: {error.message[:160]}")
