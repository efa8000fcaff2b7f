"""
Compatibility: what a program is built for against what a machine has, one rule a question.

The same rules choose providers, admit leases and explain refusals, so that nobody pays for a
program which cannot start. What a driver could do beyond its own CUDA (forward compatibility, a
package inside some images for some data-center cards) is not counted: it needs a library path that
the sandbox does not pass on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.gpu import Device, DeviceNeed, Version

NONE: Final[Version] = (0, 0)
DriverVersion = tuple[int, ...]
_DRIVER_PARTS_MAX: Final = 3
_DRIVER_DIGITS_MAX: Final = 6

CUDA_DRIVERS: Final[tuple[tuple[Version, DriverVersion], ...]] = (
    ((8, 0), (375, 26)),
    ((9, 0), (384, 81)),
    ((9, 1), (390, 46)),
    ((9, 2), (396, 26)),
    ((10, 0), (410, 48)),
    ((10, 1), (418, 39)),
    ((10, 2), (440, 33)),
    ((11, 0), (450, 51, 5)),
    ((11, 1), (455, 23)),
    ((11, 2), (460, 27, 3)),
    ((11, 3), (465, 19, 1)),
    ((11, 4), (470, 42, 1)),
    ((11, 5), (495, 29, 5)),
    ((11, 6), (510, 39, 1)),
    ((11, 7), (515, 43, 4)),
    ((11, 8), (520, 61, 5)),
    ((12, 0), (525, 60, 13)),
    ((12, 1), (530, 30, 2)),
    ((12, 2), (535, 54, 3)),
    ((12, 3), (545, 23, 6)),
    ((12, 4), (550, 54, 14)),
    ((12, 5), (555, 42, 2)),
    ((12, 6), (560, 28, 3)),
    ((12, 8), (570, 26)),
    ((12, 9), (575, 51, 3)),
    ((13, 0), (580, 65, 6)),
)
"""
The oldest Linux driver of each CUDA release, oldest first.

