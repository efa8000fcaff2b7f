"""The coordinator's tasks under one nursery: members' sessions, runtime, API."""

from __future__ import annotations

from collections import Counter
from functools import partial
from importlib.metadata import version

import trio

from coordinator.api import Archive, Desk, make_app
from coordinator.core import effects, events
from coordinator.core.batching import OWN_FAULTS
from coordinator.core.decide import CoordinatorState
from coordinator.core.lifecycle import JobState
from coordinator.core.settings import Settings, compute_margins
from coordinator.perform import perform
from coordinator.world import World
from gpumarket.adapters.chain import Rules
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.equipment import LOOPBACK, Equipment, announce_ready, open_equipment
from gpumarket.adapters.first_blocks import FirstBlocks
from gpumarket.adapters.http import serve_http
from gpumarket.adapters.logs import Log
from gpumarket.adapters.market_link import LinkIdentity, Member, MemberHall
from gpumarket.adapters.metrics import Metrics
from gpumarket.adapters.proof_files import ProofFolder
from gpumarket.adapters.state_proofs import StateProver
from gpumarket.adapters.watch_service import WatchService
from gpumarket.config import CoordinatorConfig
from gpumarket.protocol.errors import ChainError, RemoteProtocolError
from gpumarket.protocol.ids import Address, parse_address
from gpumarket.protocol.messages import (
    Declined,
    LeaseProgress,
    Message,
    ProviderHello,
    VerifierHello,
    Welcome,
)
from gpumarket.protocol.units import Amount, parse_money
from gpumarket.protocol.watching import Viewer
from gpumarket.runtime import Runtime

FIRST_BLOCKS_NAME = "first_blocks.json"
PROOFS_NAME = "proofs"


async def serve(config: CoordinatorConfig, log: Log) -> None:
    """Run the coordinator until cancelled."""
    async with open_equipment(config.role, log) as equipment:
        rules = await equipment.chain.read_rules()
        await Service(config, equipment, rules).run()


