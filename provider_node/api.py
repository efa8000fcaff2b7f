"""What the node tells its owner: where it stands and why it has no work, and its metrics."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter

from gpumarket.adapters.metrics import Metrics
from gpumarket.protocol.ids import format_hex, make_job_id
from gpumarket.protocol.units import (
    BASE_UNITS_PER_TOKEN,
    TOKEN_DECIMALS,
    TOKEN_SYMBOL,
    Timestamp,
    format_amount,
)
from provider_node.core.hours import HOURS_PER_DAY, IDLE, SECONDS_PER_HOUR
from provider_node.core.state import ACTIVE, Lease, Phase, ProviderState

ACCEPTED = "accepted"
URL_FILE = "api.url"
"""In the data folder: where the running node answers its owner."""


def render_status(state: ProviderState, *, peer_id: str, now: Timestamp) -> str:
    """Write the node's whole state for display."""
    return json.dumps(describe_status(state, peer_id=peer_id, now=now))


def render_idleness(state: ProviderState, *, now: Timestamp) -> str:
    """Write why leases were not taken, from what was counted."""
    return json.dumps(describe_idleness(state, now=now))


def describe_status(state: ProviderState, *, peer_id: str, now: Timestamp) -> dict[str, Any]:
    """Describe the node, its devices, leases and money."""
    terms, leases = state.terms, list(state.leases.values())
    return {
        "provider": format_hex(terms.provider),
        "peer_id": peer_id,
        "is_ready": bool(state.connected),
        "coordinators": [
            {"address": format_hex(address), "since": _format_time(since)}
            for address, since in state.connected.items()
        ],
        "slots": {"total": terms.slots, "used": len(state.find_active())},
        "price_per_device_hour": _format_money(terms.price_per_device_hour),
        "devices": [_describe_device(state, index, now) for index in range(len(terms.devices))],
        "running": [_describe_lease(lease) for lease in leases if lease.phase in ACTIVE],
        "leases": {phase.value: sum(lease.phase is phase for lease in leases) for phase in Phase},
        "outcomes": state.tally.outcomes,
        "money": {
            "earned": _format_money(state.tally.earned),
            "unpaid": _format_money(state.tally.unpaid),
            "in_checking": _format_money(_sum_open(leases)),
        },
        "time": _format_time(now),
    }


def describe_idleness(state: ProviderState, *, now: Timestamp) -> dict[str, Any]:
    """Describe what was proposed in the last day and at which reason it ended."""
    reasons: dict[str, int] = {}
    today = now // SECONDS_PER_HOUR - HOURS_PER_DAY
    hours = {hour: counts for hour, counts in state.tally.hours.items() if hour > today}
    for counts in hours.values():
        for reason, count in counts.items():
            reasons[reason] = reasons.get(reason, 0) + count
    accepted = reasons.pop(ACCEPTED, 0)
    free = len(state.find_free_devices())
    return {
        "hours": len(hours),
        "seen": accepted + sum(reasons.values()),
        "declined": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "ran": accepted,
        "is_idle": not state.find_active(),
        "free_devices": free,
        "coordinators": len(state.connected),
        "because": _explain_idleness(state, accepted, reasons),
        "time": _format_time(now),
    }


def _explain_idleness(state: ProviderState, accepted: int, reasons: dict[str, int]) -> str:
    active = len(state.find_active())
    if active:
        return f"not idle: {active} of {state.terms.slots} slots are in use"
    if not state.connected:
        return "no coordinator is connected, so nobody can propose anything"
    if not accepted and not reasons:
        return (
            "no coordinator has proposed anything: no order fits the offer, or others were chosen"
        )
    if not reasons:
        return "everything that was proposed was taken and is over"
    most = max(reasons, key=lambda reason: reasons[reason])
    return f"most proposals were declined for {most} ({reasons[most]} of {sum(reasons.values())})"


def _describe_device(state: ProviderState, index: int, now: Timestamp) -> dict[str, Any]:
    device, ledger = state.terms.devices[index], state.ledger
    use = ledger.uses[index] if index < len(ledger.uses) else IDLE
    seconds = dict(ledger.totals[index]) if index < len(ledger.totals) else {}
    # Counted up to the last event; the present use goes on since.
    seconds[use] = seconds.get(use, 0) + max(0, now - (ledger.counted_to or now))
    return {
        "index": index,
        "vendor": device.vendor,
        "model": device.model,
        "vram_bytes": device.vram_bytes,
        "simulated": device.simulated,
        "use": use,
        "seconds": seconds,
    }


