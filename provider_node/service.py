"""The provider's tasks under one nursery: sessions, runtime, sandbox, offers, status pages."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from gpumarket.adapters.approvals import ApprovalFolder
from gpumarket.adapters.chain import Rules
from gpumarket.adapters.class_probe import probe_repro_class
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.detection import Detection
from gpumarket.adapters.equipment import LOOPBACK, Equipment, announce_ready, open_equipment
from gpumarket.adapters.gpus import (
    detect,
    make_simulated_devices,
    measure_memory_bytes,
    read_processor,
)
from gpumarket.adapters.hardware import Prover
from gpumarket.adapters.http import make_pages_app, serve_http
from gpumarket.adapters.logs import Log
from gpumarket.adapters.machine import read_machine
from gpumarket.adapters.market_link import LinkIdentity, MarketLink
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.adapters.watch_service import WatchService
from gpumarket.config import ProviderConfig
from gpumarket.protocol.approvals import Approval, Approvals
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import ChainError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32, format_hex, parse_address
from gpumarket.protocol.ledger import ROLE_VERIFIER
from gpumarket.protocol.messages import (
    ApprovalsKept,
    Declined,
    HardwareChallenged,
    HardwareDrawn,
    Message,
    ProviderHello,
    ReceiptsApproved,
    Welcome,
)
from gpumarket.protocol.offer import OFFER_LIFETIME_SECONDS, Offer
from gpumarket.protocol.signing import Domain, PrivateKey, Signed
from gpumarket.protocol.units import PPM, parse_money, parse_size
from gpumarket.runtime import Runtime
from provider_node.api import URL_FILE, Figures, render_idleness, render_status
from provider_node.canary import Canary
from provider_node.cheat import Forger
from provider_node.core.claims import list_claims, make_viewer
from provider_node.core.decide import Provider
from provider_node.core.effects import Effect
from provider_node.core.events import (
    EVENT,
    CoordinatorCaught,
    CoordinatorJoined,
    CoordinatorLost,
    CoordinatorMessage,
    Event,
    HardwareChecked,
    MessageReceived,
    MinutePassed,
    ProcessStarted,
    TimePassed,
)
from provider_node.core.state import ProviderState
from provider_node.core.terms import NodeAddress, Terms, make_offer
from provider_node.perform import World, name_run, perform
from provider_node.report import HOURS_PAGE, render_hours

RENEW_SECONDS = OFFER_LIFETIME_SECONDS / 2
COLLECT_SECONDS = 600.0
CHAIN_SECONDS = 30.0
TICK_SECONDS = 60.0
_RUNTIMES = {"runc": "runc", "gvisor": "runsc"}


def name_offer_topic(domain: Domain) -> str:
    """Name the gossip topic on which offers of one market are announced."""
    return f"gpumarket.offer.v1.{domain.chain_id}.{format_hex(domain.contract)}"


async def serve(config: ProviderConfig, log: Log) -> None:
    """Run the provider until cancelled."""
    topics = frozenset({name_offer_topic(config.role.domain)})
    async with open_equipment(config.role, log, topics=topics) as equipment:
        sandbox = DockerSandbox(
            owner=equipment.identity.address.hex(), folder=equipment.data_dir / "sandbox"
        )
        try:
            # Containers of a process that was killed would go on using what we sell again.
            removed = await sandbox.remove_leftovers()
            facts = await sandbox.probe(_RUNTIMES[config.provider.isolation])
            log.info("sandbox tried", engine=facts.engine_version, leftovers_removed=removed)
            rules = await equipment.chain.read_rules()
            terms = await make_terms(config, equipment.identity.address, rules, log=equipment.log)
            service = Service(config, equipment, sandbox, rules, terms)
            async with sandbox.tidying():
                await service.run()
        finally:
            sandbox.close()


async def make_terms(config: ProviderConfig, provider: Address, rules: Rules, *, log: Log) -> Terms:
    """Put together what this machine, its configuration and the chain's rules allow."""
    settings = config.provider
    processor = read_processor()
    poses = settings.cheat is not None and settings.cheat.poses
    made_up = make_simulated_devices(settings.simulate, poses=poses)
    found = Detection(devices=made_up)
    if not made_up:
        found = await trio.to_thread.run_sync(detect, processor)
    for fault in found.faults:
        log.warn("a device is not offered", reason=fault.text, code=fault.code)
    devices = found.devices
    machine = await trio.to_thread.run_sync(read_machine, settings, Path(config.role.data_dir))
    repro_class = await trio.to_thread.run_sync(
        partial(probe_repro_class, processor, devices, emulation=settings.emulate)
    )
    return Terms(
        provider=provider,
        domain=config.role.domain,
        devices=devices,
        slots=settings.slots,
        cpus=processor.cores,
        memory_bytes=parse_size(settings.memory) if settings.memory else measure_memory_bytes(),
        disk_bytes=parse_size(settings.disk),
        region=settings.region,
        isolation=settings.isolation,
        repro_class=repro_class,
        price_per_device_hour=parse_money(settings.price_per_device_hour),
        order_lifetime_seconds=rules.order_lifetime,
        bond_min=rules.min_bond,
        machine=machine,
    )


