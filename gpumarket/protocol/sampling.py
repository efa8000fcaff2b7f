"""
Public sampling: which units are re-executed, derived from a seed that nobody knew at commitment.

Units of one provider in one epoch with equal terms are one pool, whatever job they are of: the
sample is drawn over a pool, and its size follows from the pool and the signed policy alone.
Source: Du, Jia, Mangal, Murugesan, ICDCS 2004 (commitment-based sampling); the exact
hypergeometric, with integers only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import comb

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.signing import encode_uint, keccak256
from gpumarket.protocol.units import PPM

_SEED_TAG = keccak256(b"gpumarket.seed.v1")
_SAMPLE_TAG = b"gpumarket.sample.v2"
_ASSIGN_TAG = b"gpumarket.assign.v2"
_OVERLAP_TAG = b"gpumarket.overlap.v1"
_WORD = 8
_WORD_SPAN = 1 << (8 * _WORD)

NEWCOMER_FACTOR = 3
"""How many times the minimum a provider that was never checked has re-executed."""
NEWCOMER_HALVING = 100
"""Checked and matching units that halve what a newcomer has to show, down to the minimum."""
OVERLAP_PPM = 50_000
"""Sampled units that go to two verifiers."""


def compute_seed(
    *,
    chain_id: int,
    contract: Address,
    committer: Address,
    sequence: int,
    root: Hash32,
    mix_hash: Hash32,
    nonces: bytes,
) -> Hash32:
    """Recompute the seed that the contract fixed, from the block's mixHash and the nonces."""
    return keccak256(
        _SEED_TAG
        + encode_uint(chain_id)
        + contract.rjust(32, b"\0")
        + committer.rjust(32, b"\0")
        + encode_uint(sequence)
        + root
        + mix_hash
        + keccak256(nonces)
    )


def compute_commitment_hash(
    *, root: Hash32, nonce_hash: Hash32, data_hash: Hash32, block: int, seed: Hash32 = ZERO_HASH
) -> Hash32:
    """Return what the contract keeps of a commitment; the seed is zero until it is fixed."""
    return keccak256(root + nonce_hash + data_hash + encode_uint(block) + seed)


