"""What the API shows of the state: pure functions from state to JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UnsetType

from coordinator.api.answers import show_money, show_time
from coordinator.core.batching import list_posted
from coordinator.core.canaries import is_due, make_reveal
from coordinator.core.epoch_state import Epoch, Trial
from coordinator.core.hardware_checks import describe_hardware
from coordinator.core.lifecycle import EpochState, UnitState
from coordinator.core.matching import Funnel
from coordinator.core.order_book import get_reputation, is_online
from coordinator.core.reporting import describe_next
from coordinator.core.settling import compute_money
from coordinator.core.state import (
    BatchRecord,
    Job,
    LogEntry,
    Pause,
    Provider,
    State,
    Unit,
    Verifier,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.units import PPM

Json = dict[str, Any]


def show_job(state: State, job: Job) -> Json:
    """Show a job: where it stands, who acts next, where the money is."""
    batches = [_show_batch(record) for record in list_posted(state, job)]
    return {
        "id": job.job_id,
        "name": job.spec.name,
        "state": job.state.value,
        "reason": show_reason(job.reason),
        "order_hash": format_hex(job.order_hash),
        "job_hash": format_hex(job.order.body.job_hash),
        "requester": format_hex(job.order.body.requester),
        "units": count_units(job),
        "money": show_job_money(state, job),
        "next": show_next(state, job),
        "epochs": [show_epoch(state.epochs[n]) for n in job.epochs if n in state.epochs],
        "placements": list_placements(state, job),
        "created_at": show_time(job.created_at),
        "settled_at": show_time(job.ended_at),
        # All of them, and the first: nearly every job is in one batch only.
        "batches": batches,
        "batch": batches[0] if batches else None,
    }


def _show_batch(record: BatchRecord) -> Json:
    return {
        "seq": record.sequence,
        "tx": format_hex(record.tx or b""),
        "block": record.block,
    }


def count_units(job: Job) -> Json:
    """Count the tasks of a job by where they stand."""
    return {
        "total": len(job.units),
        "waiting": job.counts[UnitState.WAITING],
        "running": job.counts[UnitState.LEASED],
        "finished": job.counts[UnitState.FINISHED],
        "accepted": job.counts[UnitState.ACCEPTED],
        "retries": sum(max(0, unit.attempts - 1) for unit in job.units),
        "failed": sum(1 for unit in job.units if unit.failures and job.reason is not None),
    }


def show_job_money(state: State, job: Job) -> Json:
    """Show where the money is; `spent` before settlement is what accepted tasks will cost."""
    money = compute_money(state, job)
    is_moved = money.spent or job.is_over
    return {
        "limit": show_money(money.exposure),
        "locked": show_money(money.exposure if not job.is_over else money.spent + money.returned),
        "payable": show_money(money.payable),
        "checks": show_money(money.checks),
        "fee": show_money(money.fee),
        "spent": show_money(money.spent if is_moved else money.payable),
        "returned": show_money(money.returned),
    }


def _price(state: State, unit: Unit) -> int:
    lease = state.leases.get(unit.lease_id) if unit.lease_id else None
    return lease.receipt.body.price if lease and lease.receipt else 0


def show_next(state: State, job: Job) -> Json | None:
    """Say who must act next, what it will do, and until when."""
    if job.is_over:
        return None
    step = describe_next(state, job)
    return {
        "actor": step.actor,
        "what": step.what,
        "deadline": show_time(step.deadline),
        "code": step.code,
    }


def list_placements(state: State, job: Job) -> list[Json]:
    """Show which provider has which task, and what it charges."""
    rows = []
    for unit in job.units:
        lease = state.leases.get(unit.lease_id) if unit.lease_id else None
        if lease is not None:
            rows.append(
                {
                    "task": unit.index,
                    "provider": format_hex(lease.provider),
                    "attempt": lease.attempt,
                    "state": unit.state.value,
                    "price_per_device_hour": show_money(lease.price_per_device_hour),
                }
            )
    return rows


def list_tasks(state: State, job: Job) -> list[Json]:
    """Show each task with its present lease and its earlier failures."""
    return [_show_task(state, unit) for unit in job.units]


def _show_task(state: State, unit: Unit) -> Json:
    lease = state.leases.get(unit.lease_id) if unit.lease_id else None
    return {
        "task": unit.index,
        "state": unit.state.value,
        "attempts": unit.attempts,
        "provider": format_hex(lease.provider) if lease else None,
        "phase": lease.phase if lease and lease.state is LeaseState.ACTIVE else None,
        "progress": [lease.progress_done, lease.progress_total] if lease else None,
        "line": lease.line if lease else None,
        "duration_ms": lease.duration_ms if lease else None,
        "price": show_money(_price(state, unit)),
        "failures": [
            {
                "provider": format_hex(failure.provider),
                "reason": show_reason(failure.reason),
                "exit_code": failure.exit_code,
                "at": show_time(failure.at),
                "log_tail": failure.log_tail,
            }
            for failure in unit.failures
        ],
    }


def show_reason(reason: Reason | None) -> Json | None:
    """Show why something ended."""
    if reason is None:
        return None
    return {"code": reason.code, "text": reason.text, "fault": reason.fault}


def show_entry(entry: LogEntry) -> Json:
    """Show one log entry; entries about one task have a type that begins with `task.`."""
    return {
        "id": entry.sequence,
        "time": show_time(entry.at),
        "type": entry.type if entry.task is None else f"task.{entry.type}",
        "task": entry.task,
        "actor": format_hex(entry.actor) if entry.actor else None,
        "fault": entry.fault,
        "code": entry.code,
        "text": entry.text,
        "data": {},
    }


def show_pause(pause: Pause | None) -> Json | None:
    """Show why no batch is posted, or nothing."""
    if pause is None:
        return None
    return {"code": pause.code, "text": pause.text, "since": show_time(pause.since)}


def show_epoch(epoch: Epoch) -> Json:
    """Show an epoch: where it stands, its commitment, its seed, its checks."""
    return {
        "epoch": epoch.number,
        "state": epoch.state.value,
        "sequence": epoch.sequence,
        "commit_block": epoch.block or None,
        "seed_block": epoch.seed_block or None,
        "seed": format_hex(epoch.seed) if epoch.seed else None,
        "problem": epoch.problem,
        "checks": [
            {
                "task": check.unit,
                "provider": format_hex(check.provider),
                "verifier": format_hex(check.verifier) if check.verifier else None,
                "state": check.state.value,
                "verdict": check.verdict.name if check.verdict else None,
            }
            for check in epoch.checks.values()
        ],
        "trials": [_show_trial(trial) for trial in epoch.trials.values()],
    }


def _show_trial(trial: Trial) -> Json:
    return {
        "receipt": format_hex(trial.receipt_hash),
        "provider": format_hex(trial.provider),
        "case": trial.case or None,
        "state": trial.state.value,
        "outcome": trial.outcome.value,
        "level": trial.level,
        "jury": [format_hex(juror) for juror in trial.jury],
        "verdict": trial.verdict.name if trial.verdict else None,
        "problem": trial.problem,
    }


def show_provider(state: State, provider: Provider) -> Json:
    """Show a provider's offer and standing; devices are its own claims."""
    offer = provider.offer.body
    return {
        "provider": format_hex(offer.provider),
        "peer_id": offer.peer_id,
        "online": is_online(state, provider),
        "devices": [
            {
                "vendor": device.vendor,
                "model": device.model,
                "vram_bytes": device.vram_bytes,
                "simulated": device.simulated,
                "facts": show_claims(device.facts),
            }
            for device in offer.devices
        ],
        "machine": show_claims(offer.machine),
        "slots": offer.slots,
        "free_slots": max(0, offer.slots - len(provider.lease_ids)),
        "cpus": offer.cpus,
        "memory_bytes": offer.memory_bytes,
        "region": offer.region,
        "isolation": offer.isolation,
        "price_per_device_hour": show_money(offer.price_per_device_hour),
        "reputation": get_reputation(state, offer.provider) / PPM,
        "stake": show_money(provider.stake),
        "expires_at": show_time(offer.expires_at),
        "hardware": show_reason(describe_hardware(state, provider)),
    }