def make_forger(config: ProviderConfig, folder: Path) -> Forger | None:
    """Make the devnet's cheat where the configuration asks for one; refuse it elsewhere."""
    cheat = config.provider.cheat
    if cheat is None:
        return None
    if not config.role.is_devnet:
        raise InvalidInput("a cheat exists on the devnet only", code="GM-1303")
    if not cheat.forge_share:
        return None
    return Forger(share_ppm=round(cheat.forge_share * PPM), folder=folder / "patterns")


def make_canary(config: ProviderConfig, key: PrivateKey, folder: Path) -> Canary | None:
    """Make what forges for the operator's own orders, where the configuration asks for it."""
    settings = config.provider.canary
    if settings is None:
        return None
    return Canary(
        key=key,
        requesters=frozenset(map(parse_address, settings.requesters)),
        share_ppm=round(settings.share * PPM),
        folder=folder,
    )


class Service:
    """Joins the parts: what coordinators say becomes events, effects become deeds."""

    def __init__(
        self,
        config: ProviderConfig,
        equipment: Equipment,
        sandbox: DockerSandbox,
        rules: Rules,
        terms: Terms,
    ) -> None:
        self._config = config
        self._equipment = equipment
        self._clock = SystemClock()
        self._sequence = 0
        self._terms = terms
        identity, domain = equipment.identity, equipment.domain
        self._node = NodeAddress(
            peer_id=equipment.network.peer_id,
            addresses=equipment.network.addresses,
            sealing_key=identity.sealing_public,
        )
        self._link = MarketLink(
            equipment.network,
            LinkIdentity(key=identity.key, domain=domain, clock=self._clock),
            self,
            draw_jitter=random.random,
        )
        self._prover = Prover(
            self._terms.devices, self._link.send, equipment.log, note=self._note_check
        )
        self._figures = Figures()
        self._watch = WatchService(equipment, rules, self._figures.metrics)
        self._approvals = ApprovalFolder(equipment.data_dir, domain=domain)
        self._work = equipment.data_dir / "work"
        self._runner = UnitRunner(
            content=equipment.content,
            sandbox=sandbox,
            folder=self._work,
            emulation=config.provider.emulate,
        )
        world = World(
            identity=identity,
            domain=domain,
            runner=self._runner,
            link=self._link,
            bank=equipment.chain,
            post=self._post,
            clock=self._clock,
            log=equipment.log,
            note_phase=self._figures.note_phase,
            forger=make_forger(config, self._work),
            canary=make_canary(config, identity.key, equipment.data_dir / "canaries"),
        )
        self._runtime: Runtime[Event, Effect] = Runtime(
            state=Provider(terms=self._terms),
            event_type=EVENT,
            journal=equipment.journal,
            perform=partial(perform, world=world),
            clock=self._clock,
            make_started=lambda at: ProcessStarted(at=at, terms=self._terms),
            make_time_passed=lambda at: TimePassed(at=at),
        )

    @property
    def _state(self) -> ProviderState:
        state: ProviderState = self._runtime.state
        return state

    async def run(self) -> None:
        """Recover, join every coordinator, serve until cancelled."""
        role = self._config.role
        async with trio.open_nursery() as nursery:
            await nursery.start(self._runtime.run)
            await trio.to_thread.run_sync(self._sweep_runs, self._list_run_names())
            port = await nursery.start(
                serve_http,
                partial(make_pages_app, pages=self._make_pages()),
                LOOPBACK,
                role.http_port,
            )
            url = self._equipment.data_dir / URL_FILE
            await trio.to_thread.run_sync(url.write_text, f"http://{LOOPBACK}:{port}")
            await nursery.start(self._prover.run)
            await nursery.start(self._link.run, role.coordinators)
            nursery.start_soon(self._tick)
            tasks = (self._renew_offer, self._collect_garbage, self._watch_chain)
            for task in (*tasks, self._watch_payments):
                nursery.start_soon(task)
            nursery.start_soon(self._watch.keep_bond, self._config.provider.watch_escrow)
            announce_ready(self._equipment, http_port=port, summary=self._summarize())

    # ---- what coordinators say -------------------------------------------------------------

    def make_hello(self) -> ProviderHello:
        """Sign the offer as it is now, and say which leases we still have."""
        return ProviderHello(
            offer=self._sign_offer(), running=self._state.find_unfinished_business()
        )

    async def handle_joined(self, welcome: Welcome) -> None:
        """Say again what the coordinator may not have heard."""
        await self._post(CoordinatorJoined(at=self._clock.now(), coordinator=welcome.coordinator))

    async def handle_lost(self, coordinator: Address) -> None:
        """Keep working: answers wait for the next session."""
        await self._post(CoordinatorLost(at=self._clock.now(), coordinator=coordinator))

    async def handle_message(self, coordinator: Address, message: Message) -> None:
        """Turn a coordinator's message into an event."""
        if isinstance(message, CoordinatorMessage):
            await self._post(
                MessageReceived(
                    at=self._clock.now(),
                    coordinator=coordinator,
                    message=message,
                    disk_free_bytes=shutil.disk_usage(self._equipment.data_dir).free,
                )
            )
        elif isinstance(message, ReceiptsApproved):
            await self._keep_approvals(coordinator, message.approvals)
        elif isinstance(message, HardwareChallenged):
            self._prover.begin(coordinator, message)
        elif isinstance(message, HardwareDrawn):
            self._prover.draw(coordinator, message)
        elif isinstance(message, Declined):
            self._prover.stop(message.about)
            self._equipment.log.warn(
                "a coordinator declined",
                code=message.code,
                need=message.need,
                have=message.have,
            )
        elif not isinstance(message, Welcome):  # one answers each renewed hello
            raise RemoteProtocolError(f"a {type(message).__name__} is nothing for a provider")

    async def _keep_approvals(self, coordinator: Address, said: Approvals) -> None:
        """Write down what others say for our receipts, and answer: then it is not said again."""
        kept: list[Hash32] = []
        for approval in said.approvals:
            if approval.receipt.signer != self._equipment.identity.address:
                raise RemoteProtocolError("an approval is of somebody else's receipt")
            try:
                is_use = await self._is_of_use(approval)
            except ChainError as error:
                self._equipment.log.warn("a verifier was not looked up", reason=error.message)
                continue  # it is said again when the coordinator is joined again
            if is_use and await trio.to_thread.run_sync(self._approvals.keep, approval, said.order):
                self._equipment.log.info(
                    "a receipt is approved",
                    receipt=approval.receipt_hash,
                    by="requester" if approval.acceptance else "verifier",
                )
            kept += approval.list_words()
        await self._link.send(coordinator, ApprovalsKept(words=tuple(kept)))

    async def _is_of_use(self, approval: Approval) -> bool:
        """Say whether the contract could heed it: the first verifier kept keeps others out."""
        match = approval.attestation
        if match is None:
            return True
        return await self._equipment.chain.read_role(match.signer) == ROLE_VERIFIER

    # ---- inside ----------------------------------------------------------------------------

    async def _post(self, event: Event) -> None:
        await self._runtime.post(event)

    async def _note_check(self, device: int, is_over: bool) -> None:
        await self._post(HardwareChecked(at=self._clock.now(), device=device, is_over=is_over))

    async def _tick(self) -> None:
        """Leave a sign of life each minute, so that idle hours are not taken for absence."""
        while True:
            await trio.sleep(TICK_SECONDS)
            await self._post(MinutePassed(at=self._clock.now()))

    def _sign_offer(self) -> Signed[Offer]:
        now = self._clock.now()
        # Unix milliseconds would do, but for two offers within one second.
        self._sequence = max(self._sequence + 1, now * 1_000)
        offer = make_offer(self._terms, self._node, sequence=self._sequence, now=now)
        return self._equipment.identity.key.sign(offer, self._equipment.domain).as_signed()

    async def _renew_offer(self) -> None:
        topic = name_offer_topic(self._equipment.domain)
        while True:
            # Best effort, for whoever listens; coordinators hear it on their session.
            await self._equipment.network.publish(topic, encode_document(self._sign_offer()))
            await trio.sleep(RENEW_SECONDS)
            await self._link.announce()

    async def _collect_garbage(self) -> None:
        while True:
            await trio.sleep(COLLECT_SECONDS)
            oldest = self._clock.now() - self._terms.order_lifetime_seconds
            await trio.to_thread.run_sync(partial(self._approvals.sweep, before=oldest))
            freed = await self._equipment.content.collect_garbage()
            if freed:
                self._equipment.log.info("content was collected", freed_bytes=freed)

    async def _watch_chain(self) -> None:
        is_reached = True
        while True:
            try:
                _, block_at = await self._equipment.chain.head()
                self._figures.note_head(block_at)
                is_reached = True
            except ChainError as error:
                if is_reached:
                    self._equipment.log.warn("the chain does not answer", reason=error.message)
                is_reached = False
            await trio.sleep(CHAIN_SECONDS)

    async def _watch_payments(self) -> None:
        """Watch what we and our requesters pay and are paid; settle what nobody pays."""
        await self._watch.run(
            find_viewer=lambda: make_viewer(self._state),
            leave=self._leave,
            list_claims=lambda: list_claims(self._state),
        )

    async def _leave(self, coordinator: Address) -> str:
        if coordinator in self._state.distrusted:
            return ""
        await self._post(CoordinatorCaught(at=self._clock.now(), coordinator=coordinator))
        return "no more leases are taken from it"

    def _list_run_names(self) -> frozenset[str]:
        return frozenset(name_run(lease_id) for lease_id in self._state.leases)

    def _sweep_runs(self, known: frozenset[str]) -> None:
        """Remove run folders of leases that a crash made us forget to clean up after."""
        runs = self._runner.find_output("any").parent
        for folder in runs.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _summarize(self) -> str:
        devices = ", ".join(
            f"{device.model}{' (simulated)' if device.simulated else ''}"
            for device in self._terms.devices
        )
        return f"{devices}  {self._config.provider.price_per_device_hour}/h"

    def _make_pages(self) -> dict[str, Callable[[], str]]:
        now, peer_id = self._clock.now, self._node.peer_id
        return {
            "/metrics": lambda: self._figures.render(self._state, now()),
            "/healthz": lambda: "ok\n",
            "/v1/status": lambda: render_status(self._state, peer_id=peer_id, now=now()),
            "/v1/why-idle": lambda: render_idleness(self._state, now=now()),
            HOURS_PAGE: lambda: render_hours(self._state, now=now()),
        }
