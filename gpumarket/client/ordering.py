"""
Ordering: from a plan to the one promise that is signed.

The budget is shared over the payment lines of the order, so that the order can never cost more
than the budget, whatever happens to the job.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpumarket.client.packing import Packed
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, parse_address
from gpumarket.protocol.job import JobSpec, VerifyPolicy, compute_verify_hash
from gpumarket.protocol.order import Order
from gpumarket.protocol.sampling import OVERLAP_PPM, compute_sample_size
from gpumarket.protocol.signing import Domain, PrivateKey, Signed
from gpumarket.protocol.units import PPM, Amount, Timestamp, format_money

SETTLE_SECONDS: Final = 86_400
"""Time for checks and settlement after the last task could have ended."""
EXPIRY_SECONDS: Final = 7 * 86_400
"""From `settle_by` to the end of the order: time to settle by other means."""
HINTS_MAX: Final = 5
LIFETIME_SECONDS_MAX: Final = 90 * 86_400
CLOCK_SECONDS: Final = 60
"""How far our clock may be ahead of a provider's, which refuses an order that ends too late."""


@dataclass(frozen=True, slots=True)
class Market:
    """What a coordinator says of itself that an order depends on."""

    domain: Domain
    coordinator: Address
    fee: Amount
    version: str
    is_devnet: bool
    order_lifetime: int = 0
    """Seconds that escrow is sure to outlast from now on; 0 where the coordinator does not say."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The caps of an order: no payment line can pay more."""

    checks: int
    max_unit_price: Amount
    max_check_price: Amount
    max_fee: Amount


@dataclass(frozen=True)
class Plan:
    """
    What will be run, what it may cost and what the market says to it now.

    `quote` is the coordinator's answer; `packed` is local content that submitting uploads.
    """

    spec: JobSpec
    market: Market
    budget: Amount
    prices: Prices
    quote: Mapping[str, Any]
    packed: tuple[Packed, ...]

    @property
    def exposure(self) -> Amount:
        """The most the job can cost: what the escrow must hold."""
        prices = self.prices
        return Amount(
            self.spec.units * prices.max_unit_price
            + prices.checks * prices.max_check_price
            + prices.max_fee
        )

    @property
    def is_feasible(self) -> bool:
        """Whether some provider online can run the job, perhaps after others are done."""
        return bool(self.quote.get("feasible", True))


