"""
Attack 2: try salts until the root gives a sample that spares what was forged.

The seed holds the root, but also a block's mixHash and a nonce that nobody has at commitment:
whatever a provider tries, its forgery is drawn as often as chance has it. The control is a build
whose seed comes from the root alone: there the same provider is never found, which this test must
show, or it would show nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.sampling import compute_seed, draw_sample
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import DOMAIN, make_address, make_hash

UNITS, SAMPLED, FORGED = 16, 4, 7
TRIALS, SALTS = 600, 24
CHANCE = SAMPLED / UNITS
PROVIDER = make_address("provider-1")
SeedRule = Callable[[Hash32, Hash32, bytes], Hash32]


def follow_protocol(root: Hash32, mix_hash: Hash32, nonces: bytes) -> Hash32:
    return compute_seed(
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        committer=make_address("coordinator"),
        sequence=0,
        root=root,
        mix_hash=mix_hash,
        nonces=nonces,
    )


def follow_root_only(root: Hash32, _mix_hash: Hash32, _nonces: bytes) -> Hash32:
    return keccak256(root)


def is_found(seed: Hash32) -> bool:
    return FORGED in draw_sample(seed, PROVIDER, count=UNITS, size=SAMPLED)


def grind(rule: SeedRule, trial: int) -> Hash32:
    """Return the first root whose sample spares the forgery, by the provider's best guess."""
    leaves = [make_hash(f"result {trial} {unit}") for unit in range(UNITS)]
    # What it can know: the newest block's mixHash, and no nonce.
    guessed = make_hash(f"mixHash of the block before {trial}")
    root = compute_root(leaves)
    for salt in range(SALTS):
        leaves[FORGED] = make_hash(f"forged {trial} with salt {salt}")
        root = compute_root(leaves)
        if not is_found(rule(root, guessed, b"")):
            break
    return root


def count_found(rule: SeedRule) -> int:
    return sum(
        is_found(
            rule(
                grind(rule, trial),
                make_hash(f"mixHash of the seed's block {trial}"),
                make_hash(f"nonce of the coordinator {trial}"),
            )
        )
        for trial in range(TRIALS)
    )


def test_grinding_the_root_leaves_a_forgery_its_chance_of_being_drawn() -> None:
    deviation = (TRIALS * CHANCE * (1 - CHANCE)) ** 0.5
    assert abs(count_found(follow_protocol) - TRIALS * CHANCE) < 4 * deviation


def test_a_seed_from_the_root_alone_would_never_find_it() -> None:
    assert count_found(follow_root_only) == 0
