"""Claims: what of our work is to be watched on chain until it is paid."""

from __future__ import annotations

from gpumarket.protocol.watching import OwnClaim, Viewer
from provider_node.core.state import ACTIVE, CLAIMED, Phase, ProviderState


def make_viewer(state: ProviderState) -> Viewer:
    """Say whose escrow and which coordinators our open work depends on."""
    open_phases = ACTIVE | CLAIMED | {Phase.PAID}
    leases = [lease for lease in state.leases.values() if lease.phase in open_phases]
    return Viewer(
        me=state.terms.provider,
        payers=frozenset(lease.offer.order.body.requester for lease in leases),
        coordinators=frozenset({*state.connected, *(lease.coordinator for lease in leases)}),
    )


def list_claims(state: ProviderState) -> list[OwnClaim]:
    """
    Return every receipt we signed that is still remembered, whatever its coordinator says of it.

    Whoever watches keeps them for longer than leases are kept.
    """
    return [
        OwnClaim(order=lease.offer.order, receipt=lease.signed, assignment=lease.assignment)
        for lease in state.leases.values()
        if lease.signed is not None
    ]
