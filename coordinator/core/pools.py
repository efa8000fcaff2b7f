"""
Pools: a provider's results of an epoch, of all jobs with equal sampling terms, drawn from as one.

So the number of re-executions follows the work of an epoch and not the number of its jobs; and one
forged result costs all of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.core.epoch_state import Check, Epoch, Part, Pool
from coordinator.core.state import Lease, State, get_receipt, set_timer, write_log
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.pools import SamplePool, draw_pool, draw_verifiers, has_part, prefer_class


def find_policy(state: State, lease: Lease) -> VerifyPolicy:
    """Return what a lease's job says of checks."""
    return state.jobs[lease.order_hash].spec.verify


def make_pools(state: State, leases: Sequence[Lease]) -> list[Pool]:
    """Group a provider's leases, which are in the order of their leaves."""
    pools: list[Pool] = []
    for lease in leases:
        terms = find_policy(state, lease).pool()
        is_new = not pools or pools[-1].policy != terms
        is_alone = terms.mode == "none"
        if is_new or (is_alone and pools[-1].order_hashes != [lease.order_hash]):
            pools.append(Pool(policy=terms, order_hashes=[], lease_ids=[]))
        if lease.order_hash not in pools[-1].order_hashes:
            pools[-1].order_hashes.append(lease.order_hash)
        pools[-1].lease_ids.append(lease.lease_id)
    return pools


def find_pool(part: Part, order_hash: Hash32) -> Pool:
    """Return the pool that an order's results are in."""
    return next(pool for pool in part.pools if order_hash in pool.order_hashes)


def list_checks(epoch: Epoch, pool: Pool) -> list[Check]:
    """Return the checks of a pool's results."""
    lease_ids = set(pool.lease_ids)
    return [check for check in epoch.checks.values() if check.lease_id in lease_ids]


def find_check(state: State, key: bytes) -> tuple[Epoch, Check] | None:
    """Return an open check by its key, and its epoch."""
    number = state.check_epochs.get(key[:32])
    check = None if number is None else state.epochs[number].checks.get(key)
    return None if number is None or check is None else (state.epochs[number], check)


def find_check_of(
    state: State, receipt_hash: Hash32, verifier: Address
) -> tuple[Epoch, Check] | None:
    """Return the open check of a receipt that a verifier has now, and its epoch."""
    number = state.check_epochs.get(receipt_hash)
    if number is None:
        return None
    epoch = state.epochs[number]
    found = (c for c in list_twins(epoch, receipt_hash) if c.verifier == verifier)
    return next(((epoch, check) for check in found), None)


def list_twins(epoch: Epoch, receipt_hash: Hash32) -> list[Check]:
    """Return the one or two checks of a receipt."""
    keys = (receipt_hash + bytes([turn]) for turn in (0, 1))
    return [epoch.checks[key] for key in keys if key in epoch.checks]


def get_seed(epoch: Epoch) -> Hash32:
    """Return the seed of an epoch that has one."""
    if epoch.seed is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no seed")
    return epoch.seed


def describe_extent(pool: Pool) -> str:
    """Say how far a pool reaches where it is of several jobs: empty for one."""
    jobs = len(pool.order_hashes)
    return (
        f"of {len(pool.lease_ids)} results of this provider, across {jobs} jobs,"
        if jobs > 1
        else ""
    )


# ---- the sample ----------------------------------------------------------------------------


def draw_checks(state: State, epoch: Epoch, *, provider: Address, pool: Pool) -> None:
    """Make the checks of a pool: what the seed draws, and the units that its jobs call critical."""
    part = epoch.parts[provider]
    leases = [state.leases[lease_id] for lease_id in pool.lease_ids]
    terms = SamplePool(
        policy=pool.policy,
        count=len(leases),
        price=sum(get_receipt(lease).body.price for lease in leases),
    )
    drawn = set(draw_pool(get_seed(epoch), provider, terms, stake=part.stake, audited=part.audited))
    chosen = [
        lease for index, lease in enumerate(leases) if index in drawn or _is_critical(state, lease)
    ]
    payouts = list_payouts(state)
    for lease in chosen:
        if lease.order_hash in part.open_orders:
            eligible = _list_committed(state, epoch, lease, payouts=payouts)
            _make_checks(state, epoch, lease, eligible=eligible)
    for order_hash in pool.order_hashes:
        if order_hash in part.open_orders:
            _log_sample(state, pool, order_hash, chosen)


def _is_critical(state: State, lease: Lease) -> bool:
    policy = find_policy(state, lease)
    return policy.mode == "sample" and lease.unit in policy.critical


def _make_checks(state: State, epoch: Epoch, lease: Lease, *, eligible: Sequence[Address]) -> None:
    receipt_hash = get_receipt(lease).body.compute_struct_hash()
    turns = max(1, len(draw_verifiers(get_seed(epoch), receipt_hash, eligible)))
    for turn in range(turns):
        check = Check(
            receipt_hash=receipt_hash,
            turn=turn,
            lease_id=lease.lease_id,
            order_hash=lease.order_hash,
            unit=lease.unit,
            provider=lease.provider,
        )
        epoch.checks[check.key] = check
        state.waiting_checks[check.key] = None
        if turn:
            wait_by = state.now + state.settings.class_wait_seconds
            set_timer(state, wait_by, "overlap", key=check.key)
    state.check_epochs[receipt_hash] = epoch.number


def _list_committed(
    state: State, epoch: Epoch, lease: Lease, *, payouts: Mapping[Address, Address]
) -> list[Address]:
    barred = list_barred(state, lease)
    cards = [card.body for card in epoch.eligible]
    free = [card for card in cards if not has_part(card.verifier, barred, payouts)]
    sold = state.providers.get(lease.provider)
    return prefer_class(free, sold.offer.body.repro_class if sold else b"")


def list_barred(state: State, lease: Lease) -> tuple[Address, Address]:
    """Return whose verifiers must not check a lease: its provider and its requester."""
    return lease.provider, state.jobs[lease.order_hash].order.body.requester


def is_self_dealt(state: State, lease: Lease) -> bool:
    """Say whether a lease's requester is its provider, or is paid where that is."""
    provider, requester = list_barred(state, lease)
    known = [
        (who, book[who].payout)
        for book in (state.providers, state.verifiers)
        for who in (provider, requester)
        if who in book
    ]
    return has_part(requester, (provider,), dict(known))


def list_payouts(state: State) -> dict[Address, Address]:
    """Return where the claims of everybody in the book go."""
    payouts = {address: provider.payout for address, provider in state.providers.items()}
    return payouts | {address: verifier.payout for address, verifier in state.verifiers.items()}


def _log_sample(state: State, pool: Pool, order_hash: Hash32, chosen: list[Lease]) -> None:
    mine = [lease for lease in chosen if lease.order_hash == order_hash]
    tasks = ", ".join(str(lease.unit) for lease in mine) or "none"
    extent = describe_extent(pool)
    what = f"{extent} are" if extent else f"of {len(pool.lease_ids)} tasks are"
    of_this = f"; of this job: {tasks}" if extent else f": {tasks}"
    provider = state.leases[pool.lease_ids[0]].provider
    text = f"{len(chosen)} {what} done again by a verifier, blind{of_this}"
    write_log(state, state.jobs[order_hash], "sampled", text=text, actor=provider)
