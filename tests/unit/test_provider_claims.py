"""What a provider watches on chain."""

from __future__ import annotations

from gpumarket.protocol.lease import make_assignment
from gpumarket.protocol.messages import EpochClosed
from gpumarket.testing.factories import (
    NOW,
    make_address,
    make_lease_offer,
    make_reason,
    make_spec,
)
from provider_node.core.claims import list_claims, make_viewer
from provider_node.core.decide import decide
from provider_node.core.events import CoordinatorLost
from tests.unit.test_provider_core import COORDINATOR, ME, finish, hear, make_state, propose


def test_receipts_are_claims_whatever_their_coordinator_says_of_them() -> None:
    state = make_state()
    leases = [make_lease_offer(make_spec(units=3), unit=unit) for unit in range(3)]
    signed = [finish(state, lease) for lease in leases[:2]]
    propose(state, leases[2])
    names = [lease.lease_id for lease in leases]
    closed = EpochClosed(epoch=1, accepted=(names[0],), rejected=(names[1],), reason=make_reason())
    hear(state, closed)
    claims = list_claims(state)
    assert [claim.receipt for claim in claims] == signed
    assert [claim.assignment.body for claim in claims] == [
        make_assignment(lease) for lease in leases[:2]
    ]
    assert {claim.order for claim in claims} == {leases[0].order}


def test_the_escrow_of_those_we_work_for_is_ours_to_watch() -> None:
    state = make_state()
    assert make_viewer(state).payers == frozenset()
    propose(state, make_lease_offer())
    decide(state, CoordinatorLost(at=NOW, coordinator=COORDINATOR))
    viewer = make_viewer(state)
    assert viewer.me == ME
    assert viewer.payers == {make_address("requester")}
    assert viewer.coordinators == {COORDINATOR}