def compute_sample_size(
    policy: VerifyPolicy, count: int, *, price: int, stake: int, audited: int
) -> int:
    """
    Return how many of a pool's `count` units the seed draws for re-execution.

    `price` is what the pool is paid and `stake` what its provider loses when it is convicted, in
    base units; `audited` is how many of its units were checked and matched before. The smallest
    number that is not below the rate, the minimum and what a newcomer has to show, at which forging
    does not pay, and which finds a forged share with the signed confidence; never above `count`.
    """
    if policy.mode == "none" or count == 0:
        return 0
    if policy.mode == "full":
        return count
    floor = max(
        -(-policy.rate_ppm * count // PPM),
        compute_newcomer_min(policy, audited),
        _compute_deterring_size(policy, count, price=price, stake=stake),
    )
    return _find_assuring_size(policy, count, floor=min(count, floor))


def compute_newcomer_min(policy: VerifyPolicy, audited: int) -> int:
    """Return the least that is re-executed of a provider that was found honest so often."""
    halvings = min(audited // NEWCOMER_HALVING, policy.units_min.bit_length())
    return max(policy.units_min, NEWCOMER_FACTOR * policy.units_min >> halvings)


def compute_miss_ppb(count: int, forged: int, sampled: int, *, power_ppm: int = PPM) -> int:
    """Return the chance, in parts per billion rounded up, that a sample misses all forgeries."""
    missed, of = _count_misses(count, forged, sampled, power_ppm)
    return -(-missed * 10**9 // of)


def _compute_deterring_size(policy: VerifyPolicy, count: int, *, price: int, stake: int) -> int:
    """
    Return the smallest sample at which forging k units does not pay, whatever k is.

    With C = R = price / count saved by each forged unit, a bribe B for it, q the power and
    L = price + stake lost when one is flagged: kC + (1 - P(k)) kB - P(k) L is never above zero, but
    for one base unit where q < 1 leaves forging everything a chance. Exact: 1 - P(k) is at most
    (1 - qk/n)**m, which Bernoulli's inequality bounds by (1 - kC/L) / (1 + kB/L) for these m.
    """
    if price == 0:
        return 0
    loss, bribe, power = price + stake, price * policy.bribe_ppm, policy.power_ppm
    if price * PPM <= power * loss:
        return -(-(price * PPM + bribe) // (power * loss))
    # Forging everything is what pays best: as many as make its escape worth one base unit.
    missed = PPM - power
    alone = bisect_left(
        range(count), True, key=lambda size: missed**size * loss <= (stake + 1) * PPM**size
    )
    return alone + -(-bribe // (power * loss))


def _find_assuring_size(policy: VerifyPolicy, count: int, *, floor: int) -> int:
    forged = max(1, -(-policy.forged_share_ppm * count // PPM))
    allowed = PPM - policy.confidence_ppm

    def is_enough(size: int) -> bool:
        missed, of = _count_misses(count, forged, size, policy.power_ppm)
        return missed * PPM <= allowed * of

    if allowed == 0 and policy.power_ppm < PPM:
        return count
    # A larger sample never misses more, so the smallest one is found by doubling and halving:
    # binomials of large samples are slow, and the requester chooses the policy.
    high = max(1, floor)
    while high < count and not is_enough(high):
        high = min(count, 2 * high)
    return bisect_left(range(high), True, lo=min(floor, high), key=is_enough)


def _count_misses(count: int, forged: int, sampled: int, power_ppm: int) -> tuple[int, int]:
    """Return how many of how many equally likely cases flag nothing: sum_j Hyp(j) (1 - q)**j."""
    if power_ppm == PPM:
        # C(n - k, m) / C(n, m) is the same with k and m exchanged.
        few, many = sorted((forged, sampled))
        return comb(count - many, few), comb(count, few)
    most, least = min(forged, sampled), max(0, sampled - (count - forged))
    ways = comb(forged, least) * comb(count - forged, sampled - least)
    blind = (PPM - power_ppm) ** least
    total = 0
    for hit in range(least, most + 1):
        total = total * PPM + ways * blind
        blind *= PPM - power_ppm
        ways = ways * (forged - hit) * (sampled - hit)
        ways //= (hit + 1) * max(1, count - forged - sampled + hit + 1)
    return total, comb(count, sampled) * PPM**most


def draw_sample(
    seed: Hash32, owner: Address, *, count: int, size: int, pool: Hash32 = ZERO_HASH
) -> tuple[int, ...]:
    """Draw `size` distinct indexes below `count` for one provider's pool, in the order drawn."""
    if size > count:
        raise InvalidInput(f"cannot draw {size} of {count} units")
    drawn: dict[int, None] = {}
    limit = _WORD_SPAN - _WORD_SPAN % max(count, 1)
    counter = 0
    while len(drawn) < size:
        block = keccak256(_SAMPLE_TAG + seed + owner + pool + encode_uint(counter))
        counter += 1
        for start in range(0, len(block), _WORD):
            value = int.from_bytes(block[start : start + _WORD], "big")
            # Rejection keeps every index equally likely.
            if value < limit and len(drawn) < size:
                drawn.setdefault(value % count)
    return tuple(drawn)


def is_overlapped(seed: Hash32, receipt_hash: Hash32) -> bool:
    """Say whether a sampled unit is given to two verifiers: so the lazy ones contradict others."""
    block = keccak256(_OVERLAP_TAG + seed + receipt_hash)
    return int.from_bytes(block, "big") % PPM < OVERLAP_PPM


def assign_verifier(
    seed: Hash32, receipt_hash: Hash32, verifiers: Sequence[Address], *, turn: int = 0
) -> Address | None:
    """Pick a unit's verifier, or its second at turn 1, from the eligible; None where none is."""
    ordered = sorted(verifiers)
    if not ordered:
        return None
    block = keccak256(_ASSIGN_TAG + seed + receipt_hash + bytes([turn]))
    # 256 bits over a short list: the bias of the remainder is below 2**-200.
    return ordered[int.from_bytes(block, "big") % len(ordered)]
