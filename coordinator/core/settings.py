"""What a coordinator is and how patient it is; fixed for the life of its state."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.ids import Address
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount

BLOCK_SECONDS_MAX = 12
"""Of the slowest chain we know, Ethereum; where blocks come faster, the margins are longer."""
CANCEL_BLOCKS = 10
"""In which something empty takes the place of a batch that was not mined in time."""
POST_BLOCKS = 10
"""From cutting a job off to taking its batch back: so long it may wait for a block."""


def compute_margins(confirmations: int) -> tuple[int, int]:
    """Return how many seconds before `settleBy` to cut a job off, and to take its batch back."""
    post = BLOCK_SECONDS_MAX * (confirmations + CANCEL_BLOCKS)
    return post + BLOCK_SECONDS_MAX * POST_BLOCKS, post


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Identity, price and patience; all times are whole seconds."""

    domain: Domain
    coordinator: Address
    fee: Amount = Amount(0)
    """Charged once for a job whose every task was accepted; zero is no fee."""

    grace_seconds: int = 10
    """How long a session may be gone before its leases or checks go to others."""
    restart_grace_seconds: int = 30
    """The same after our own restart, when everybody has to find us again."""
    accept_seconds: int = 15
    """How long a provider may think about a lease."""
    avoid_seconds: int = 30
    """How long a task stays away from a provider that declined, lost or stalled it."""
    alone_seconds: int = 60
    """How long a task whose program failed waits for a second provider to try it."""
    lease_extra_seconds: int = 300
    """Time on top of `run_seconds` for fetching the image and inputs."""

    epoch_seconds: int = 60
    """The longest that a receipt waits for its epoch."""
    epoch_receipts_max: int = 256
    epochs_open_max: int = 32
    root_seconds: int = 15
    opening_seconds: int = 30

    stake_slash: Amount = Amount(0)
    """What the contract takes from a provider that is convicted."""
    verifier_stake_min: Amount = Amount(1)
    """Stake on chain below which a verifier is given no checks."""
    check_extra_seconds: int = 300
    """Time on top of `run_seconds` for a verifier."""
    compare_seconds: int = 120
    """How long a verifier may take from the opened result to its verdict."""
    check_attempts_max: int = 3
    class_wait_seconds: int = 120
    """How long a check waits for a verifier of the provider's class where no other can decide it,
    and a second check for a second verifier."""
    jury_min: int = 3
    """Verifiers that must be here and may sit before a case is opened: of fewer a jury is no more
    than the word it judges."""
    bar_seconds: int = 7 * 86_400
    """How long a verifier whose word proved false is given no checks."""
    canary_providers: tuple[Address, ...] = ()
    """The operator's own, which may forge what `canary_requesters` order."""
    canary_requesters: tuple[Address, ...] = ()
    canary_ppm: int = 5_000
    """Of all checks, those that should be of a result forged on purpose."""
    fetch_seconds: int = 300
    fetch_attempts_max: int = 3
    retry_seconds: int = 10
    """How long to wait before a chain call or a fetch is tried again."""
    order_lifetime_seconds: int = 8 * 86_400
    """From now to an order's expiry at most: what escrow is sure to outlast on this chain."""
    settle_margin_seconds: int = 120
    """How long before `settleBy` a job is cut off and settled as it stands."""
    post_margin_seconds: int = 30
    """How long before `settleBy` a batch that is not mined is taken back: that must be mined too,
    and what a reorg takes out of a block must not come again after `settleBy`."""
    settle_interval_seconds: int = 60
    """The longest that what a finished job pays waits for other jobs to share a batch."""
    settle_jobs_max: int = 1_000
    """Jobs in one batch."""

    hardware_interval_seconds: int = 0
    """About how long between two hardware challenges to a provider; zero is never."""

    jobs_open_max: int = 2_000
    jobs_kept_max: int = 10_000
    """Ended jobs whose record is kept for proofs; the oldest go first."""
    peers_max: int = 10_000
    """Providers, and as many verifiers, in the book."""
    slots_max: int = 64
    """The most tasks at once on one provider, whatever its offer says."""
    log_entries_max: int = 2_000
    """Log entries kept for one job."""