Source: NVIDIA, CUDA Toolkit Release Notes, "CUDA Toolkit and Corresponding Driver Versions", the
general-availability rows.
"""
MINOR_COMPATIBLE_SINCE: Final = 11
"""From this major release on, a program runs on the driver of any release of the same major one
(NVIDIA, CUDA Compatibility, "Minor Version Compatibility")."""

ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv8": "arm64",
    "arm64v8": "arm64",
}
"""What kernels and people say, as images say it."""


def name_architecture(text: str) -> str:
    """Name a processor architecture as images do: `amd64`, `arm64`, or what it says itself."""
    name = text.strip().lower()
    return ARCHITECTURES.get(name, name)[:32]


def parse_driver(text: str) -> DriverVersion:
    """Read `550.54.14`; what is no such version is no version."""
    parts = text.strip().split(".")
    is_version = 0 < len(parts) <= _DRIVER_PARTS_MAX and all(
        part.isascii() and part.isdecimal() and len(part) <= _DRIVER_DIGITS_MAX for part in parts
    )
    return tuple(int(part) for part in parts) if is_version else ()


def find_driver(cuda: Version) -> DriverVersion:
    """Return the oldest driver that has a CUDA release, or none where the table has none."""
    return next((driver for release, driver in CUDA_DRIVERS if release >= cuda), ())


def find_cuda_for_driver(driver: DriverVersion) -> Version:
    """Return the oldest CUDA release whose driver is at least this one: what asks for it asks."""
    return next((release for release, least in CUDA_DRIVERS if least >= driver), NONE)


def find_cuda(device: Device) -> Version:
    """Return the newest CUDA that a device runs: what it says, at most what its driver can."""
    driver = parse_driver(device.driver)
    if device.vendor != "nvidia" or not driver:
        return device.cuda
    least = dict(CUDA_DRIVERS).get(device.cuda)
    if device.cuda != NONE and (least is None or least <= driver):
        return device.cuda
    return max((release for release, oldest in CUDA_DRIVERS if oldest <= driver), default=NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """One question to one device: whether it fits, and how to say need, have and what to do."""

    name: str
    fits: Callable[[Device, DeviceNeed], bool]
    need: Callable[[DeviceNeed], str]
    have: Callable[[Device], str]
    change: Callable[[Device, DeviceNeed], str]
    """The smallest change that would let it in."""
    key: Callable[[Device], int] = lambda device: 0
    """The smaller, the nearer to fitting."""


def _fits_vendor(device: Device, need: DeviceNeed) -> bool:
    return device.vendor == need.vendor or (need.vendor == "any" and device.vendor != "cpu")


def _describe_cuda_need(need: DeviceNeed) -> str:
    driver = find_driver(need.cuda_min)
    least = f" (driver {_join(driver)} or newer)" if driver else ""
    return f"CUDA {_join(need.cuda_min)}{least}" if need.cuda_min != NONE else "any"


def _describe_cuda(device: Device) -> str:
    cuda, driver = find_cuda(device), parse_driver(device.driver)
    said = f" (driver {_join(driver)})" if driver else ""
    return f"CUDA {_join(cuda)}{said}" if cuda != NONE else "no CUDA"


def _change_cuda(device: Device, need: DeviceNeed) -> str:
    if device.vendor != "nvidia":
        return "a device of nvidia"
    has, driver = find_cuda(device), find_driver(need.cuda_min)
    image = f"an image built for CUDA {_join(has)}" if has != NONE else ""
    update = f"driver {_join(driver)}" if driver else ""
    return " or ".join(filter(None, (image, update))) or "another device"


def _rank(version: Version) -> int:
    return version[0] * 1_000 + version[1]


DEVICE_RULES: Final = (
    DeviceRule(
        name="vendor",
        fits=_fits_vendor,
        need=lambda need: need.vendor,
        have=lambda device: device.vendor,
        change=lambda device, need: f"an image built for {device.vendor}",
    ),
    DeviceRule(
        name="compute_capability",
        fits=lambda device, need: device.compute_capability >= need.compute_capability_min,
        need=lambda need: _join(need.compute_capability_min),
        have=lambda device: _join(device.compute_capability),
        change=lambda device, need: (
            f"a program built for compute capability {_join(device.compute_capability)}"
        ),
        key=lambda device: -_rank(device.compute_capability),
    ),
    DeviceRule(
        name="cuda",
        fits=lambda device, need: need.cuda_min == NONE or find_cuda(device) >= need.cuda_min,
        need=_describe_cuda_need,
        have=_describe_cuda,
        change=_change_cuda,
        key=lambda device: -_rank(find_cuda(device)),
    ),
)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a program cannot run here: which rule, what it needs, what is here, what would do."""

    rule: str
    need: str
    have: str
    change: str


def find_device_misfit(devices: Iterable[Device], need: DeviceNeed) -> Misfit | None:
    """
    Return the rule at which the last of some devices falls, or None where one fits them all.

    The device that gets furthest speaks: it is the nearest to fitting.
    """
    best: tuple[int, Misfit] | None = None
    for device in devices:
        for place, rule in enumerate(DEVICE_RULES):
            if rule.fits(device, need):
                continue
            if best is None or place > best[0]:
                misfit = Misfit(
                    rule.name, rule.need(need), rule.have(device), rule.change(device, need)
                )
                best = (place, misfit)
            break
        else:
            return None
    return best[1] if best else None


def find_architecture_misfit(need: str, have: str) -> Misfit | None:
    """Return why a machine cannot run an image of an architecture; no need is any machine."""
    if not need or need == have:
        return None
    change = f"an image built for {have}" if have else "a node that says what its processor is"
    return Misfit("architecture", need, have or "not said", change)


def _join(version: DriverVersion) -> str:
    # Drivers write their last part with two digits.
    major, *rest = version
    return ".".join([str(major), *(str(part) for part in rest[:1]), *(f"{p:02}" for p in rest[1:])])
