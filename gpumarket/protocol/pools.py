"""
Pools: what is sampled and judged together, and who may check it.

A pool is all committed work of one provider in one epoch whose jobs have equal sampling terms. It
lies in one piece among the provider's leaves, so that its place there is its index in the draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.sampling import (
    assign_verifier,
    compute_sample_size,
    draw_sample,
    is_overlapped,
)
from gpumarket.protocol.units import U32, U64


class SamplePool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next `count` leaves of a provider's work, of jobs with equal sampling terms."""

    policy: VerifyPolicy
    """As `VerifyPolicy.pool` gives it."""
    count: U32
    price: U64
    """Sum of its receipts' prices, in base units."""


def sort_leaf(policy: VerifyPolicy, order_hash: Hash32, unit: int) -> tuple[Hash32, Hash32, int]:
    """Return the key that puts a provider's leaves in their order: by pool, order, unit."""
    return policy.compute_pool_hash(), order_hash, unit


def make_pools(leaves: Iterable[tuple[VerifyPolicy, int]]) -> tuple[SamplePool, ...]:
    """Return the pools of a provider's leaves, each a policy and a price, in their order."""
    pools: list[SamplePool] = []
    for policy, price in leaves:
        terms = policy.pool()
        if not pools or pools[-1].policy != terms:
            pools.append(SamplePool(policy=terms, count=0, price=0))
        last = pools[-1]
        pools[-1] = SamplePool(policy=terms, count=last.count + 1, price=last.price + price)
    return tuple(pools)


def iterate_spans(pools: Sequence[SamplePool]) -> Iterator[tuple[SamplePool, range]]:
    """Give each pool with the places of its leaves."""
    start = 0
    for pool in pools:
        yield pool, range(start, start + pool.count)
        start += pool.count


def draw_pool(
    seed: Hash32, provider: Address, pool: SamplePool, *, stake: int, audited: int
) -> tuple[int, ...]:
    """Return the places within a pool that the seed draws, in the order drawn."""
    size = compute_sample_size(
        pool.policy, pool.count, price=pool.price, stake=stake, audited=audited
    )
    name = pool.policy.compute_pool_hash()
    return draw_sample(seed, provider, count=pool.count, size=size, pool=name)


# ---- verifiers -----------------------------------------------------------------------------


def has_part(
    verifier: Address, barred: Iterable[Address], payouts: Mapping[Address, Address]
) -> bool:
    """
    Say whether a verifier is, or is paid where, one of those whose work or job it would check.

    `payouts` says where claims of a payee go; who is not in it is its own.
    """
    parties = {address for each in barred for address in (each, payouts.get(each, each))}
    return not parties.isdisjoint((verifier, payouts.get(verifier, verifier)))


def prefer_class(cards: Iterable[VerifierCard], repro_class: Hash32) -> list[Address]:
    """Return the verifiers whose outputs are bit-identical to a provider's, else all of them."""
    listed = list(cards)
    same = [card.verifier for card in listed if card.repro_class == repro_class]
    return same or [card.verifier for card in listed]


def draw_verifiers(
    seed: Hash32, receipt_hash: Hash32, eligible: Sequence[Address]
) -> tuple[Address, ...]:
    """Return who the seed draws for a unit: one, or two where it is overlapped and can be."""
    first = assign_verifier(seed, receipt_hash, eligible)
    if first is None:
        return ()
    others = [each for each in eligible if each != first]
    second = assign_verifier(seed, receipt_hash, others, turn=1)
    if second is None or not is_overlapped(seed, receipt_hash):
        return (first,)
    return first, second
