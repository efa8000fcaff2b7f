"""The watchtower as a role's task: its papers from the content store, its numbers, its bond."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence

import trio

from gpumarket.adapters.approvals import ApprovalFolder
from gpumarket.adapters.batch_papers import NodeArchive
from gpumarket.adapters.chain import Rules
from gpumarket.adapters.equipment import Equipment
from gpumarket.adapters.metrics import Metrics
from gpumarket.adapters.watchtower import Notice, Owner, Watchtower
from gpumarket.protocol.errors import ChainError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.units import Amount, format_money, parse_money
from gpumarket.protocol.watching import OwnClaim, Viewer

BONDS_ON_DEVNET = 2
RETRY_SECONDS = 30.0


class WatchService:
    """One role's watchtower."""

    def __init__(self, equipment: Equipment, rules: Rules, metrics: Metrics) -> None:
        self._equipment = equipment
        self._rules = rules
        self._notices = metrics.counter(
            "gpumarket_watch_notices_total",
            "What was seen and done about posted payments.",
            ("kind", "duty"),
        )
        self._next_block = metrics.gauge(
            "gpumarket_watch_next_block", "The first block not looked at for payments."
        )
        self._tower: Watchtower | None = None

    async def run(
        self,
        *,
        find_viewer: Callable[[], Viewer],
        leave: Callable[[Address], Awaitable[str]],
        list_claims: Callable[[], Sequence[OwnClaim]] = tuple,
    ) -> None:
        """Watch until cancelled."""
        equipment = self._equipment
        approvals = ApprovalFolder(equipment.data_dir, domain=equipment.domain)
        owner = Owner(
            folder=equipment.data_dir,
            log=equipment.log,
            find_viewer=find_viewer,
            leave=leave,
            list_claims=list_claims,
            find_approval=approvals.find,
            tell=self._tell,
        )
        self._tower = Watchtower(
            chain=equipment.chain,
            archive=NodeArchive(equipment.content, lambda: equipment.settings.coordinators),
            domain=equipment.domain,
            rules=self._rules,
            owner=owner,
            draw=lambda: secrets.randbits(64),
        )
        self._next_block.set_function(self._find_next_block)
        await self._tower.run()

    async def keep_bond(self, wanted: str) -> None:
        """
        Have so much money in escrow for bonds of challenges, and say what is at risk without.

        An empty text is some bonds on the devnet, and nothing elsewhere.
        """
        default = BONDS_ON_DEVNET * self._rules.challenge_bond
        is_devnet = self._equipment.settings.is_devnet
        amount = parse_money(wanted) if wanted else default if is_devnet else 0
        while True:
            try:
                await self._fill_escrow(amount)
                return
            except ChainError as error:
                self._equipment.log.warn("the escrow was not filled", reason=error.message)
            await trio.sleep(RETRY_SECONDS)

    async def _fill_escrow(self, wanted: int) -> None:
        chain, me = self._equipment.chain, self._equipment.identity.address
        bond = self._rules.challenge_bond
        held = await chain.read_escrow(me)
        amount = min(max(0, wanted - held), await chain.read_token_balance(me))
        if amount > 0:
            await chain.deposit(amount)
            held = Amount(held + amount)
            self._equipment.log.info("escrow filled for bonds", amount=format_money(Amount(amount)))
        if held < bond:
            self._equipment.log.warn(
                "no escrow for the bond of a challenge: wrong evidence could not be demanded",
                need=format_money(bond),
                have=format_money(held),
                hint=f"gpumarket wallet deposit {format_money(bond)}",
            )

    def _tell(self, notice: Notice) -> None:
        self._notices.labels(kind=notice.kind, duty=notice.duty).inc()

    def _find_next_block(self) -> float:
        return 0.0 if self._tower is None else float(self._tower.next_block)
