"""
Rulings: what the mismatches among a pool's checks come to.

One verifier's word is enough to stop a payment for a while, and not to take it: where enough
verifiers are there, a jury drawn on chain decides. Where no jury can be had the word stands, also
against that of a second verifier of the same result: a forger must not need only one friend.
"""

from __future__ import annotations

from enum import Enum

from coordinator.core.canaries import is_canary
from coordinator.core.effects import Effect, OpenCase
from coordinator.core.epoch_state import Check, Epoch, Pool, Trial, move_trial
from coordinator.core.lifecycle import TrialOutcome, TrialState
from coordinator.core.order_book import is_eligible
from coordinator.core.pools import find_policy, list_barred, list_checks, list_payouts
from coordinator.core.state import Lease, State, get_receipt, write_log
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import ProgramRule
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.pools import has_part


class Ruling(Enum):
    """What is decided about a pool's results."""

    OPEN = "open"
    """A jury is at it."""
    FORGED = "forged"
    CLEAR = "clear"


def judge_mismatches(state: State, epoch: Epoch, pool: Pool) -> tuple[Ruling, list[Effect]]:
    """
    Say what the mismatches of a pool come to, all of whose checks are done; try one at a time.

    After one forged result nothing of the pool is paid, so no second jury is needed.
    """
    effects: list[Effect] = []
    for receipt_hash in _list_disputed(state, epoch, pool):
        if _rule_on(epoch, receipt_hash) is None:
            effects += _begin_trial(state, epoch, receipt_hash)
        ruling = _rule_on(epoch, receipt_hash)
        if ruling is not None and ruling is not Ruling.CLEAR:
            return ruling, effects
    return Ruling.CLEAR, effects


def is_clear(state: State, epoch: Epoch, pool: Pool) -> bool:
    """Say whether no mismatch stands among the checks of a pool."""
    disputed = _list_disputed(state, epoch, pool)
    return all(_rule_on(epoch, receipt_hash) is Ruling.CLEAR for receipt_hash in disputed)


def is_proven_right(epoch: Epoch, check: Check) -> bool:
    """Say whether a checked result may be paid: its verifier says so, or a jury against it."""
    if is_canary(epoch, check):
        return False
    trial = epoch.trials.get(check.receipt_hash)
    if trial is None:
        return check.verdict is Verdict.MATCH and not _list_mismatches(epoch, check.receipt_hash)
    return trial.outcome is TrialOutcome.ACQUITTED


def is_own_rule(state: State, check: Check) -> bool:
    """
    Say whether a job's own program compared: its author could call anything different.

    Then a mismatch costs the job's work there, and no other job's, and no stake.
    """
    return isinstance(find_policy(state, state.leases[check.lease_id]).comparison, ProgramRule)


def list_failed_orders(state: State, epoch: Epoch, pool: Pool) -> list[Hash32]:
    """Return the jobs of a pool whose own program called a result different."""
    found = (check.order_hash for check in _list_blaming(epoch, pool) if is_own_rule(state, check))
    return list(dict.fromkeys(found))


# ---- disputed results ----------------------------------------------------------------------


def _list_disputed(state: State, epoch: Epoch, pool: Pool) -> list[Hash32]:
    return list(
        dict.fromkeys(
            check.receipt_hash
            for check in _list_blaming(epoch, pool)
            if not is_own_rule(state, check)
        )
    )


def _list_blaming(epoch: Epoch, pool: Pool) -> list[Check]:
    # Nobody is to blame for what was forged on purpose.
    return [
        check
        for check in list_checks(epoch, pool)
        if check.verdict is Verdict.MISMATCH and not is_canary(epoch, check)
    ]


def _list_mismatches(epoch: Epoch, receipt_hash: Hash32) -> list[Check]:
    return [
        check
        for check in epoch.checks.values()
        if check.receipt_hash == receipt_hash and check.verdict is Verdict.MISMATCH
    ]


def _list_believed(epoch: Epoch, receipt_hash: Hash32) -> list[Check]:
    # Whom a jury contradicted about this provider's work is not heard a second time.
    provider_trials = [t for t in epoch.trials.values() if t.outcome is TrialOutcome.ACQUITTED]
    return [
        check
        for check in _list_mismatches(epoch, receipt_hash)
        if not any(
            trial.provider == check.provider and check.verifier in trial.accusers
            for trial in provider_trials
        )
    ]


def _rule_on(epoch: Epoch, receipt_hash: Hash32) -> Ruling | None:
    """Return what is decided about a disputed result; None where a jury is still to be asked."""
    trial = epoch.trials.get(receipt_hash)
    if trial is None:
        return None if _list_believed(epoch, receipt_hash) else Ruling.CLEAR
    if trial.outcome is TrialOutcome.OPEN:
        return Ruling.OPEN
    return Ruling.CLEAR if trial.outcome is TrialOutcome.ACQUITTED else Ruling.FORGED


# ---- trials --------------------------------------------------------------------------------


def _begin_trial(state: State, epoch: Epoch, receipt_hash: Hash32) -> list[Effect]:
    believed = _list_believed(epoch, receipt_hash)
    lease = state.leases[believed[0].lease_id]
    trial = Trial(
        receipt_hash=receipt_hash,
        lease_id=lease.lease_id,
        provider=lease.provider,
        accusers=[check.verifier for check in believed if check.verifier is not None],
    )
    epoch.trials[receipt_hash] = trial
    there, least = count_jurors(state, lease), state.settings.jury_min
    job = state.jobs[lease.order_hash]
    if there < least:
        trial.problem = f"{there} verifiers may sit and {least} must: the verifier's word stands"
        end_unheard(trial)
        write_log(state, job, "no-jury", text=trial.problem, task=lease.unit)
        return []
    state.trials[receipt_hash] = epoch.number
    text = "a verifier calls this task's result false: a jury is to decide"
    write_log(state, job, "disputed", text=text, task=lease.unit, actor=lease.provider)
    return [make_accusation(state, lease)]


def end_unheard(trial: Trial) -> None:
    """Leave a case to the verifiers' words."""
    move_trial(trial, TrialState.CLOSED)
    trial.outcome = TrialOutcome.UNHEARD


def make_accusation(state: State, lease: Lease) -> OpenCase:
    """Return the effect that opens a case on chain, now or again."""
    receipt = get_receipt(lease)
    return OpenCase(
        receipt_hash=receipt.body.compute_struct_hash(),
        order=state.jobs[lease.order_hash].order.body,
        receipt=receipt,
        jurors_min=state.settings.jury_min,
    )


def count_jurors(state: State, lease: Lease) -> int:
    """Count the verifiers here that could be drawn to judge a lease's result."""
    barred, payouts = list_barred(state, lease), list_payouts(state)
    return sum(
        is_eligible(state, verifier) and not has_part(who, barred, payouts)
        for who, verifier in state.verifiers.items()
    )