class Service:
    """Joins the parts: what members and requesters say becomes events, effects become deeds."""

    def __init__(self, config: CoordinatorConfig, equipment: Equipment, rules: Rules) -> None:
        self._config = config
        self._equipment = equipment
        self._clock = SystemClock()
        identity, domain = equipment.identity, equipment.domain
        self._hall = MemberHall(
            equipment.network,
            LinkIdentity(key=identity.key, domain=domain, clock=self._clock),
            self,
        )
        self._first_blocks = FirstBlocks(equipment.data_dir / FIRST_BLOCKS_NAME)
        world = World(
            identity=identity,
            domain=domain,
            chain=equipment.chain,
            seed_delay_blocks=rules.seed_delay_blocks,
            content=equipment.content,
            hall=self._hall,
            post=self._post,
            clock=self._clock,
            log=equipment.log,
            first_blocks=self._first_blocks,
        )
        self._runtime: Runtime[events.Event, effects.Effect] = Runtime(
            state=CoordinatorState(settings=_make_settings(config, equipment, rules)),
            event_type=events.EVENT,
            journal=equipment.journal,
            perform=partial(perform, world=world),
            clock=self._clock,
            make_started=lambda at: events.ProcessStarted(
                at=at, sources=equipment.network.addresses
            ),
            make_time_passed=lambda at: events.TimePassed(at=at),
        )
        self._metrics = Metrics("coordinator")
        self._gauges = _Gauges(self._metrics)
        self._archive = Archive(
            read_state=lambda: self._runtime.state,
            prover=StateProver(equipment.chain),
            folder=ProofFolder(
                equipment.data_dir / PROOFS_NAME, bytes_max=config.coordinator.proofs_bytes_max
            ),
        )
        self._watch = WatchService(equipment, rules, self._metrics)

    async def run(self) -> None:
        """Recover, open the doors, serve until cancelled."""
        role, network = self._config.role, self._equipment.network
        await self._note_beginning()
        async with trio.open_nursery() as nursery:
            # First of all: a challenge that waits from before a restart has a deadline.
            nursery.start_soon(self._answer_challenges)
            await nursery.start(self._runtime.run)
            nursery.start_soon(self._archive.run, self._runtime.wait_moved, self._equipment.log)
            desk = Desk(
                read_state=lambda: self._runtime.state,
                post=self._post,
                wait_moved=self._runtime.wait_moved,
                chain=self._equipment.chain,
                content=self._equipment.content,
                clock=self._clock,
                metrics=self._metrics,
                update_metrics=self._update_metrics,
                content_peers=network.addresses,
                version=version("gpumarket"),
                archive=self._archive,
            )
            port = await nursery.start(
                serve_http, partial(make_app, desk=desk), LOOPBACK, role.http_port
            )
            announce_ready(self._equipment, http_port=port, summary="matches, settles, shows why")
            await trio.sleep_forever()

    def _update_metrics(self) -> None:
        self._gauges.update(self._runtime.state, self._hall)
        self._gauges.update_proofs(self._archive)

    async def _answer_challenges(self) -> None:
        """Show the evidence of our own payments to whoever demands it."""
        viewer = Viewer(me=self._equipment.identity.address)

        async def stay(_coordinator: Address) -> str:
            return ""

        await self._watch.run(find_viewer=lambda: viewer, leave=stay)

    async def _note_beginning(self) -> None:
        # Without events nothing was ever tried; with them and without the file, all is searched.
        if self._first_blocks.is_missing and await self._equipment.journal.load() == (None, []):
            await self._first_blocks.begin((await self._equipment.chain.head())[0])

    # ---- what members say ------------------------------------------------------------------

    def make_welcome(self) -> Welcome:
        """Say who we are and where content is."""
        equipment = self._equipment
        return Welcome(
            coordinator=equipment.identity.address, content_peers=equipment.network.addresses
        )

    async def handle_joined(self, member: Member) -> Declined | None:
        """Take a member's first or renewed hello into the book, with what the chain has of it."""
        now, hello = self._clock.now(), member.hello
        try:
            stake = await self._equipment.chain.read_stake(member.address)
            payout = await self._equipment.chain.read_payout(member.address)
        except ChainError as error:
            self._equipment.log.warn(
                "a stake or payout address could not be read", member=member.address
            )
            return Declined(
                about=bytes(32), code=error.code, need="a chain that answers", have="none"
            )
        match hello:
            case ProviderHello(offer=offer, running=running):
                await self._post(
                    events.ProviderJoined(
                        at=now,
                        sender=member.address,
                        session=member.session,
                        offer=offer,
                        running=running,
                        stake=stake,
                        payout=payout,
                    )
                )
            case VerifierHello(card=card):
                await self._post(
                    events.VerifierJoined(
                        at=now,
                        sender=member.address,
                        session=member.session,
                        card=card,
                        stake=stake,
                        payout=payout,
                    )
                )
        return None

    async def handle_left(self, member: Member) -> None:
        """Note that a member's session ended."""
        now = self._clock.now()
        self._equipment.log.info("a member left", member=member.address)
        if isinstance(member.hello, ProviderHello):
            await self._post(
                events.ProviderLeft(at=now, provider=member.address, session=member.session)
            )
        else:
            await self._post(
                events.VerifierLeft(at=now, verifier=member.address, session=member.session)
            )

    async def handle_message(self, member: Member, message: Message) -> None:
        """Turn a member's message into an event."""
        now = self._clock.now()
        if isinstance(message, LeaseProgress):
            progress = events.ProgressReported(at=now, sender=member.address, progress=message)
            await self._post(progress)
        elif isinstance(message, events.PeerMessage):
            received = events.MessageReceived(at=now, sender=member.address, message=message)
            await self._post(received)
        else:
            raise RemoteProtocolError(f"a member does not send {type(message).__name__}")

    async def _post(self, event: events.Event) -> None:
        await self._runtime.post(event)