def read_market(info: Mapping[str, Any]) -> Market:
    """Read `/v1/info`; raises `InvalidInput` GM-8004 where a field is missing or odd."""
    try:
        return Market(
            domain=Domain(chain_id=int(info["chain_id"]), contract=parse_address(info["contract"])),
            coordinator=parse_address(info["coordinator"]),
            fee=read_amount(info.get("fee")),
            version=str(info.get("version", "")),
            is_devnet=bool(info.get("devnet", False)),
            order_lifetime=int(info.get("order_lifetime", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            "the coordinator's information is incomplete", code="GM-8004", why=str(error)[:200]
        ) from error


def read_amount(value: object) -> Amount:
    """Read an amount object of the API; nothing there is zero."""
    if isinstance(value, Mapping) and str(value.get("base", "")).isdigit():
        return Amount(int(value["base"]))
    if isinstance(value, int):
        return Amount(value)
    return Amount(0)


def check_network(market: Market, *, chain_id: int | None, contract: str) -> None:
    """Raise `InvalidInput` GM-3020 unless the coordinator settles where we are configured to."""
    if chain_id is not None and market.domain.chain_id != chain_id:
        raise InvalidInput(
            f"wrong network: the coordinator settles on chain {market.domain.chain_id}, "
            f"configured is chain {chain_id}",
            code="GM-3020",
            money="nothing was signed",
            hints=("gpumarket config show --origin",),
            fault="requester",
        )
    if contract and parse_address(contract) != market.domain.contract:
        raise InvalidInput(
            "wrong contract: the coordinator settles through another one than configured",
            code="GM-3020",
            why=f"it says 0x{market.domain.contract.hex()}, configured is {contract}",
            money="nothing was signed",
            hints=("gpumarket config show --origin",),
            fault="requester",
        )


class NobodyFits(InvalidInput):
    """Nobody online can run the job; `problem` holds the market's funnel, as a refusal's does."""

    default_code = "GM-4021"
    problem: Mapping[str, Any] = {}


def check_feasible(plan: Plan) -> None:
    """Raise `NobodyFits` where nobody online can run the job, with what would help."""
    if plan.is_feasible:
        return
    funnel = [each for each in plan.quote.get("funnel") or () if isinstance(each, Mapping)]
    falls = [
        f"{each.get('fell')} at {each.get('stage')} {each.get('need', '')}".rstrip()
        for each in funnel
        if each.get("fell")
    ]
    changes = [each for each in plan.quote.get("relaxations") or () if isinstance(each, Mapping)]
    error = NobodyFits(
        "no provider can run this job now",
        why=", ".join(falls)[:500] or "nobody is online",
        money="nothing was signed, charged or locked",
        hints=tuple(str(each.get("text", ""))[:300] for each in changes[:HINTS_MAX]),
        fault="network",
    )
    error.problem = {"funnel": funnel}
    raise error


def estimate_checks(policy: VerifyPolicy, units: int, *, providers: int, budget: Amount) -> int:
    """
    Return for how many re-executions an order should pay.

    The sample of `units` spread evenly over `providers`, all of them newcomers without a stake,
    with the critical tasks; once more the share of one provider, whose work may be found forged
    and done again; and second checks where two verifiers overlap.
    """
    if policy.mode == "none":
        return 0

    def estimate(count: int) -> int:
        size = compute_sample_size(policy, count, price=budget, stake=0, audited=0)
        return min(count, size + len(policy.critical))

    spread = max(1, min(units, providers))
    low, extra = divmod(units, spread)
    sampled = (spread - extra) * estimate(low) + extra * estimate(low + 1)
    checks = min(units, sampled) + estimate(-(-units // spread))
    return checks + -(-checks * OVERLAP_PPM // PPM)


def share_budget(budget: Amount, *, units: int, checks: int, fee: Amount) -> Prices:
    """
    Share a budget over the payment lines; a check may cost as much as the task it repeats.

    Raises `InvalidInput` GM-1150 where less than one base unit is left for each.
    """
    each = (budget - fee) // (units + checks)
    if each <= 0:
        raise InvalidInput(
            f"the budget of {format_money(budget)} is too small",
            code="GM-1150",
            why=f"{units} tasks, {checks} checks and a fee of {format_money(fee)} share it",
            money="nothing was locked or spent",
            hints=("raise budget.max in the job file",),
            fault="requester",
        )
    return Prices(
        checks=checks,
        max_unit_price=Amount(each),
        max_check_price=Amount(each if checks else 0),
        max_fee=fee,
    )


def make_order(plan: Plan, *, requester: Address, now: Timestamp) -> Order:
    """Write the order of a plan, with a fresh nonce and times that leave room to settle."""
    limits = plan.spec.limits
    rounds = plan.spec.units * (1 + plan.spec.retry.attempts_max)
    work = min(limits.queue_seconds + limits.run_seconds * rounds, LIFETIME_SECONDS_MAX)
    settle_by, expiry = _choose_times(now, work, plan.market.order_lifetime)
    return Order(
        requester=requester,
        coordinator=plan.market.coordinator,
        job_hash=plan.spec.compute_hash(),
        verify_hash=compute_verify_hash(plan.spec.verify),
        units=plan.spec.units,
        checks=plan.prices.checks,
        max_unit_price=plan.prices.max_unit_price,
        max_check_price=plan.prices.max_check_price,
        max_fee=plan.prices.max_fee,
        settle_by=settle_by,
        expiry=expiry,
        nonce=secrets.token_bytes(32),
    )


def _choose_times(now: Timestamp, work: int, lifetime: int) -> tuple[int, int]:
    """Return `settle_by` and expiry: as late as is useful, but never later than escrow is sure."""
    settle_by = now + work + SETTLE_SECONDS
    expiry = settle_by + EXPIRY_SECONDS
    if lifetime <= CLOCK_SECONDS:
        return settle_by, expiry
    expiry = min(expiry, now + lifetime - CLOCK_SECONDS)
    # A quarter of it for a provider that the coordinator leaves out.
    return min(settle_by, expiry - min(EXPIRY_SECONDS, lifetime // 4)), expiry


def sign_order(order: Order, *, key: PrivateKey, domain: Domain) -> Signed[Order]:
    """Sign an order under the coordinator's domain."""
    return key.sign(order, domain).as_signed()
