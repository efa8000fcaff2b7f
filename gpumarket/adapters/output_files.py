"""
Outputs on disk, read for a comparison: the same for the verifier and for an auditor.

Files are read one at a time, so that memory is bounded by the largest file and not by the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.toploc import find_verify_proof
from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.llm import compare_before_replay, compare_replay
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import BytesRule, Comparison, LlmRule
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.ids import Cid

OUTPUT_BYTES_MAX = 2 * 10**9
"""The most of one output that is put on disk to compare it."""
FILE_BYTES_MAX = 2 * 10**9
"""The most of one file that is held in memory."""
SENTENCE_CHARS_MAX = 160
EXIT_SAME, EXIT_DIFFERENT = 0, 1


class FolderFiles(Mapping[str, bytes]):
    """The plain files below a folder by relative name, each read when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._paths = {
            str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()
        }

    def __getitem__(self, name: str) -> bytes:
        return _read_bounded(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


class OneFile(Mapping[str, bytes]):
    """One file under every name: the base of all files of an output."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, frozenset(names)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return _read_bounded(self._path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ContentError(f"{path.name[:60]!r} has more than {FILE_BYTES_MAX} bytes")
    return path.read_bytes()


def compare_by_name(own: Cid, theirs: Cid, rule: Comparison) -> Outcome | None:
    """Compare two outputs by their CIDs; None where their bytes must be read."""
    if own == theirs:
        return Outcome(Verdict.MATCH, rule.name, "both outputs have the same CID")
    if isinstance(rule, BytesRule):
        text = "the outputs have different CIDs and must be equal by bytes"
        return Outcome(Verdict.MISMATCH, rule.name, text)
    return None


def compare_folders(own: Path, theirs: Path, rule: Comparison, *, base: Path | None) -> Outcome:
    """Compare two folders of plain files by a rule; `base` is the file or folder it names."""
    files = FolderFiles(own)
    started: Mapping[str, bytes] | None = None
    if base is not None:
        started = FolderFiles(base) if base.is_dir() else OneFile(base, list(files))
    return compare_outputs(files, FolderFiles(theirs), rule, base=started)


def compare_tokens(
    own: Path, theirs: Path, rule: LlmRule, *, is_same_class: bool
) -> Outcome | None:
    """Compare two outputs of a language model; None where the second must be replayed first."""
    files = FolderFiles(own), FolderFiles(theirs)
    return compare_before_replay(*files, rule, is_same_class=is_same_class)


def judge_replay(result: RunResult, *, written: Path, theirs: Path, rule: LlmRule) -> Outcome:
    """Compare an output with what its replay wrote; a replay that did not end well says nothing."""
    if not result.is_success:
        text = f"the job's replay exited with {result.exit_code}"
        return Outcome(Verdict.INCONCLUSIVE, rule.name, text)
    verify_proof = find_verify_proof() if rule.fingerprint == "toploc" else None
    files = FolderFiles(written), FolderFiles(theirs)
    return compare_replay(*files, rule, verify_proof=verify_proof)


def read_comparator(result: RunResult) -> Outcome:
    """Turn how a requester's comparator ended into an outcome; only 0 and 1 decide anything."""
    is_whole = not (result.is_timed_out or result.is_oom_killed or result.is_output_over_limit)
    lines = result.stdout_tail.decode(errors="replace").strip().splitlines() or [""]
    said = "".join(char for char in lines[-1] if char.isprintable())[:SENTENCE_CHARS_MAX]
    text = f"the job's comparator exited with {result.exit_code}: {said or 'it said nothing'}"
    if is_whole and result.exit_code == EXIT_SAME:
        return Outcome(Verdict.MATCH, "program", text)
    if is_whole and result.exit_code == EXIT_DIFFERENT:
        return Outcome(Verdict.MISMATCH, "program", text)
    return Outcome(Verdict.INCONCLUSIVE, "program", text)
