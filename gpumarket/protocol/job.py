"""
The job: everything a requester signs about the work, resolved and content-addressed.

A job file becomes a `JobSpec` when its image and inputs are CIDs and its tasks are counted.
The order carries the spec's content hash, so nobody can change a letter of it afterwards.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import BytesRule, Comparison, DecimalText, ProgramRule
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.ids import Address, Cid, Hash32, ImageDigest, ShortText
from gpumarket.protocol.repro import make_thread_env
from gpumarket.protocol.units import PPM, U32, U64, Amount, ShareInPpm

SPEC_BYTES_MAX = 64 * 1024
UNITS_MAX = 10_000
"""Tasks in one job; more is more jobs."""
POWER_MIN_PPM = 100_000
"""A rule that flags fewer forged units than this is no check."""
CRITICAL_MAX = 256
"""Units that one job may name as critical."""
ContainerPath = Annotated[str, Meta(pattern=r"^/(?!.*\.\.)[A-Za-z0-9._/-]*\Z", max_length=200)]


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The container image: where its archive is and which bytes it must be."""

    archive: Cid
    digest: ImageDigest
    archive_bytes: U64


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content mounted read-only into every task."""

    name: ShortText
    cid: Cid
    path: ContainerPath
    size_bytes: U64


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The folder a task leaves its results in."""

    path: ContainerPath
    bytes_max: U64
    pin_seconds: U64 = 0


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an input becomes tasks: task i gets items [i * size, (i + 1) * size)."""

    over: ShortText
    by: Literal["files", "lines", "index"]
    size: Annotated[int, Meta(ge=1)]
    items: U64
    """How many files, lines or indexes there are, counted when the job was planned."""


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one task needs of a machine."""

    devices: DeviceNeed
    cpus: U32 = 1
    memory_bytes: U64 = 2 * 10**9
    disk_bytes: U64 = 10**9
    shm_bytes: U64 = 64 * 10**6
    architecture: ShortText | UnsetType = UNSET
    """Of the image, like `amd64`; left out where it is not known: older jobs keep their hashes."""


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which providers may run the job."""

    isolation: Literal["any", "runc", "gvisor"] = "any"
    regions: tuple[ShortText, ...] = ()
    """Country codes; empty is anywhere."""
    reputation_min_ppm: ShareInPpm = 0
    stake_min: Amount = Amount(0)
    providers: tuple[Address, ...] = ()
    excluded_providers: tuple[Address, ...] = ()
    price_per_device_hour_max: Amount = Amount(2**63 - 1)
    prefer: Literal["cheapest", "fastest", "most_reliable", "balanced"] = "balanced"


class VerifyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is re-executed: enough to catch a forged share, and to make forging not pay."""

    mode: Literal["none", "sample", "full"] = "sample"
    rate_ppm: ShareInPpm = 0
    forged_share_ppm: ShareInPpm = 50_000
    confidence_ppm: ShareInPpm = 990_000
    units_min: U32 = 30
    """Fewer are never done again where there are as many."""
    bribe_ppm: U32 = 0
    """What somebody may pay a provider for one forged unit, in millionths of the unit's price."""
    power_ppm: Annotated[int, Meta(ge=POWER_MIN_PPM, le=PPM)] = PPM
    """How likely a sampled forged unit is really flagged: less than certain for a loose rule."""
    critical: Annotated[tuple[U32, ...], Meta(max_length=CRITICAL_MAX)] = ()
    """Units that are always done again, whatever the seed draws."""
    comparison: Comparison = BytesRule()

    def pool(self) -> VerifyPolicy:
        """
        Return what says with whom units are sampled: all of it but rule and critical units.

        Where the job's own program compares, nobody else's units are with it: its author could call
        anything different.
        """
        rule = self.comparison if isinstance(self.comparison, ProgramRule) else BytesRule()
        return msgspec.structs.replace(self, comparison=rule, critical=())

    @property
    def needs_class(self) -> bool:
        """Whether only machines of one reproducibility class can tell right from wrong."""
        return isinstance(self.comparison, BytesRule)

    def proves_nothing(self, own_class: Hash32, their_class: Hash32) -> bool:
        """Say whether another output blames nobody: bytes may differ between classes."""
        return self.needs_class and own_class != their_class

    def compute_pool_hash(self) -> Hash32:
        """Return the content hash of `pool`: units of a provider with an equal one are a pool."""
        return compute_content_hash(self.pool())


class CheckpointPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A training task's checkpoints: where, how often, and how many segments are done again.

    A segment is what lies between two checkpoints; `training.check_plan` says what fits together.
    """

    path: ContainerPath
    steps: Annotated[int, Meta(ge=1, le=2**40)]
    """Steps of the whole task."""
    interval_steps: Annotated[int, Meta(ge=1, le=2**40)]
    bytes_max: U64 = 10**9
    """The largest one checkpoint may be."""
    keep: Annotated[int, Meta(ge=1, le=100)] = 2
    """How many the task itself can still read; older ones are removed from its folder."""
    does_resume: bool = True
    """Whether the next provider goes on from the last checkpoint when one is lost."""
    random_audits: Annotated[int, Meta(ge=0, le=1_000)] = 2
    top_audits: Annotated[int, Meta(ge=0, le=1_000)] = 1
    tolerance: DecimalText = "0.0001"
    """Across classes: how far a segment done again may end from the first, in its own length."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to give up."""

    queue_seconds: U64 = 1800
    """Without a start in this time the job ends and nothing is charged."""
    run_seconds: U64 = 3600
    """For each task."""


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a task may be tried again, counted for each task."""

    attempts_max: U32 = 5
    avoid_failed_providers: bool = True


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole job as it is signed."""

    KIND: ClassVar[str] = "gpumarket.job.v1"

    version: Literal[1] = 1
    name: ShortText = ""
    image: Image
    command: tuple[ShortText, ...]
    env: dict[ShortText, str] = {}
    inputs: tuple[Input, ...] = ()
    outputs: Annotated[tuple[Output, ...], Meta(max_length=1)] = ()
    """One folder; more is for a later version of the format."""
    split: Split | None = None
    units: Annotated[int, Meta(ge=1, le=UNITS_MAX)] = 1
    """How many tasks there are; one without a split."""
    resources: Resources
    placement: Placement = Placement()
    verify: VerifyPolicy = VerifyPolicy()
    limits: Limits = Limits()
    retry: Retry = Retry()
    checkpoint: CheckpointPlan | None = None
    """For a task that trains; such a job has one task."""
    network: Literal["none"] = "none"

    def compute_hash(self) -> Hash32:
        """Return the content hash that the order signs as `jobHash`."""
        return compute_content_hash(self)


def compute_verify_hash(policy: VerifyPolicy) -> Hash32:
    """Return the content hash that the order signs as `verifyHash`."""
    return compute_content_hash(policy)


def make_unit_env(spec: JobSpec, unit: int, *, job_id: str) -> dict[str, str]:
    """
    Build the environment of one task, the same for provider and verifier.

    The job's own variables come first, so it cannot replace ours. Only the number of threads it
    may: as many as it asks for processors, on every machine, since results depend on it.
    """
    env = make_thread_env(spec.resources.cpus) | spec.env
    env |= {
        "GPUMARKET_JOB_ID": job_id,
        "GPUMARKET_TASK_INDEX": str(unit),
        "GPUMARKET_TASK_COUNT": str(spec.units),
        "GPUMARKET_SEED": str(int.from_bytes(spec.compute_hash()[:4], "big") + unit),
    }
    if spec.split is not None:
        start = unit * spec.split.size
        env["GPUMARKET_SPLIT_START"] = str(start)
        env["GPUMARKET_SPLIT_END"] = str(min(start + spec.split.size, spec.split.items))
    return env
