"""
Relaying: the word of others for a receipt goes to its provider, which can then settle alone.

That is the requester's acceptance, and the MATCH of a verifier once its receipt is accepted: a
forger that was lucky in the sample gets none. Each is said again to a provider that joins until
it answers that it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from coordinator.core.effects import Effect, SendMessage
from coordinator.core.events import WorkAccepted
from coordinator.core.state import Job, Lease, State, get_receipt, write_log
from gpumarket.protocol.approvals import Approval, Approvals, check_acceptance
from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.messages import ApprovalsKept, ReceiptsApproved
from gpumarket.protocol.signing import Signed

UNHEARD_MAX: Final = 50_000
"""Words that no provider has answered; the oldest are given up."""
MESSAGE_APPROVALS_MAX: Final = 500
"""In one message, which must fit a frame."""


# ---- requesters ----------------------------------------------------------------------------


def check_acceptances(state: State, event: WorkAccepted) -> dict[Hash32, Lease]:
    """
    Return the leases of what a requester accepts, by receipt; change nothing.

    Raises `InvalidInput` for an unknown job, one that another than its requester accepts, and a
    receipt that is not of it.
    """
    job = state.jobs.get(event.order_hash)
    if job is None:
        raise InvalidInput("there is no such job", code="GM-5001")
    known = {
        get_receipt(lease).body.compute_struct_hash(): lease
        for lease in state.leases.values()
        if lease.order_hash == job.order_hash and lease.receipt is not None
    }
    found = {}
    for acceptance in event.acceptances:
        name = acceptance.body.receipt_hash
        if name not in known:
            raise InvalidInput(
                f"the job has no receipt 0x{name.hex()}",
                code="GM-8005",
                hints=(f"gpumarket job receipt {job.job_id}",),
            )
        found[name] = known[name]
        try:
            check_acceptance(
                acceptance,
                order=job.order.body,
                receipt_hash=name,
                domain=state.settings.domain,
            )
        except RemoteProtocolError as error:
            raise InvalidInput(
                "only the requester can accept its job's work", code="GM-1204", why=error.message
            ) from error
    return found


def take_acceptances(state: State, event: WorkAccepted) -> list[Effect]:
    """Remember what a requester accepts and tell the providers; what is wrong changes nothing."""
    try:
        leases = check_acceptances(state, event)
    except InvalidInput:
        return []
    job = state.jobs[event.order_hash]
    given = {each.body.receipt_hash: each for each in event.acceptances}
    approvals = [
        Approval(receipt=get_receipt(leases[name]), acceptance=acceptance)
        for name, acceptance in given.items()
    ]
    text = f"the requester accepts {len(approvals)} receipts by signature"
    write_log(state, job, "approved", text=text, actor=job.order.body.requester)
    return _relay(state, approvals)


# ---- verifiers -----------------------------------------------------------------------------


def relay_matches(
    state: State, matches: Iterable[tuple[Lease, Signed[Attestation]]]
) -> list[Effect]:
    """Give a provider the MATCHes by which its receipts were accepted, and no others."""
    return _relay(
        state,
        [
            Approval(receipt=get_receipt(lease), attestation=match)
            for lease, match in matches
            if lease.state is LeaseState.ACCEPTED
        ],
    )


# ---- providers -----------------------------------------------------------------------------


def take_kept(state: State, sender: Address, message: ApprovalsKept) -> list[Effect]:
    """Forget what a provider keeps; another's words are none of its business."""
    for word in message.words:
        approval = state.unheard.get(word)
        if approval is not None and approval.receipt.signer == sender:
            del state.unheard[word]
    return []


def list_unheard(state: State, provider: Address) -> list[Effect]:
    """Return what a provider has not said that it keeps, but for what is of no use any more."""
    return _tell(
        state,
        [
            approval
            for approval in state.unheard.values()
            if approval.receipt.signer == provider
            and _get_job(state, approval).order.body.expiry >= state.now
        ],
    )


def forget_unheard(state: State, order_hash: Hash32) -> None:
    """Forget the words about a job that is forgotten itself."""
    state.unheard = {
        word: approval
        for word, approval in state.unheard.items()
        if approval.receipt.body.order_hash != order_hash
    }


# ---- inside --------------------------------------------------------------------------------


def _relay(state: State, approvals: Iterable[Approval]) -> list[Effect]:
    new = []
    for approval in approvals:
        (word,) = approval.list_words()
        # To the end: what was just said again is the last to be given up.
        state.unheard.pop(word, None)
        state.unheard[word] = approval
        new.append(approval)
    while len(state.unheard) > UNHEARD_MAX:
        del state.unheard[next(iter(state.unheard))]
    return _tell(state, new)


def _tell(state: State, approvals: Iterable[Approval]) -> list[Effect]:
    groups: dict[tuple[Address, Hash32], list[Approval]] = {}
    for approval in approvals:
        receipt = approval.receipt
        groups.setdefault((receipt.signer, receipt.body.order_hash), []).append(approval)
    return [
        SendMessage(
            recipient=provider,
            message=ReceiptsApproved(
                approvals=Approvals(order=state.jobs[order_hash].order.body, approvals=page)
            ),
        )
        for (provider, order_hash), group in groups.items()
        for page in _cut_pages(group)
    ]


def _cut_pages(approvals: list[Approval]) -> list[tuple[Approval, ...]]:
    starts = range(0, len(approvals), MESSAGE_APPROVALS_MAX)
    return [tuple(approvals[start : start + MESSAGE_APPROVALS_MAX]) for start in starts]


def _get_job(state: State, approval: Approval) -> Job:
    return state.jobs[approval.receipt.body.order_hash]
