"""
The constraints of matching: every reason why a provider cannot run a task of a job.

They stand in one fixed order; a provider falls at the first that it does not meet. Most can
say how far off it is, from which `matching.py` finds the smallest relaxation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpumarket.protocol.compatibility import (
    DEVICE_RULES,
    DeviceRule,
    Misfit,
    find_architecture_misfit,
)
from gpumarket.protocol.gpu import Device, normalize_model
from gpumarket.protocol.ids import ZERO_ADDRESS, Address
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.offer import Offer, is_simulated
from gpumarket.protocol.order import Order
from gpumarket.protocol.units import Amount, ShareInPpm, format_amount, format_size

Devices = tuple[Device, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One provider that is online, as matching sees it."""

    offer: Offer
    reputation_ppm: ShareInPpm
    stake: Amount
    slots_free: int
    running: int
    devices_busy: int = 0
    failed: Devices = ()
    """Offered devices that failed their last hardware challenge."""
    is_being_checked: bool = False
    """Whether it gets nothing for now, because its devices are to be challenged."""

    @property
    def provider(self) -> Address:
        """The provider's address."""
        return self.offer.provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a job asks of a provider."""

    spec: JobSpec
    order: Order
    allows_simulated: bool
    excluded: frozenset[Address] = frozenset()
    """Providers that failed this job or this task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What a provider has where it falls short: the smaller the key, the nearer."""

    key: int
    have: str
    change: str = ""
    """What would let it in, where that is not plain from what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One reason to say no. `keep` returns the devices still in play, or None for no."""

    name: str
    keep: Callable[[Demand, Candidate, Devices], Devices | None]
    need: Callable[[Demand], str]
    gap: Callable[[Demand, Candidate, Devices], Gap | None] = lambda *_: None
    """How far off a provider is whose only obstacle this is, by the devices left to it."""
    is_about_devices: bool = False

    def describe(self, demand: Demand) -> str:
        """Say what is asked, in a few characters."""
        is_asked = demand.spec.resources.devices.count or not self.is_about_devices
        return self.need(demand) if is_asked else "any"


# ---- devices -------------------------------------------------------------------------------


def _keep_model(demand: Demand, candidate: Candidate, devices: Devices) -> Devices | None:
    need = demand.spec.resources.devices
    models = {normalize_model(model) for model in need.models}
    kept = tuple(
        device for device in devices if not models or normalize_model(device.model) in models
    )
    return kept or None


def _keep_vram(demand: Demand, candidate: Candidate, devices: Devices) -> Devices | None:
    need = demand.spec.resources.devices
    return (
        tuple(d for d in devices if need.vram_bytes_min <= d.vram_bytes <= need.vram_bytes_max)
        or None
    )


def _keep_count(demand: Demand, candidate: Candidate, devices: Devices) -> Devices | None:
    return (
        devices if _count_usable(demand, devices) >= demand.spec.resources.devices.count else None
    )


def _keep_fitting(
    rule: DeviceRule,
) -> Callable[[Demand, Candidate, Devices], Devices | None]:
    def keep(demand: Demand, candidate: Candidate, devices: Devices) -> Devices | None:
        need = demand.spec.resources.devices
        kept = tuple(device for device in devices if rule.fits(device, need))
        # Too few devices to begin with is the fall of `count`, not of this.
        wanted = min(need.count, _count_usable(demand, devices))
        return kept if kept and _count_usable(demand, kept) >= wanted else None

    return keep


def _count_usable(demand: Demand, devices: Devices) -> int:
    if not demand.spec.resources.devices.same_model:
        return len(devices)
    models = [normalize_model(device.model) for device in devices]
    return max((models.count(model) for model in models), default=0)


def _for_devices(
    keep: Callable[[Demand, Candidate, Devices], Devices | None],
) -> Callable[[Demand, Candidate, Devices], Devices | None]:
    def keep_unless_none_are_asked(
        demand: Demand, candidate: Candidate, devices: Devices
    ) -> Devices | None:
        # A task without devices of its own runs anywhere, whatever the machine sells.
        return keep(demand, candidate, devices) if demand.spec.resources.devices.count else devices

    return keep_unless_none_are_asked


def _keep_proven(demand: Demand, candidate: Candidate, devices: Devices) -> Devices | None:
    need = demand.spec.resources.devices
    if not need.count:
        return devices if len(candidate.failed) < len(candidate.offer.devices) else None
    # By number and not by name: of two equal devices one may have failed.
    failed = list(candidate.failed)
    kept = tuple(device for device in devices if not _take_out(failed, device))
    wanted = min(need.count, _count_usable(demand, devices))
    return kept if _count_usable(demand, kept) >= wanted else None


def _take_out(devices: list[Device], device: Device) -> bool:
    if device not in devices:
        return False
    devices.remove(device)
    return True


def _find_model_gap(demand: Demand, candidate: Candidate, devices: Devices) -> Gap | None:
    models = sorted({device.model for device in devices if device.vendor != "cpu"})
    return Gap(key=0, have="/".join(models)) if models else None


def _find_vram_gap(demand: Demand, candidate: Candidate, devices: Devices) -> Gap | None:
    need = demand.spec.resources.devices
    sizes = sorted((device.vram_bytes for device in devices), reverse=True)
    if len(sizes) < need.count:
        return None
    best = sizes[need.count - 1]
    return None if best > need.vram_bytes_max else Gap(key=-best, have=format_size(best))


def _find_count_gap(demand: Demand, candidate: Candidate, devices: Devices) -> Gap | None:
    count = _count_usable(demand, devices)
    return Gap(key=-count, have=str(count)) if count else None


def _find_fitting_gap(
    rule: DeviceRule,
) -> Callable[[Demand, Candidate, Devices], Gap | None]:
    def find(demand: Demand, candidate: Candidate, devices: Devices) -> Gap | None:
        need = demand.spec.resources.devices
        nearest = sorted((rule.key(device), index) for index, device in enumerate(devices))
        if not need.count or len(nearest) < need.count:
            return None
        key, index = nearest[need.count - 1]
        device = devices[index]
        return Gap(key=key, have=rule.have(device), change=rule.change(device, need))

    return find


def _has_architecture(demand: Demand, candidate: Candidate) -> bool:
    return _find_architecture_misfit(demand, candidate) is None


def _find_architecture_gap(demand: Demand, candidate: Candidate, devices: Devices) -> Gap | None:
    misfit = _find_architecture_misfit(demand, candidate)
    return None if misfit is None else Gap(key=0, have=misfit.have, change=misfit.change)


def _find_architecture_misfit(demand: Demand, candidate: Candidate) -> Misfit | None:
    machine = candidate.offer.machine
    need = demand.spec.resources.architecture or ""
    return find_architecture_misfit(need, machine.architecture if machine else "")


# ---- machine, money, place, trust ----------------------------------------------------------


def _has_machine(demand: Demand, candidate: Candidate) -> bool:
    need, offer = demand.spec.resources, candidate.offer
    return (
        need.cpus <= offer.cpus
        and need.memory_bytes <= offer.memory_bytes
        and need.disk_bytes <= offer.disk_bytes
    )


def _has_price(demand: Demand, candidate: Candidate) -> bool:
    return candidate.offer.price_per_device_hour <= demand.spec.placement.price_per_device_hour_max


def _has_region(demand: Demand, candidate: Candidate) -> bool:
    regions = demand.spec.placement.regions
    return not regions or candidate.offer.region in regions


def _has_isolation(demand: Demand, candidate: Candidate) -> bool:
    return demand.spec.placement.isolation in ("any", candidate.offer.isolation)


def _has_reputation(demand: Demand, candidate: Candidate) -> bool:
    return candidate.reputation_ppm >= demand.spec.placement.reputation_min_ppm


def _has_stake(demand: Demand, candidate: Candidate) -> bool:
    return candidate.stake >= demand.spec.placement.stake_min


def _is_wanted(demand: Demand, candidate: Candidate) -> bool:
    placement, provider = demand.spec.placement, candidate.provider
    return (
        demand.order.provider in (ZERO_ADDRESS, provider)
        and (not placement.providers or provider in placement.providers)
        and provider not in placement.excluded_providers
        and provider not in demand.excluded
    )


def _is_real_enough(demand: Demand, candidate: Candidate) -> bool:
    return demand.allows_simulated or not is_simulated(candidate.offer)


def _is_free(demand: Demand, candidate: Candidate) -> bool:
    count, devices = demand.spec.resources.devices.count, candidate.offer.devices
    return (
        candidate.slots_free > 0
        and not candidate.is_being_checked
        and (count == 0 or candidate.devices_busy + count <= len(devices))
    )


def _on_provider(
    test: Callable[[Demand, Candidate], bool],
) -> Callable[[Demand, Candidate, Devices], Devices | None]:
    return lambda demand, candidate, devices: devices if test(demand, candidate) else None


def _describe_model(demand: Demand) -> str:
    return "/".join(demand.spec.resources.devices.models) or "any"


def _describe_machine(demand: Demand) -> str:
    need = demand.spec.resources
    return (
        f"{need.cpus} cpus, {format_size(need.memory_bytes)} memory, "
        f"{format_size(need.disk_bytes)} disk"
    )


def _make_device_constraint(rule: DeviceRule) -> Constraint:
    return Constraint(
        name=rule.name,
        is_about_devices=True,
        keep=_for_devices(_keep_fitting(rule)),
        need=lambda demand: rule.need(demand.spec.resources.devices),
        gap=_find_fitting_gap(rule),
    )


CONSTRAINTS: tuple[Constraint, ...] = (
    _make_device_constraint(DEVICE_RULES[0]),
    Constraint(
        name="model",
        is_about_devices=True,
        keep=_for_devices(_keep_model),
        need=_describe_model,
        gap=_find_model_gap,
    ),
    Constraint(
        name="vram",
        is_about_devices=True,
        keep=_for_devices(_keep_vram),
        need=lambda demand: format_size(demand.spec.resources.devices.vram_bytes_min),
        gap=_find_vram_gap,
    ),
    Constraint(
        name="count",
        is_about_devices=True,
        keep=_for_devices(_keep_count),
        need=lambda demand: str(demand.spec.resources.devices.count),
        gap=_find_count_gap,
    ),
    *map(_make_device_constraint, DEVICE_RULES[1:]),
    Constraint(
        name="architecture",
        keep=_on_provider(_has_architecture),
        need=lambda demand: demand.spec.resources.architecture or "any",
        gap=_find_architecture_gap,
    ),
    Constraint(name="hardware", keep=_keep_proven, need=lambda demand: "challenge passed"),
    Constraint(name="machine", keep=_on_provider(_has_machine), need=_describe_machine),
    Constraint(
        name="price",
        keep=_on_provider(_has_price),
        need=lambda demand: _format_price(demand.spec.placement.price_per_device_hour_max),
        gap=lambda demand, candidate, devices: Gap(
            key=candidate.offer.price_per_device_hour,
            have=_format_price(candidate.offer.price_per_device_hour),
        ),
    ),
    Constraint(
        name="region",
        keep=_on_provider(_has_region),
        need=lambda demand: "/".join(demand.spec.placement.regions) or "any",
        gap=lambda demand, candidate, devices: Gap(key=0, have=candidate.offer.region),
    ),
    Constraint(
        name="isolation",
        keep=_on_provider(_has_isolation),
        need=lambda demand: demand.spec.placement.isolation,
        gap=lambda demand, candidate, devices: Gap(key=0, have=candidate.offer.isolation),
    ),
    Constraint(
        name="reputation",
        keep=_on_provider(_has_reputation),
        need=lambda demand: _format_share(demand.spec.placement.reputation_min_ppm),
        gap=lambda demand, candidate, devices: Gap(
            key=-candidate.reputation_ppm, have=_format_share(candidate.reputation_ppm)
        ),
    ),
    Constraint(
        name="stake",
        keep=_on_provider(_has_stake),
        need=lambda demand: format_amount(demand.spec.placement.stake_min),
        gap=lambda demand, candidate, devices: Gap(
            key=-candidate.stake, have=format_amount(candidate.stake)
        ),
    ),
    Constraint(name="excluded", keep=_on_provider(_is_wanted), need=lambda demand: ""),
    Constraint(
        name="simulated",
        keep=_on_provider(_is_real_enough),
        need=lambda demand: "any" if demand.allows_simulated else "real devices",
    ),
    Constraint(name="free_slot", keep=_on_provider(_is_free), need=lambda demand: ""),
)
"""In the order in which providers fall; the last one is about now, all others are for good."""
LASTING = CONSTRAINTS[:-1]
"""Constraints that waiting does not lift."""


def _format_price(amount: int) -> str:
    # The default limit means none; its digits would say nothing.
    return "any" if amount >= 2**63 - 1 else format_amount(amount)


def _format_share(share_ppm: int) -> str:
    return f"{share_ppm // 1_000 / 1_000:.3f}"
