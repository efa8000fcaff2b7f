"""The verifier's tasks under one nursery: sessions, runtime, sandbox, status pages."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.chain import Rules
from gpumarket.adapters.class_probe import probe_repro_class
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.equipment import LOOPBACK, Equipment, announce_ready, open_equipment
from gpumarket.adapters.http import make_pages_app, serve_http
from gpumarket.adapters.logs import Log
from gpumarket.adapters.market_link import LinkIdentity, MarketLink
from gpumarket.adapters.metrics import Metrics
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.adapters.watch_service import WatchService
from gpumarket.config import VerifierConfig
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.messages import (
    CheckRequested,
    Message,
    ResultShown,
    VerifierHello,
    Welcome,
)
from gpumarket.protocol.offer import OFFER_LIFETIME_SECONDS, VerifierCard
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, parse_money
from gpumarket.protocol.watching import Viewer
from gpumarket.runtime import Runtime
from verifier.core.decide import Verifier
from verifier.core.effects import Effect
from verifier.core.events import (
    CheckAsked,
    Event,
    ProcessStarted,
    ResultRevealed,
    TimePassed,
)
from verifier.core.state import CheckState
from verifier.perform import World, perform

RENEW_SECONDS = OFFER_LIFETIME_SECONDS / 2


async def serve(config: VerifierConfig, log: Log) -> None:
    """Run the verifier until cancelled."""
    async with open_equipment(config.role, log) as equipment:
        sandbox = DockerSandbox(
            owner=equipment.identity.address.hex(), folder=equipment.data_dir / "sandbox"
        )
        rules = await equipment.chain.read_rules()
        try:
            await sandbox.remove_leftovers()
            await sandbox.probe()
            emulation = config.verifier.emulate
            repro_class = await trio.to_thread.run_sync(
                partial(probe_repro_class, emulation=emulation)
            )
            service = Service(config, equipment, sandbox, rules, repro_class)
            async with sandbox.tidying():
                await service.run()
        finally:
            sandbox.close()


class Service:
    """Joins the parts: what coordinators say becomes events, effects become deeds."""

    def __init__(
        self,
        config: VerifierConfig,
        equipment: Equipment,
        sandbox: DockerSandbox,
        rules: Rules,
        repro_class: Hash32,
    ) -> None:
        self._config = config
        self._equipment = equipment
        self._clock = SystemClock()
        self._repro_class = repro_class
        identity, domain = equipment.identity, equipment.domain
        self._link = MarketLink(
            equipment.network,
            LinkIdentity(key=identity.key, domain=domain, clock=self._clock),
            self,
            draw_jitter=random.random,
        )
        work = equipment.data_dir / "work"
        emulation, content = config.verifier.emulate, equipment.content
        runner = UnitRunner(content=content, sandbox=sandbox, folder=work, emulation=emulation)
        world = World(
            identity=identity,
            domain=domain,
            content=equipment.content,
            runner=runner,
            link=self._link,
            post=self._post,
            clock=self._clock,
            log=equipment.log,
            folder=Path(work),
        )
        self._runtime: Runtime[Event, Effect] = Runtime(
            state=Verifier(
                verifier=identity.address,
                domain=domain,
                repro_class=self._repro_class,
                slots=config.verifier.slots,
            ),
            event_type=Event,
            journal=equipment.journal,
            perform=partial(perform, world=world),
            clock=self._clock,
            make_started=lambda at: ProcessStarted(at=at),
            make_time_passed=lambda at: TimePassed(at=at),
        )
        self._metrics = Metrics("verifier")
        self._watch = WatchService(equipment, rules, self._metrics)
        self._ready = self._metrics.gauge(
            "gpumarket_node_ready", "1 while a coordinator is joined."
        )
        self._backlog = self._metrics.gauge(
            "gpumarket_verification_backlog", "Checks asked for and not attested yet."
        )
        self._verdicts = self._metrics.gauge(
            "gpumarket_verifications", "Checks remembered, by verdict.", ("verdict",)
        )

    async def run(self) -> None:
        """Recover, join every coordinator, serve until cancelled."""
        role = self._config.role
        async with trio.open_nursery() as nursery:
            await nursery.start(self._runtime.run)
            pages = {"/metrics": self._render_metrics, "/healthz": lambda: "ok\n"}
            port = await nursery.start(
                serve_http, partial(make_pages_app, pages=pages), LOOPBACK, role.http_port
            )
            await nursery.start(self._link.run, role.coordinators)
            for task in (self._renew_card, self._watch_payments):
                nursery.start_soon(task)
            price = self._config.verifier.price_per_check
            announce_ready(
                self._equipment, http_port=port, summary=f"re-executes for {price} a check"
            )

    # ---- what coordinators say -------------------------------------------------------------

    def make_hello(self) -> VerifierHello:
        """Sign who we are, for a while."""
        return VerifierHello(card=self._make_card())

    async def handle_joined(self, welcome: Welcome) -> None:
        """Say again what the coordinator may not have heard."""
        self._ready.set(1)
        await self._post(ProcessStarted(at=self._clock.now()))
        self._equipment.log.info("ready for checks", coordinator=welcome.coordinator)

    async def handle_lost(self, _coordinator: Address) -> None:
        """Keep working: answers wait for the next session."""
        self._ready.set(0)

    async def handle_message(self, coordinator: Address, message: Message) -> None:
        """Turn a coordinator's message into an event."""
        now = self._clock.now()
        match message:
            case CheckRequested():
                await self._post(CheckAsked(coordinator=coordinator, request=message, at=now))
            case ResultShown():
                await self._post(
                    ResultRevealed(
                        coordinator=coordinator,
                        opening=message.opening,
                        sources=message.sources,
                        states=message.states,
                        at=now,
                    )
                )
            case _:
                self._equipment.log.info("ignored", message=type(message).__name__)

    # ---- inside ----------------------------------------------------------------------------

    async def _post(self, event: Event) -> None:
        await self._runtime.post(event)

    async def _renew_card(self) -> None:
        while True:
            await trio.sleep(RENEW_SECONDS)
            await self._link.announce()

    async def _watch_payments(self) -> None:
        """Answer for what pays us, where its coordinator does not."""
        viewer = Viewer(me=self._equipment.identity.address)

        async def stay(_coordinator: Address) -> str:
            return ""

        await self._watch.run(find_viewer=lambda: viewer, leave=stay)

    def _make_card(self) -> Signed[VerifierCard]:
        equipment, now = self._equipment, self._clock.now()
        card = VerifierCard(
            verifier=equipment.identity.address,
            peer_id=equipment.network.peer_id,
            addresses=equipment.network.addresses,
            repro_class=self._repro_class,
            slots=self._config.verifier.slots,
            price_per_check=Amount(parse_money(self._config.verifier.price_per_check)),
            sequence=now,
            issued_at=now,
            expires_at=now + OFFER_LIFETIME_SECONDS,
        )
        return equipment.identity.key.sign(card, equipment.domain).as_signed()

    def _render_metrics(self) -> str:
        checks = self._runtime.state.checks.values()
        pending = (CheckState.WAITING, CheckState.REPLAYING, CheckState.SEALED)
        self._backlog.set(sum(check.state in pending for check in checks))
        for verdict in Verdict:
            count = sum(
                check.attestation is not None and check.attestation.verdict == verdict
                for check in checks
            )
            self._verdicts.labels(verdict=verdict.name.lower()).set(count)
        return self._metrics.render()
