"""
The settlement pool: bills that are in no batch yet, with running sums over them.

The sums tell without a look at each bill whether the pool may fill a batch. A bill that was held
because its requester could not pay is not in them: it comes up again at times of its own.
"""

from __future__ import annotations

from coordinator.core.state import BillRecord, Job, PoolSums, State, find_bill
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.units import Timestamp


def get_bill(state: State, key: bytes) -> tuple[Job, BillRecord]:
    """Return a bill that is not paid yet, with its job."""
    found = find_bill(state, key)
    if found is None:
        raise LocalProtocolError("a bill that is not paid was forgotten")
    return found


def put_into_pool(state: State, key: bytes, since: Timestamp) -> None:
    """Let a bill wait for a batch, as one that came at this time."""
    state.due[key] = since
    state.pool_sums.has_grown = True
    _count(state, state.pool_sums, key, 1)


def take_from_pool(state: State, key: bytes) -> None:
    """Take a bill out of the pool if it is there."""
    if state.due.pop(key, None) is not None:
        _count(state, state.pool_sums, key, -1)


def hold_in_pool(state: State, key: bytes, until: Timestamp) -> None:
    """Let a bill of the pool wait for its requester's money."""
    _count(state, state.pool_sums, key, -1)
    get_bill(state, key)[1].hold_until = until


def is_in_pool(state: State, requester: Address) -> bool:
    """Say whether a requester has bills in the pool that were never held."""
    return requester in state.pool_sums.requesters


def count_pool(state: State) -> PoolSums:
    """Count everything anew: what the running sums must be."""
    sums = PoolSums()
    for key in state.due:
        _count(state, sums, key, 1)
    return sums


def _count(state: State, sums: PoolSums, key: bytes, by: int) -> None:
    job, record = get_bill(state, key)
    if record.hold_until:
        return
    requester = job.order.body.requester
    sums.bills += by
    sums.later_bills += by * any(key[32:])
    sums.lines += by * len(record.payments)
    _add(sums.requesters, requester, by)
    for payee in {payee for payee, _ in record.payments}:
        _add(sums.lanes, requester + payee, by)


def _add(counts: dict[bytes, int], key: bytes, by: int) -> None:
    total = counts.get(key, 0) + by
    if total:
        counts[key] = total
    else:
        del counts[key]