def _describe_lease(lease: Lease) -> dict[str, Any]:
    progress = lease.progress
    return {
        "lease": format_hex(lease.lease_id),
        "job": make_job_id(lease.offer.order.body.compute_struct_hash()),
        "name": lease.offer.job.name,
        "task": lease.offer.unit,
        "tasks": lease.offer.job.units,
        "phase": lease.phase.value,
        "since": _format_time(lease.phase_at),
        "devices": list(lease.devices),
        "progress": {"done": progress.done, "total": progress.total, "line": progress.line},
    }


def _sum_open(leases: list[Lease]) -> int:
    claimed = (Phase.FINISHED, Phase.ROOTED, Phase.OPENED)
    return sum(lease.get_receipt().price for lease in leases if lease.phase in claimed)


def _format_money(amount: int) -> dict[str, Any]:
    return {
        "amount": format_amount(amount),
        "token": TOKEN_SYMBOL,
        "base": str(amount),
        "decimals": TOKEN_DECIMALS,
    }


def _format_time(at: Timestamp) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Figures:
    """The node's metrics, brought up to the state whenever they are read."""

    def __init__(self) -> None:
        self.metrics = metrics = Metrics("provider")
        self._ready = metrics.gauge("gpumarket_node_ready", "1 while a coordinator is joined.")
        self._running = metrics.gauge("gpumarket_leases_active", "Leases that take a slot.")
        self._head_age = metrics.gauge(
            "gpumarket_chain_head_age_seconds", "Age of the newest block seen."
        )
        self._declined = metrics.counter(
            "gpumarket_orders_declined_total", "Leases declined, by reason.", ("reason",)
        )
        self._jobs = metrics.counter(
            "gpumarket_jobs_total", "Leases ended, by outcome and fault.", ("outcome", "fault")
        )
        self._gpu_time = metrics.counter(
            "gpumarket_gpu_time_seconds_total",
            "Time of each device, each second in one state.",
            ("gpu", "state"),
        )
        self._earnings = metrics.counter(
            "gpumarket_earnings_tokens_total", "Receipts ended, by state.", ("token", "state")
        )
        self._phases = metrics.histogram(
            "gpumarket_job_phase_duration_seconds", "Time of a unit in a phase.", ("phase",)
        )
        self._shown: dict[tuple[str, ...], float] = {}
        self._head_at: int | None = None

    def note_phase(self, phase: str, seconds: float) -> None:
        """Note how long one phase of a unit took."""
        self._phases.labels(phase=phase).observe(seconds)

    def note_head(self, block_at: int) -> None:
        """Note the time of the newest block."""
        self._head_at = block_at

    def render(self, state: ProviderState, now: Timestamp) -> str:
        """Write all metrics in Prometheus' text format."""
        self._ready.set(1 if state.connected else 0)
        self._running.set(len(state.find_active()))
        if self._head_at is not None:
            self._head_age.set(max(0, now - self._head_at))
        tally = state.tally
        for reason, count in tally.declined.items():
            self._raise(self._declined, count, reason)
        for outcome, faults in tally.outcomes.items():
            for fault, count in faults.items():
                self._raise(self._jobs, count, outcome, fault)
        for index, seconds in enumerate(state.ledger.totals):
            for use, count in seconds.items():
                self._raise(self._gpu_time, count, str(index), use)
        for name, amount in (("accepted", tally.earned), ("unpaid", tally.unpaid)):
            self._raise(self._earnings, amount / BASE_UNITS_PER_TOKEN, TOKEN_SYMBOL, name)
        return self.metrics.render()

    def _raise(self, counter: Counter, total: float, *labels: str) -> None:
        """Bring a counter up to a total that the state keeps, which survives restarts."""
        key = (str(id(counter)), *labels)
        counter.labels(*labels).inc(max(0.0, total - self._shown.get(key, 0.0)))
        self._shown[key] = total
