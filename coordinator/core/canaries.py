"""
Canaries: results that the operator's own provider forged, with the coordinator's knowledge.

They are noted before the epoch's seed and judged apart: nobody is blamed for one or paid for it,
and a verifier that calls one a match is found out. Everything before the verdict is as with any
other result.
"""

from __future__ import annotations

from typing import Final

from coordinator.core.effects import Effect, PublishDocument
from coordinator.core.epoch_state import Check, Epoch, Pool
from coordinator.core.lifecycle import CheckState, PartStage
from coordinator.core.state import Lease, State, set_timer
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.canaries import (
    CanaryNote,
    CanaryOpening,
    CanaryReveal,
    is_canary_due,
    sort_notes,
)
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import Timestamp

SET_ASIDE: Final = Reason(
    code="GM-7108",
    text="forged on purpose, to test verifiers: it is not paid, and the task is done again",
    fault="none",
)
_DECIDED: Final = (Verdict.MATCH, Verdict.MISMATCH)


# ---- notes ---------------------------------------------------------------------------------


def check_note(
    state: State, lease: Lease, receipt: Receipt, *, note: Signed[CanaryNote] | None
) -> None:
    """
    Raise `RemoteProtocolError` unless a note is of this receipt and may be made.

    Only the operator's provider forges, and only what the operator's requester ordered of it: a
    canary is never sold as work.
    """
    if note is None:
        return
    requester = state.jobs[lease.order_hash].order.body.requester
    if lease.provider not in state.settings.canary_providers:
        raise RemoteProtocolError("a provider forges on purpose that was not asked to")
    if requester not in state.settings.canary_requesters:
        raise RemoteProtocolError("a task is forged on purpose that somebody else ordered")
    body = verify(note, state.settings.domain).body
    if note.signer != lease.provider or body.receipt_hash != receipt.compute_struct_hash():
        raise RemoteProtocolError("a canary's note is of another receipt than it came with")


def keep_note(state: State, lease: Lease, note: Signed[CanaryNote] | None) -> None:
    """Keep the note of a receipt until its epoch is committed."""
    if note is not None:
        state.canaries.notes[lease.lease_id] = note


def commit_notes(state: State, epoch: Epoch) -> Hash32:
    """Give an epoch the notes of its receipts; return what its document holds of them."""
    book = state.canaries
    for part in epoch.parts.values():
        if part.stage is PartStage.SIGNED:
            for lease_id in part.lease_ids:
                note = book.notes.pop(lease_id, None)
                if note is not None:
                    epoch.canaries[note.body.receipt_hash] = note
    # Of what ended without an epoch nothing is left to say.
    book.notes = {
        lease_id: note
        for lease_id, note in book.notes.items()
        if lease_id in state.leases and state.leases[lease_id].state is LeaseState.FINISHED
    }
    return open_canaries(epoch).compute_hash()


def open_canaries(epoch: Epoch) -> CanaryOpening:
    """Return what opens an epoch's commitment to canaries; only once it is closed for others."""
    if epoch.canary_salt is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no salt for its canaries")
    return CanaryOpening(salt=epoch.canary_salt, notes=sort_notes(epoch.canaries.values()))


def return_notes(state: State, epoch: Epoch, lease: Lease) -> None:
    """Take the note of a result back that goes from an epoch without a seed into a later one."""
    keep_note(state, lease, epoch.canaries.get(_find_name(lease)))


# ---- verdicts ------------------------------------------------------------------------------


def is_canary(epoch: Epoch, check: Check) -> bool:
    """Say whether a check is of a result that was forged on purpose."""
    return check.receipt_hash in epoch.canaries


def is_missed(epoch: Epoch, check: Check) -> bool:
    """Say whether a verifier called a canary a match: nobody pays for such a check."""
    return is_canary(epoch, check) and check.verdict is Verdict.MATCH


def is_set_aside(epoch: Epoch, lease: Lease) -> bool:
    """Say whether a lease's result is a canary: it is never paid, whoever called it a match."""
    return _find_name(lease) in epoch.canaries


def _find_name(lease: Lease) -> Hash32:
    return lease.receipt.body.compute_struct_hash() if lease.receipt else b""


def must_wait(state: State, epoch: Epoch, pool: Pool) -> bool:
    """
    Say whether a pool is not to be judged yet, though its own verdicts are in.

    What becomes of a canary can be seen, and with it whose provider did it: not before all
    verdicts of its epoch are in.
    """
    if has_all_verdicts(epoch):
        return False
    leases = (state.leases.get(lease_id) for lease_id in pool.lease_ids)
    return any(lease is not None and is_set_aside(epoch, lease) for lease in leases)


def has_all_verdicts(epoch: Epoch) -> bool:
    """Say whether every check of an epoch has come to its end."""
    return all(check.state is CheckState.DONE for check in epoch.checks.values())


def close_canaries(state: State, epoch: Epoch) -> None:
    """
    Count the checks of an epoch that is over, and bar who missed a canary.

    Not before: while other verdicts on its canaries are open, nobody may learn which they are.
    """
    if epoch.seed is None:
        return
    book, until = state.canaries, Timestamp(state.now + state.settings.bar_seconds)
    for check in epoch.checks.values():
        if check.verdict not in _DECIDED:
            continue
        book.checks += 1
        if not is_canary(epoch, check):
            continue
        book.canaries += 1
        verifier = state.verifiers.get(check.verifier or b"")
        if verifier is not None and is_missed(epoch, check):
            verifier.missed_canaries += 1
            verifier.barred_until = max(verifier.barred_until, until)
        elif verifier is not None:
            verifier.found_canaries += 1
    if epoch.canaries:
        set_timer(state, state.now, "canaries", key=epoch.number.to_bytes(8, "big"))


def publish_canaries(state: State, key: bytes) -> list[Effect]:
    """Publish what an epoch's canaries were, and what each verifier said."""
    epoch = state.epochs.get(int.from_bytes(key, "big"))
    if epoch is None:
        return []
    return [PublishDocument(data=encode_document(make_reveal(state, epoch)))]


def make_reveal(state: State, epoch: Epoch) -> CanaryReveal:
    """Return what is published of an epoch's canaries."""
    words = [
        check.attestation
        for _, check in sorted(epoch.checks.items())
        if is_canary(epoch, check) and check.attestation is not None
    ]
    return CanaryReveal(
        coordinator=state.settings.coordinator,
        epoch=epoch.number,
        opening=open_canaries(epoch),
        words=tuple(words),
    )


# ---- the rate ------------------------------------------------------------------------------


def is_due(state: State) -> bool:
    """
    Say whether the operator's requester should order a canary now.

    It follows from what everybody can count; one that is under way does not show in it.
    """
    book, rate_ppm = state.canaries, state.settings.canary_ppm
    return is_canary_due(checks=book.checks, canaries=book.canaries, rate_ppm=rate_ppm)
