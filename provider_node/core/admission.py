"""
Admission: whether to take a lease, or the first reason why not, with what was needed and had.

First come the signatures and what they bind: the coordinator's on the lease, the requester's on
the order, the order's on the job. Then what the terms allow, then what is free right now. Last,
with the chain's answer, whether the money is there and cannot leave before we are paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpumarket.protocol.compatibility import (
    DEVICE_RULES,
    Misfit,
    find_architecture_misfit,
    find_device_misfit,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.gpu import Device, DeviceNeed, normalize_model
from gpumarket.protocol.ids import ZERO_ADDRESS, Hash32, format_hex
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.lease import LeaseOffer, compute_lease_id, make_assignment
from gpumarket.protocol.order import Order, check_order_fits
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import Amount, Timestamp, format_money, format_size
from provider_node.core.state import (
    ACTIVE,
    CLAIMED,
    LEASES_MAX,
    Phase,
    Proposal,
    ProviderState,
)
from provider_node.core.terms import Terms

OUTPUTS_MAX = 1
"""Output folders of one task that the sandbox can give it."""
SETTLE_SECONDS_MIN = 60
"""Between the lease's deadline and `settleBy`, for checking and posting; and from then to the
order's end, for settling without the coordinator."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The lease is taken, on these devices."""

    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The lease is declined: which reason, what it needs, what is here."""

    code: str
    need: str
    have: str


def check_admission(
    proposal: Proposal, state: ProviderState, *, now: Timestamp
) -> Accepted | Refused:
    """Decide on a proposed lease that is not known yet, by all but its money."""
    lease = proposal.lease.body
    refused = (
        _check_signatures(proposal, state.terms, now=now)
        or _check_trust(lease.order.body, state)
        or _check_terms(lease, state.terms, now=now)
        or _check_room(lease, state, disk_free_bytes=proposal.disk_free_bytes)
    )
    if refused is not None:
        return refused
    devices = _choose_devices(lease.job.resources.devices, state)
    return devices if isinstance(devices, Refused) else Accepted(devices)


def find_fitting_devices(devices: Sequence[Device], need: DeviceNeed) -> tuple[int, ...]:
    """Return the indexes of the devices that satisfy every bound of a need but its count."""
    models = {normalize_model(model) for model in need.models}
    return tuple(
        index
        for index, device in enumerate(devices)
        if (not models or normalize_model(device.model) in models)
        and need.vram_bytes_min <= device.vram_bytes <= need.vram_bytes_max
        and all(rule.fits(device, need) for rule in DEVICE_RULES)
    )


# ---- who promised what ---------------------------------------------------------------------


def _check_signatures(proposal: Proposal, terms: Terms, *, now: Timestamp) -> Refused | None:
    signed, assignment = proposal.lease, proposal.assignment
    lease, order = signed.body, signed.body.order
    try:
        verify(signed, terms.domain)
        verify(order, terms.domain)
        verify(assignment, terms.domain)
    except RemoteProtocolError as error:
        return Refused("signature", "signatures that are good on this chain", error.message[:200])
    order_hash = order.body.compute_struct_hash()
    for code, needed, had in (
        ("sender", proposal.coordinator, signed.signer),
        ("assignment", signed.signer, assignment.signer),
        ("coordinator", order.body.coordinator, signed.signer),
        ("requester", order.body.requester, order.signer),
        ("provider", terms.provider, lease.provider),
        ("lease_id", compute_lease_id(order_hash, lease.unit, lease.attempt), lease.lease_id),
    ):
        if needed != had:
            return Refused(code, format_hex(needed), format_hex(had))
    if assignment.body != make_assignment(lease):
        return Refused("assignment", "an assignment of this lease", "one of another")
    if order.body.provider not in (ZERO_ADDRESS, terms.provider):
        return Refused("provider", format_hex(order.body.provider), format_hex(terms.provider))
    try:
        check_order_fits(order.body, lease.job, now=now)
    except InvalidInput as error:
        return Refused("order", "an order that is about this job and in time", error.message[:200])
    return None


def _check_trust(order: Order, state: ProviderState) -> Refused | None:
    if order.coordinator in state.distrusted:
        return Refused(
            "GM-8006", "a coordinator that was not caught", format_hex(order.coordinator)
        )
    return None


# ---- what we sell --------------------------------------------------------------------------


def _check_terms(lease: LeaseOffer, terms: Terms, *, now: Timestamp) -> Refused | None:
    rules: tuple[Callable[[], Refused | None], ...] = (
        lambda: _check_times(lease, now=now),
        lambda: _check_order_times(lease.order.body, terms, deadline=lease.deadline, now=now),
        lambda: _check_price(lease, terms),
        lambda: _check_place(lease.job, terms),
        lambda: _check_size(lease.job, terms),
        lambda: _check_architecture(lease.job, terms),
        lambda: _check_devices(lease.job.resources.devices, terms),
    )
    return next((refused for rule in rules if (refused := rule()) is not None), None)


def _check_times(lease: LeaseOffer, *, now: Timestamp) -> Refused | None:
    if lease.unit >= lease.order.body.units:
        return Refused("unit", f"a task below {lease.order.body.units}", str(lease.unit))
    if lease.deadline <= now:
        return Refused("deadline", f"a deadline after {now}", str(lease.deadline))
    return None


def _check_order_times(order: Order, terms: Terms, *, deadline: int, now: int) -> Refused | None:
    """Escrow must not be able to leave before the order ends, nor the order before we are paid."""
    earliest = deadline + SETTLE_SECONDS_MIN
    if order.settle_by < earliest:
        return Refused("GM-1202", f"settleBy at {earliest} or later", str(order.settle_by))
    if order.expiry < order.settle_by + SETTLE_SECONDS_MIN:
        least = order.settle_by + SETTLE_SECONDS_MIN
        return Refused("GM-1202", f"an expiry at {least} or later", str(order.expiry))
    if order.expiry > now + terms.order_lifetime_seconds:
        longest = now + terms.order_lifetime_seconds
        return Refused("GM-1205", f"an expiry at {longest} or earlier", str(order.expiry))
    return None


def _check_price(lease: LeaseOffer, terms: Terms) -> Refused | None:
    if lease.price_per_device_hour < terms.price_per_device_hour:
        return Refused(
            "price",
            format_money(terms.price_per_device_hour),
            format_money(lease.price_per_device_hour),
        )
    if lease.price_max > lease.order.body.max_unit_price:
        # A receipt above the order's own cap could never be settled.
        return Refused(
            "price_cap",
            format_money(lease.price_max),
            format_money(lease.order.body.max_unit_price),
        )
    return None


def _check_place(job: JobSpec, terms: Terms) -> Refused | None:
    placement = job.placement
    if placement.isolation not in ("any", terms.isolation):
        return Refused("isolation", placement.isolation, terms.isolation)
    if placement.regions and terms.region not in placement.regions:
        return Refused("region", ",".join(placement.regions)[:200], terms.region)
    is_named = not placement.providers or terms.provider in placement.providers
    if not is_named or terms.provider in placement.excluded_providers:
        return Refused("excluded", "a provider that the job allows", format_hex(terms.provider))
    if len(job.outputs) > OUTPUTS_MAX:
        return Refused("outputs", f"{len(job.outputs)} output folders", str(OUTPUTS_MAX))
    return None


def _check_size(job: JobSpec, terms: Terms) -> Refused | None:
    resources = job.resources
    for code, need, have in (
        ("memory", resources.memory_bytes, terms.memory_bytes),
        ("disk", compute_disk_need(job), terms.disk_bytes),
    ):
        if need > have:
            return Refused(code, format_size(need), format_size(have))
    if resources.cpus > terms.cpus:
        return Refused("cpus", str(resources.cpus), str(terms.cpus))
    return None


def _check_architecture(job: JobSpec, terms: Terms) -> Refused | None:
    have = terms.machine.architecture if terms.machine else ""
    misfit = find_architecture_misfit(job.resources.architecture or "", have)
    return None if misfit is None else _refuse_misfit(misfit)


def _refuse_misfit(misfit: Misfit) -> Refused:
    return Refused(misfit.rule, misfit.need[:200], f"{misfit.have}; try {misfit.change}"[:200])


def _check_devices(need: DeviceNeed, terms: Terms) -> Refused | None:
    fitting = find_fitting_devices(terms.devices, need)
    if len(fitting) >= need.count:
        return None
    misfit = find_device_misfit(terms.devices, need)
    if misfit is not None:
        return _refuse_misfit(misfit)
    return Refused("devices", describe_need(need), ", ".join(_describe(terms.devices))[:200])


# ---- what is free --------------------------------------------------------------------------


def _check_room(lease: LeaseOffer, state: ProviderState, *, disk_free_bytes: int) -> Refused | None:
    active, resources, terms = state.find_active(), lease.job.resources, state.terms
    order_hash = lease.order.body.compute_struct_hash()
    if _is_claimed(state, order_hash, lease.unit):
        return Refused("duplicate", "a task we do not have yet", f"task {lease.unit} is here")
    if len(state.leases) >= LEASES_MAX:
        return Refused("leases", f"under {LEASES_MAX} remembered leases", str(len(state.leases)))
    if len(active) >= terms.slots:
        return Refused("slots", "a free slot", f"{len(active)} of {terms.slots} in use")
    memory = sum(other.offer.job.resources.memory_bytes for other in active)
    if memory + resources.memory_bytes > terms.memory_bytes:
        free = max(0, terms.memory_bytes - memory)
        return Refused("memory", format_size(resources.memory_bytes), format_size(free))
    cpus = sum(other.offer.job.resources.cpus for other in active)
    if cpus + resources.cpus > terms.cpus:
        return Refused("cpus", str(resources.cpus), str(max(0, terms.cpus - cpus)))
    if compute_disk_need(lease.job) > disk_free_bytes:
        return Refused(
            "disk", format_size(compute_disk_need(lease.job)), format_size(disk_free_bytes)
        )
    return None


def _choose_devices(need: DeviceNeed, state: ProviderState) -> tuple[int, ...] | Refused:
    free = set(state.find_free_devices())
    fitting = [index for index in find_fitting_devices(state.terms.devices, need) if index in free]
    for group in _group_devices(fitting, state.terms.devices, same_model=need.same_model):
        if len(group) >= need.count:
            return tuple(group[: need.count])
    return Refused("devices_busy", describe_need(need), f"{len(fitting)} such devices free")


def _group_devices(
    indexes: list[int], devices: Sequence[Device], *, same_model: bool
) -> Iterator[list[int]]:
    if not same_model or not indexes:
        yield indexes
        return
    for model in dict.fromkeys(devices[index].model for index in indexes):
        yield [index for index in indexes if devices[index].model == model]


def _is_claimed(state: ProviderState, order_hash: Hash32, unit: int) -> bool:
    return any(
        lease.offer.unit == unit
        and lease.phase in ACTIVE | CLAIMED | {Phase.PAID}
        and lease.offer.order.body.compute_struct_hash() == order_hash
        for lease in state.leases.values()
    )


# ---- what pays for it ----------------------------------------------------------------------


def check_funds(proposal: Proposal, state: ProviderState, *, now: Timestamp) -> Refused | None:
    """Decide on the money behind a lease; a reading of the chain must be there."""
    order, funds = proposal.lease.body.order.body, state.find_funds(proposal, now)
    if funds is None:
        return Refused("GM-3001", "a fresh reading of the chain", "none")
    if funds.bond < state.terms.bond_min:
        need, have = format_money(state.terms.bond_min), format_money(funds.bond)
        return Refused("GM-3014", f"a coordinator's bond of {need}", have)
    exposure = _compute_exposure(order, state)
    if funds.escrow < exposure:
        return Refused("GM-3011", format_money(exposure), format_money(funds.escrow))
    return None


def _compute_exposure(order: Order, state: ProviderState) -> Amount:
    """What this order, and the requester's others that we work for, can cost at most."""
    orders = {order.compute_struct_hash(): order.compute_exposure()}
    for lease in state.leases.values():
        other = lease.offer.order.body
        # Once accepted the coordinator owes it, and counts it against the escrow itself.
        if other.requester == order.requester and lease.phase in ACTIVE | CLAIMED:
            orders[other.compute_struct_hash()] = other.compute_exposure()
    return Amount(sum(orders.values()))


def compute_disk_need(job: JobSpec) -> int:
    """Return the bytes a unit may take on our disk: image, inputs, outputs and scratch."""
    return (
        job.image.archive_bytes
        + sum(given.size_bytes for given in job.inputs)
        + sum(output.bytes_max for output in job.outputs)
        + job.resources.disk_bytes
    )


def describe_need(need: DeviceNeed) -> str:
    """Say in a few words which devices a task needs."""
    models = "/".join(need.models) or need.vendor
    memory = f" with {format_size(need.vram_bytes_min)}" if need.vram_bytes_min else ""
    return f"{need.count} x {models}{memory}"[:200]


def _describe(devices: Sequence[Device]) -> Iterator[str]:
    for device in devices:
        yield (
            f"{device.model} {format_size(device.vram_bytes)}"
            if device.vram_bytes
            else (device.model)
        )