def show_claims(claims: msgspec.Struct | UnsetType) -> Json:
    """Show what an offer says beside what orders ask for; what it leaves out is not known."""
    shown: Json = {} if isinstance(claims, UnsetType) else msgspec.to_builtins(claims)
    return shown


def show_verifier(state: State, verifier: Verifier) -> Json:
    """Show a verifier's card and what its word has been worth."""
    card = verifier.card.body
    is_barred = verifier.barred_until > state.now
    return {
        "verifier": format_hex(card.verifier),
        "online": verifier.session > 0,
        "slots": card.slots,
        "price_per_check": show_money(card.price_per_check),
        "stake": show_money(verifier.stake),
        "found_canaries": verifier.found_canaries,
        "missed_canaries": verifier.missed_canaries,
        "barred_until": show_time(verifier.barred_until) if is_barred else None,
    }


def show_canaries(state: State) -> Json:
    """Show the share of checks that were of results forged on purpose, and which these were."""
    return {
        "checks": state.canaries.checks,
        "canaries": state.canaries.canaries,
        "rate_ppm": state.settings.canary_ppm,
        "is_due": is_due(state),
        "epochs": [
            _show_reveal(state, epoch)
            for epoch in state.epochs.values()
            if epoch.canaries and epoch.state is EpochState.CLOSED and epoch.seed is not None
        ],
    }


def _show_reveal(state: State, epoch: Epoch) -> Json:
    reveal = make_reveal(state, epoch)
    return {
        "epoch": epoch.number,
        "salt": format_hex(reveal.opening.salt),
        "notes": [
            {
                "provider": format_hex(note.signer),
                "receipt": format_hex(note.body.receipt_hash),
                "honest": note.body.honest,
            }
            for note in reveal.opening.notes
        ],
        "verdicts": [
            {
                "verifier": format_hex(word.signer),
                "receipt": format_hex(word.body.receipt_hash),
                "verdict": Verdict(word.body.verdict).name,
            }
            for word in reveal.words
        ],
    }


def show_funnel(funnel: Funnel) -> list[Json]:
    """Show how many providers are left after each constraint."""
    rows: list[Json] = [{"stage": "online", "need": "", "fell": 0, "left": funnel.online}]
    rows += [
        {"stage": stage.constraint, "need": stage.need, "fell": stage.fell, "left": stage.left}
        for stage in funnel.stages
    ]
    return rows


def show_relaxations(funnel: Funnel) -> list[Json]:
    """Show the smallest changes that would let somebody in."""
    return [
        {
            "constraint": relaxation.constraint,
            "need": relaxation.need,
            "have": relaxation.have,
            "offers": relaxation.offers,
            "text": str(relaxation),
        }
        for relaxation in funnel.relaxations
    ]
