"""What reading devices gives: what can be sold, how it is at the moment, and what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.gpu import Device

MODEL_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One device at this moment; None is not known. It changes all the time and is not offered."""

    temperature_celsius: int | None = None
    power_watts: int | None = None
    clock_mhz: int | None = None
    uncorrected_errors: int | None = None
    """Of its memory, since the driver was loaded."""
    slowed_by: tuple[str, ...] = ()
    """Why clocks are held down, other than by idleness or the limit that its owner set."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is there and cannot be sold."""

    text: str
    code: str
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What one source found."""

    devices: tuple[Device, ...] = ()
    readings: tuple[Reading, ...] = ()
    """One for each device."""
    faults: tuple[Fault, ...] = ()