class _Gauges:
    """The coordinator's numbers, read off its state when somebody asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._ready = metrics.gauge("gpumarket_node_ready", "1 while the coordinator serves.")
        self._members = metrics.gauge(
            "gpumarket_members", "Connected members, by their role.", ("role",)
        )
        self._jobs = metrics.gauge("gpumarket_queue_jobs", "Jobs by state.", ("state",))
        self._refused = metrics.gauge(
            "gpumarket_messages_refused", "Bad messages since the start, by code.", ("code",)
        )
        self._paused = metrics.gauge(
            "gpumarket_posting_paused",
            "1 while batches are refused for what the coordinator lacks, by code.",
            ("code",),
        )
        self._proofs = metrics.gauge("gpumarket_proofs_kept", "Proofs of ended jobs on disk.")
        self._proof_bytes = metrics.gauge(
            "gpumarket_proofs_bytes", "What the proofs of ended jobs take on disk."
        )
        self._unproven = metrics.gauge(
            "gpumarket_proofs_waiting", "Paid jobs of which no proof is kept yet."
        )
        self._checks = metrics.gauge("gpumarket_checks_judged", "Checks that ended with a verdict.")
        self._canaries = metrics.gauge(
            "gpumarket_canary_checks", "Those of them that were of a result forged on purpose."
        )
        self._missed = metrics.gauge(
            "gpumarket_missed_canaries", "Times that a verifier called one of these a match."
        )
        self._cases = metrics.gauge(
            "gpumarket_cases_open", "Results before a jury whose case is not closed on chain."
        )
        self._ready.set(1)

    def update_proofs(self, archive: Archive) -> None:
        """Read what the archive has."""
        self._proofs.set(len(archive.folder))
        self._proof_bytes.set(archive.folder.used_bytes)
        self._unproven.set(len(archive.waiting))

    def update(self, state: CoordinatorState, hall: MemberHall) -> None:
        """Read everything anew."""
        self._cases.set(len(state.trials))
        roles = Counter(type(member.hello).__name__ for member in hall.members.values())
        self._members.labels(role="provider").set(roles["ProviderHello"])
        self._members.labels(role="verifier").set(roles["VerifierHello"])
        jobs = Counter(job.state for job in state.jobs.values())
        for job_state in JobState:
            self._jobs.labels(state=job_state.value).set(jobs[job_state])
        for code in OWN_FAULTS:
            is_reason = state.pause is not None and state.pause.code == code
            self._paused.labels(code=code).set(is_reason)
        for code, count in hall.refused.items():
            self._refused.labels(code=code).set(count)
        self._checks.set(state.canaries.checks)
        self._canaries.set(state.canaries.canaries)
        self._missed.set(sum(each.missed_canaries for each in state.verifiers.values()))


def _make_settings(config: CoordinatorConfig, equipment: Equipment, rules: Rules) -> Settings:
    patience = config.coordinator
    settle_margin, post_margin = compute_margins(config.role.blocks_to_confirm)
    return Settings(
        domain=equipment.domain,
        coordinator=equipment.identity.address,
        fee=Amount(parse_money(patience.fee)),
        grace_seconds=patience.lost_after_seconds,
        epoch_seconds=patience.epoch_seconds_max,
        epoch_receipts_max=patience.epoch_receipts_max,
        hardware_interval_seconds=patience.hardware_interval_seconds,
        stake_slash=rules.stake_slash,
        order_lifetime_seconds=rules.order_lifetime,
        settle_margin_seconds=settle_margin,
        post_margin_seconds=post_margin,
        settle_interval_seconds=patience.settle_interval_seconds,
        settle_jobs_max=patience.settle_jobs_max,
        canary_providers=tuple(map(parse_address, patience.canary_providers)),
        canary_requesters=tuple(map(parse_address, patience.canary_requesters)),
        canary_ppm=patience.canary_ppm,
    )
