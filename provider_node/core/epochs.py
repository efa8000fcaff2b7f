"""
Epochs: signing roots, opening results after the seals, and learning what is paid.

A result is opened once, only under a root we signed, and never again for another seal.
"""

from __future__ import annotations

from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Opening, Seal
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.receipt import ProviderRoot
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import Timestamp
from provider_node.core.effects import Effect, SendMessage, SignOpenings, SignRoot
from provider_node.core.state import CLAIMED, Lease, Phase, ProviderState, end_lease


def make_declined(about: Hash32, code: str, *, need: str, have: str) -> messages.Declined:
    """Say no to one thing that was asked, cut to what fits a message."""
    return messages.Declined(about=about, code=code[:200], need=need[:200], have=have[:200])


def sign_root(
    state: ProviderState, sender: Address, request: messages.RootRequested, *, at: Timestamp
) -> list[Effect]:
    """Sign the root over receipts of ours, or say which one does not belong."""
    leases = []
    for lease_id in request.lease_ids:
        lease = state.find_lease(lease_id, sender)
        if lease is None or not _can_root(lease, request.epoch):
            have = "unknown" if lease is None else lease.phase.value
            declined = make_declined(
                lease_id, "root", need="a receipt of ours not yet opened", have=have
            )
            return [SendMessage(coordinator=sender, message=declined)]
        leases.append(lease)
    if not leases or len(set(request.lease_ids)) != len(leases):
        declined = make_declined(
            ZERO_HASH, "root", need="leases, each once", have=f"{len(leases)} leases"
        )
        return [SendMessage(coordinator=sender, message=declined)]
    for lease in leases:
        lease.epoch = request.epoch
        if lease.phase is Phase.FINISHED:
            lease.move(Phase.ROOTED, at)
    return [SignRoot(coordinator=sender, root=_make_root(state, sender, request.epoch, leases))]


def _can_root(lease: Lease, epoch: int) -> bool:
    """A receipt may stand under a later root where an epoch was given up, but not once opened."""
    is_later = lease.epoch is None or epoch >= lease.epoch
    return lease.phase in (Phase.FINISHED, Phase.ROOTED) and is_later


def _make_root(
    state: ProviderState, coordinator: Address, epoch: int, leases: list[Lease]
) -> ProviderRoot:
    receipts = [lease.get_receipt() for lease in leases]
    return ProviderRoot(
        coordinator=coordinator,
        epoch=epoch,
        provider=state.terms.provider,
        root=compute_root([receipt.result_hash for receipt in receipts]),
        count=len(receipts),
        price=sum(receipt.price for receipt in receipts),
        duration_ms=sum(lease.duration_ms for lease in leases),
    )


def open_results(
    state: ProviderState, sender: Address, request: messages.OpeningsRequested, *, at: Timestamp
) -> list[Effect]:
    """Open the results of an epoch, naming the seals of each sampled one."""
    seals = _collect_seals(state, request.seals)
    openings, opened = [], []
    for lease_id in dict.fromkeys(request.lease_ids):
        lease = state.find_lease(lease_id, sender)
        is_open = lease is not None and lease.phase in (Phase.ROOTED, Phase.OPENED)
        if lease is None or not is_open or lease.epoch != request.epoch:
            have = "unknown" if lease is None else f"{lease.phase.value}, epoch {lease.epoch}"
            declined = make_declined(
                lease_id, "opening", need=f"a receipt in epoch {request.epoch}", have=have
            )
            return [SendMessage(coordinator=sender, message=declined)]
        opened.append(lease)
    for lease in opened:
        receipt_hash = lease.get_receipt().compute_struct_hash()
        if lease.phase is Phase.ROOTED:
            # Fixed now: a second request cannot make us open for other seals.
            lease.seal_hashes = tuple(sorted(seals.get(receipt_hash, ())))
            lease.move(Phase.OPENED, at)
        openings.append(
            Opening(
                result=lease.get_result(),
                receipt_hash=receipt_hash,
                seal_hashes=lease.seal_hashes,
            )
        )
    return [SignOpenings(coordinator=sender, epoch=request.epoch, openings=tuple(openings))]


def _collect_seals(
    state: ProviderState, seals: tuple[Signed[Seal], ...]
) -> dict[Hash32, set[Hash32]]:
    """Content hashes of properly signed seals by receipt; our own seal counts for nothing."""
    found: dict[Hash32, set[Hash32]] = {}
    for seal in seals:
        try:
            verified = verify(seal, state.terms.domain)
        except RemoteProtocolError:
            continue
        if verified.signer == verified.body.verifier != state.terms.provider:
            hashes = found.setdefault(verified.body.receipt_hash, set())
            hashes.add(compute_content_hash(verified.body))
    return found


def close_epoch(
    state: ProviderState, sender: Address, closed: messages.EpochClosed, *, at: Timestamp
) -> list[Effect]:
    """Note which receipts are paid and which are not."""
    rejected = closed.reason or Reason(
        code="GM-7102", text="the coordinator rejected it without a reason", fault="coordinator"
    )
    for lease_ids, phase, reason in (
        (closed.accepted, Phase.PAID, None),
        (closed.rejected, Phase.UNPAID, rejected),
    ):
        for lease_id in lease_ids:
            lease = state.find_lease(lease_id, sender)
            if lease is not None and lease.phase in CLAIMED:
                end_lease(state, lease, phase, at=at, reason=reason)
    return []
