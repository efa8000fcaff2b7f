"""Proofs of jobs whose outputs exist: one JSON file a task, in a folder by CID."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gpumarket.adapters.trees import TreeAdder
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.comparison import Comparison, JsonRule
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.unixfs import Block
from gpumarket.testing.proofs import FORGER, ProofMaker, make_job, make_settled_job

VALUES: Final[Mapping[str, float]] = {"provider-1": 1.0, "verifier-1": 1.001, FORGER: 2.0}
"""What each writes for every task; the rule lets one in a hundred pass."""
CLOSE: Final = 0.01


def write_output(folder: Path, content: bytes) -> tuple[Cid, list[Block]]:
    """Write an output of one file to a folder named by its CID; return its blocks too."""
    made = folder / "made"
    made.mkdir(parents=True)
    (made / "x.json").write_bytes(content)
    blocks: list[Block] = []
    cid = format_cid(TreeAdder(blocks.append).add_directory(made).cid)
    if (folder / cid).exists():
        shutil.rmtree(made)
    else:
        made.rename(folder / cid)
    return cid, blocks


@dataclass(frozen=True)
class OutputMaker(ProofMaker):
    """Builds the proof of a job with outputs in `folder`."""

    folder: Path = field(kw_only=True)
    values: Mapping[str, float] = field(default_factory=lambda: VALUES)
    close: float = CLOSE
    """How near verifiers call a MATCH; other than `CLOSE` they do not follow the rule."""

    def name_output(self, who: str, unit: int) -> Cid:
        """Write what somebody has for a task."""
        content = json.dumps({"task": unit, "x": self.values[who]}).encode()
        return write_output(self.folder, content)[0]

    def judge(self, own: Cid, theirs: Cid) -> Verdict:
        """Compare two numbers, in a simpler way than the rule."""
        a, b = (
            json.loads((self.folder / cid / "x.json").read_bytes())["x"] for cid in (own, theirs)
        )
        return Verdict.MATCH if abs(a - b) < self.close else Verdict.MISMATCH


def plan_job(
    folder: Path,
    rule: Comparison | None = None,
    *,
    job: Mapping[str, Any] | None = None,
    **lies: Any,
) -> OutputMaker:
    """Return the maker of a job with outputs; `job` and `lies` are fields of job and maker."""
    policy = VerifyPolicy(
        rate_ppm=500_000,
        forged_share_ppm=500_000,
        confidence_ppm=500_000,
        units_min=0,
        comparison=rule or JsonRule(rtol=str(CLOSE)),
    )
    return OutputMaker(spec=make_job(verify=policy, **(job or {})), folder=folder, **lies)


def settle(folder: Path, rule: Comparison | None = None, **options: Any) -> ProofOfExecution:
    """Return the proof of a job as `plan_job` has it, settled."""
    return make_settled_job(plan_job(folder, rule, **options))[0]
