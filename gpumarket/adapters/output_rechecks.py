"""A proof's comparisons made again, from the outputs in an auditor's folder. No network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from gpumarket.adapters.checkpoint_files import judge_stored
from gpumarket.adapters.output_files import (
    OUTPUT_BYTES_MAX,
    compare_by_name,
    compare_folders,
    compare_tokens,
)
from gpumarket.adapters.output_shelf import OVERHEAD_BYTES, BlockSpool, OutputShelf
from gpumarket.adapters.trees import export_tree
from gpumarket.comparing.judging import Outcome, judge
from gpumarket.comparing.rechecking import Rechecked, list_decided, report_comparisons
from gpumarket.comparing.segments import list_needed
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.comparison import Comparison, LlmRule, NpyRule, ProgramRule, SafetensorsRule
from gpumarket.protocol.errors import ContentError, GpuMarketError, InvalidInput
from gpumarket.protocol.evidence import Check
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.proof import CheckProof, ProofOfExecution


class Opened:
    """Content taken off a shelf, as files and folders below a folder of ours."""

    def __init__(self, shelf: OutputShelf, folder: Path) -> None:
        self._shelf = shelf
        self._folder = folder
        self._spool = BlockSpool(folder)

    def close(self) -> None:
        """Let go of the blocks; the folder is removed by whoever gave it."""
        self._spool.close()

    def write(self, cid: Cid, name: str, *, bytes_max: int = OUTPUT_BYTES_MAX) -> Path:
        """Write content to a path of this name; raises `ContentError` as the shelf does."""
        self._shelf.load(
            cid, self._spool.put, bytes_max=bytes_max + bytes_max // 50 + OVERHEAD_BYTES
        )
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        export_tree(parse_cid(cid), path, self._spool.get, bytes_max=bytes_max)
        return path

    def write_folder(self, cid: Cid, name: str) -> Path:
        """Write an output; raises `ContentError` for a file, in which no comparison would look."""
        path = self.write(cid, name)
        if not path.is_dir():
            raise ContentError(f"{cid} is a file, and an output is a folder", code="GM-6018")
        return path


def recheck_outputs(proof: ProofOfExecution, folder: Path) -> Check:
    """Compare again what verifiers compared, as far as the outputs are in `folder`."""
    shelf, job = OutputShelf(folder), proof.job
    found = [_recheck(check, job, shelf) for check in list_decided(proof)]
    return report_comparisons(found, job.verify.comparison.name)


def list_missing(
    proof: ProofOfExecution, folder: Path, *, is_run: bool, is_whole: bool = False
) -> list[Cid]:
    """
    Return what `folder` lacks to compare everything, and if `is_run` to run everything.

    `is_whole` is for every segment of training tasks, not the drawn ones only.
    """
    shelf, job, wanted = OutputShelf(folder), proof.job, list[Cid]()
    for check in list_decided(proof):
        own, theirs = check.evidence.own.output, check.opening.body.result.output
        audit = check.evidence.segments
        if audit is not None:
            numbers = range(1, len(audit.states)) if is_run and is_whole else audit.drawn
            ends = list_needed(audit.states, tuple(numbers))
            wanted += [own, *(audit.states[index].folder for index in ends)]
        elif own != theirs or is_run:
            wanted += [own] * (own != theirs) + [theirs]
    if is_run:
        wanted += [job.image.archive, *(item.cid for item in job.inputs)]
    return [cid for cid in dict.fromkeys(wanted) if not shelf.has(cid)]


def _recheck(check: CheckProof, job: JobSpec, shelf: OutputShelf) -> Rechecked:
    own, theirs = check.evidence.own, check.opening.body.result
    if own.exit_code != 0:
        return Rechecked(check, None, "the verifier's own run failed, so there is no output")
    try:
        outcome = _compare(check, job, shelf)
    except (GpuMarketError, MemoryError) as error:
        return Rechecked(check, None, str(error) or "it does not fit into memory")
    is_same_class = own.repro_class == theirs.repro_class
    return Rechecked(check, judge(outcome, is_same_class=is_same_class))


def _compare(check: CheckProof, job: JobSpec, shelf: OutputShelf) -> Outcome:
    own, theirs = check.evidence.own, check.opening.body.result
    rule = job.verify.comparison
    if check.evidence.segments is None:
        named = compare_by_name(own.output, theirs.output, rule)
        if named is not None:
            return named
        if isinstance(rule, ProgramRule):
            raise InvalidInput("the requester's own comparator is a program, which only runs")
    with tempfile.TemporaryDirectory(prefix="gpumarket-audit-") as name:
        opened = Opened(shelf, Path(name))
        try:
            if check.evidence.segments is not None:
                return _compare_segments(check, job, opened, Path(name))
            mine = opened.write_folder(own.output, "own")
            other = opened.write_folder(theirs.output, "theirs")
            if isinstance(rule, LlmRule):
                return _compare_tokens(check, mine, other, rule)
            return compare_folders(mine, other, rule, base=write_base(job, rule, opened))
        finally:
            opened.close()


def _compare_tokens(check: CheckProof, own: Path, theirs: Path, rule: LlmRule) -> Outcome:
    is_same = check.evidence.own.repro_class == check.opening.body.result.repro_class
    found = compare_tokens(own, theirs, rule, is_same_class=is_same)
    if found is None:
        raise InvalidInput("the tokens differ and must be replayed, which a program does")
    return found


def _compare_segments(check: CheckProof, job: JobSpec, opened: Opened, folder: Path) -> Outcome:
    audit, plan, own = check.evidence.segments, job.checkpoint, check.evidence.own
    if audit is None or plan is None:
        raise InvalidInput("a task without checkpoints has no segments")
    opened.write_folder(own.output, "own")
    for index in list_needed(audit.states, audit.drawn):
        opened.write(audit.states[index].folder, f"theirs/{index}", bytes_max=plan.bytes_max)
    return judge_stored(
        audit,
        own=folder / "own",
        theirs=folder / "theirs",
        own_class=own.repro_class,
        provider=check.opening.body.result.provider,
        tolerance=plan.tolerance,
    )


def write_base(job: JobSpec, rule: Comparison, opened: Opened) -> Path | None:
    """Write the input that a rule measures changes from, if it names one."""
    if not isinstance(rule, NpyRule | SafetensorsRule) or not rule.base:
        return None
    sizes: Mapping[str, tuple[Cid, int]] = {
        item.name: (item.cid, item.size_bytes) for item in job.inputs
    }
    if rule.base not in sizes:
        raise ContentError(f"the job has no input {rule.base[:60]!r} to compare with")
    cid, size_bytes = sizes[rule.base]
    return opened.write(cid, "base", bytes_max=size_bytes)
