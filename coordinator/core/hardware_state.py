"""What the coordinator remembers of hardware challenges; `hardware_checks.py` changes it."""

from __future__ import annotations

from enum import Enum

import msgspec

from gpumarket.protocol.gpu import Device
from gpumarket.protocol.hardware import HardwareTask
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.units import Timestamp


class TrialStage(Enum):
    """Where one device's challenge stands; the last two are ends."""

    MULTIPLYING = "multiplying"
    FILLING = "filling"
    READY = "ready"
    WALKING = "walking"
    JUDGING = "judging"
    PASSED = "passed"
    FAILED = "failed"


class Trial(msgspec.Struct, kw_only=True):
    """One challenge to one device."""

    provider: Address
    task: HardwareTask
    deadline: Timestamp
    """Of the stage that it is in."""
    ready_by: Timestamp
    stage: TrialStage = TrialStage.MULTIPLYING
    root: Hash32 = b""

    @property
    def is_over(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.stage in (TrialStage.PASSED, TrialStage.FAILED)


class HardwareRound(msgspec.Struct, kw_only=True):
    """Challenges that run at the same time, so that one device cannot answer two of them."""

    number: int
    members: tuple[Address, ...]
    secret: Hash32 | None = None
    trials: dict[Hash32, Trial] = {}


class HardwareRecord(msgspec.Struct, kw_only=True):
    """What is known of one provider's devices."""

    devices: tuple[Device, ...]
    """As they were offered when they were challenged."""
    passed: dict[int, Timestamp] = {}
    """Devices that passed their last challenge, by index, with when."""
    reasons: dict[int, Reason] = {}
    """Devices that failed it."""
    due_at: Timestamp
    round: int | None = None
    """The round it takes part in now."""


class HardwareBook(msgspec.Struct, kw_only=True):
    """All records and all open rounds."""

    records: dict[Address, HardwareRecord] = {}
    rounds: dict[int, HardwareRound] = {}
    next_round: int = 1
