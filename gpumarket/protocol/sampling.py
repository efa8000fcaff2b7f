"""
Public sampling: which units are re-executed, derived from a seed that nobody knew at commitment.

Anyone recomputes the sample from the seed, the committed counts and the signed policy.
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
_SAMPLE_TAG = b"gpumarket.sample.v1"
_ASSIGN_TAG = b"gpumarket.assign.v1"
_WORD = 8
_WORD_SPAN = 1 << (8 * _WORD)


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


def compute_sample_size(policy: VerifyPolicy, count: int) -> int:
    """
    Return how many of `count` units are re-executed.

    The smallest number that finds at least one of ceil(forged share x count) forged units
    with the signed confidence, never below the signed rate and minimum, never above count.
    """
    if policy.mode == "none" or count == 0:
        return 0
    if policy.mode == "full":
        return count
    by_rate = -(-policy.rate_ppm * count // PPM)
    floor = min(count, max(by_rate, policy.units_min))
    forged = max(1, -(-policy.forged_share_ppm * count // PPM))
    # A larger sample never misses more, so the smallest one is found by halving: binomials of
    # large counts are slow, and the requester chooses the policy.
    return bisect_left(
        range(count),
        True,
        lo=floor,
        key=lambda size: not _misses_too_often(count, forged, size, policy.confidence_ppm),
    )


def compute_miss_ppb(count: int, forged: int, sampled: int) -> int:
    """Return the chance, in parts per billion rounded up, that a sample misses all forgeries."""
    return -(-comb(count - forged, sampled) * 10**9 // comb(count, sampled))


def draw_sample(seed: Hash32, owner: Address, *, count: int, size: int) -> tuple[int, ...]:
    """Draw `size` distinct indexes below `count` for one provider, in the order drawn."""
    if size > count:
        raise InvalidInput(f"cannot draw {size} of {count} units")
    drawn: dict[int, None] = {}
    limit = _WORD_SPAN - _WORD_SPAN % max(count, 1)
    counter = 0
    while len(drawn) < size:
        block = keccak256(_SAMPLE_TAG + seed + owner + encode_uint(counter))
        counter += 1
        for start in range(0, len(block), _WORD):
            value = int.from_bytes(block[start : start + _WORD], "big")
            # Rejection keeps every index equally likely.
            if value < limit and len(drawn) < size:
                drawn.setdefault(value % count)
    return tuple(drawn)


def assign_verifier(
    seed: Hash32, receipt_hash: Hash32, verifiers: Sequence[Address]
) -> Address | None:
    """Pick the verifier of one unit from the eligible ones, or None where there is none."""
    ordered = sorted(verifiers)
    if not ordered:
        return None
    block = keccak256(_ASSIGN_TAG + seed + receipt_hash)
    # 256 bits over a short list: the bias of the remainder is below 2**-200.
    return ordered[int.from_bytes(block, "big") % len(ordered)]


def _misses_too_often(count: int, forged: int, sampled: int, confidence_ppm: int) -> bool:
    missed = comb(count - forged, sampled)
    return missed * PPM > (PPM - confidence_ppm) * comb(count, sampled)
