"""
The checkpoints of a training job: from its file to the plan that is signed.

An interval is counted in steps and not in time, since whoever does a segment again must stop at
the same step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gpumarket.protocol.comparison import BytesRule, SafetensorsRule
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.job import CheckpointPlan, VerifyPolicy
from gpumarket.protocol.training import check_plan
from gpumarket.shorthand import parse_range, to_decimal_text

_STEPS = re.compile(r"([0-9]{1,12}) steps?")


def resolve_checkpoint(document: Mapping[str, Any]) -> CheckpointPlan | None:
    """
    Return a job file's plan for checkpoints, or None for a job without.

    Raises `InvalidInput` for what does not fit together: see `training.check_plan`.
    """
    verify = document.get("verify", {})
    if "checkpoint" not in document:
        if verify.get("unit", "task") != "task":
            raise InvalidInput("verify.unit: checkpoint_interval needs a checkpoint")
        return None
    entry = document["checkpoint"]
    _check_surroundings(document)
    found = _STEPS.fullmatch(entry["every"])
    if found is None or "steps" not in entry:
        raise InvalidInput(
            "checkpoint: write  every: 100 steps  and  steps: 4000; a segment that is done again "
            "must end at the same step"
        )
    values: dict[str, Any] = {
        "path": entry["path"],
        "steps": entry["steps"],
        "interval_steps": int(found[1]),
        "does_resume": entry.get("resume", "latest") == "latest",
        "tolerance": find_rule(verify).tau,
    }
    for key, field in (("keep", "keep"), ("random", "random_audits"), ("top", "top_audits")):
        if key in entry:
            values[field] = entry[key]
    if "max_size" in entry:
        values["bytes_max"] = parse_range(entry["max_size"]).low
    try:
        plan = msgspec.convert(values, CheckpointPlan)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"checkpoint: {error}") from error
    check_plan(plan)
    return plan


def find_rule(verify: Mapping[str, Any]) -> SafetensorsRule:
    """Return the rule by which segments are compared; its `tau` is what counts."""
    entry = verify.get("compare", {})
    if isinstance(entry, str) or entry.get("as", "safetensors") != "safetensors":
        raise InvalidInput("verify.compare: checkpoints are compared  as: safetensors")
    return SafetensorsRule(tau=to_decimal_text(entry.get("tau", SafetensorsRule().tau)))


def adapt_policy(policy: VerifyPolicy, plan: CheckpointPlan | None) -> VerifyPolicy:
    """Let a training task be compared by its segments where the file names no rule."""
    if plan is None or not isinstance(policy.comparison, BytesRule):
        return policy
    return msgspec.structs.replace(policy, comparison=SafetensorsRule(tau=plan.tolerance))


def _check_surroundings(document: Mapping[str, Any]) -> None:
    entry = document["checkpoint"]
    if "split" in document:
        raise InvalidInput("checkpoint: a job with checkpoints is one task; leave split out")
    if not document.get("outputs"):
        raise InvalidInput("checkpoint: the last weights need an output")
    if document["outputs"][0]["from"].rstrip("/") == entry["path"].rstrip("/"):
        raise InvalidInput("checkpoint: its path and the output's are two folders")
    if entry.get("signal", "none") != "none" or "grace" in entry:
        raise InvalidInput("checkpoint: signals before a checkpoint are not supported yet")
    if entry.get("resume", "latest") not in ("latest", "none"):
        raise InvalidInput("checkpoint.resume: a first checkpoint is an input of the job")
