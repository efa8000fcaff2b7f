"""Whatever happens in whatever order, the coordinator keeps its invariants and comes to an end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.core import effects, events
from coordinator.core.decide import CoordinatorState, make_state
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.reporting import describe_next
from coordinator.core.settling import compute_money
from gpumarket.protocol.job import Limits, Retry, VerifyPolicy
from gpumarket.testing.factories import ANYWHERE, make_address, make_hash, make_reason, make_spec
from tests.coordinator_market import (
    DEPOSIT,
    Market,
    make_settings,
    refuse_batch,
    refuse_chain,
    sum_requesters,
)

PROVIDERS = ("provider-1", "provider-2", "provider-3")
VERIFIERS = ("verifier-1", "verifier-2")
REQUESTERS = ("requester-1", "requester-2", "requester-3")
PICK = st.integers(min_value=0, max_value=50)
HONEST: dict[str, Any] = {
    "forges": frozenset(),
    "canaries": frozenset(),
    "operator": REQUESTERS[0],
    "fails": None,
    "opens": True,
    "signs_roots": True,
    "has_outputs": True,
    "declines": False,
}
CHEATS = st.sampled_from(
    [
        {},
        {"forges": frozenset({2, 3, 7})},
        {"forges": frozenset({0, 4, 5})},
        {"forges": frozenset(range(9))},
        {"canaries": frozenset({0, 2, 3, 5})},
        {"fails": make_reason()},
        {"fails": make_reason(code="GM-5201", fault="provider")},
        {"opens": False},
        {"signs_roots": False},
        {"has_outputs": False},
        {"declines": True},
    ]
)
"""Ways to be no honest provider; none is the most usual."""
MODES = st.sampled_from(["sample", "sample", "full", "none"])
TWO_DAYS = 2 * 86_400
CHAIN_CALLS = (effects.CommitEpoch, effects.FixSeed, effects.PostBatch)
SETTINGS: dict[str, Any] = {
    "epoch_seconds": 20, "grace_seconds": 10, "settle_interval_seconds": 30,
    "canary_providers": tuple(map(make_address, PROVIDERS)),
    "canary_requesters": (make_address(REQUESTERS[0]),),
}  # fmt: skip
SEEN: Counter[str] = Counter()
"""What came about at least once: rules that never meet prove nothing."""
LOSABLE = (effects.SendMessage, effects.ProposeLease, effects.CloseSession)


class CoordinatorMachine(RuleBasedStateMachine):
    """Joins, losses, repeats, delays, cheats and crashes in any order hypothesis can think of."""

    def __init__(self) -> None:
        super().__init__()
        self.market = Market(**SETTINGS)
        self.submitted = 0
        self.forgers: set[str] = set()

    @initialize(
        second=CHEATS,
        third=CHEATS,
        units=st.integers(min_value=3, max_value=8),
        mode=MODES,
        jobs=st.integers(min_value=2, max_value=4),
        # How far the jobs have come when the trouble begins.
        steps=st.integers(min_value=0, max_value=240),
        until=st.sampled_from(["anywhere", "pooled", "cut", "refused", "insolvent", "paused"]),
    )
    def start(self, second, third, units, mode, jobs, steps, until) -> None:
        market = self.market
        market.post(events.ProcessStarted(at=market.now, sources=(ANYWHERE,)))
        if until == "paused":
            # Only jobs that come through bring a batch to pause at.
            second, third, mode = {}, {}, "none"
        for name, cheat in zip(PROVIDERS, ({}, second, third), strict=True):
            self.join(name, cheat)
        market.join_verifier(VERIFIERS[0])
        for index in range(jobs):
            spec = make_spec(units=units if index == 0 else 1, verify=VerifyPolicy(mode=mode))
            self.submit_job(spec, signer=REQUESTERS[index % len(REQUESTERS)])
        self.play(steps if until == "anywhere" else 1_000)
        if until == "insolvent":
            self.move_escrow_of(REQUESTERS[0], left=steps, is_seen=bool(steps % 2))
        if until == "paused":
            market.chain.own_fault = "GM-3036"
        if until in ("cut", "refused", "insolvent", "paused"):
            market.wait(30)
        if until == "paused":
            self.play(steps)
            spec = make_spec(units=1, verify=VerifyPolicy(mode="none"))
            self.submit_job(spec, signer=REQUESTERS[-1])
            self.play(1_000)
        if until == "refused" and self.list_shared():
            self.refuse_shared(steps, "GM-3011" if steps % 2 else "GM-3055", is_named=steps < 80)

    def submit_job(self, spec, **changes) -> None:
        self.submitted += 1
        values: dict[str, Any] = {
            "nonce": make_hash(f"nonce {self.submitted}"),
            "settle_by": self.market.now + 4_000,
            "expiry": self.market.now + 8_000,
        }
        escrow = self.market.chain.compute_left(make_address(changes["signer"]))
        self.market.post(self.market.make_submission(spec, escrow=escrow, **(values | changes)))

    # ---- who comes and goes ------------------------------------------------------------

    @rule(name=st.sampled_from(PROVIDERS), cheats=CHEATS)
    def join_again(self, name, cheats) -> None:
        self.join(name, cheats)

    def join(self, name, cheats) -> None:
        if "forges" in cheats:
            self.forgers.add(name)
        self.market.join(name, **(HONEST | cheats))

    @rule(name=st.sampled_from(PROVIDERS), forgets=st.booleans())
    def leave(self, name, forgets) -> None:
        provider = self.market.providers.get(make_address(name))
        if provider is not None:
            self.market.leave(name)
            if forgets:
                provider.leases.clear()
                provider.receipts.clear()

    @rule(name=st.sampled_from(VERIFIERS), is_silent=st.sampled_from([False, False, True]))
    def join_verifier(self, name, is_silent) -> None:
        self.market.join_verifier(name, is_silent=is_silent, is_mute_when_shown=is_silent)

    @rule(name=st.sampled_from(VERIFIERS))
    def leave_verifier(self, name) -> None:
        if make_address(name) in self.market.verifiers:
            self.market.leave_verifier(name)

    @precondition(lambda self: self.submitted < 6)
    @rule(
        signer=st.sampled_from(REQUESTERS),
        units=st.integers(min_value=1, max_value=6),
        mode=MODES,
        attempts_max=st.integers(min_value=0, max_value=5),
        queue_seconds=st.sampled_from([30, 1_800, 1_800]),
        wait=st.sampled_from([0, 60]),
    )
    def submit(self, signer, units, mode, attempts_max, queue_seconds, wait) -> None:
        spec = make_spec(
            units=units,
            verify=VerifyPolicy(mode=mode),
            retry=Retry(attempts_max=attempts_max),
            limits=Limits(queue_seconds=queue_seconds, run_seconds=600),
        )
        self.submit_job(spec, signer=signer, wait=wait)

    @rule(pick=st.integers(min_value=0, max_value=9))
    def cancel(self, pick) -> None:
        # One pick in five or so: a cancelled job teaches less than one that goes on.
        jobs = dict(enumerate(self.market.state.jobs, start=8))
        if pick in jobs:
            self.market.post(events.JobCancelled(at=self.market.now, order_hash=jobs[pick]))

    @rule(
        name=st.sampled_from(REQUESTERS),
        left=st.sampled_from([0, 150, 300, 10**9]),
        withdrawing=st.sampled_from([0, 0, 10**9]),
        is_seen=st.booleans(),
    )
    def move_escrow(self, name, left, withdrawing, is_seen) -> None:
        self.market.chain.withdrawing[make_address(name)] = withdrawing
        self.move_escrow_of(name, left=left, is_seen=is_seen)

    def move_escrow_of(self, name, *, left, is_seen) -> None:
        chain, requester = self.market.chain, make_address(name)
        spent = chain.deposits.get(requester, DEPOSIT) - chain.compute_left(requester)
        chain.deposits[requester] = spent + left
        if is_seen:
            self.market.post(chain.read_escrow(requester, self.market.now))

    @rule(names_accounts=st.booleans())
    def change_the_chains_words(self, names_accounts) -> None:
        self.market.chain.names_accounts = names_accounts

    @rule(code=st.sampled_from(["", "", "GM-3012", "GM-3036"]))
    def take_the_coordinators_bond_or_gas(self, code) -> None:
        self.market.chain.own_fault = code

    @rule(pick=st.integers(min_value=0, max_value=20))
    def spoil(self, pick) -> None:
        """Make the contract refuse an order; seldom, as with canceling."""
        jobs = dict(enumerate(self.market.state.jobs, start=18))
        if pick in jobs:
            self.market.chain.bad_orders.add(jobs[pick])

    # ---- what reaches whom -------------------------------------------------------------

    @precondition(lambda self: self.market.todo)
    @rule(pick=PICK, loses=st.sampled_from([False, False, False, True]))
    def perform(self, pick, loses) -> None:
        todo = self.market.todo
        effect = todo.pop(pick % len(todo))
        if not (loses and isinstance(effect, LOSABLE)):
            self.market.perform(effect)

    @precondition(lambda self: self.market.todo)
    @rule(pick=PICK, is_final=st.booleans())
    def refuse(self, pick, is_final) -> None:
        calls = [effect for effect in self.market.todo if isinstance(effect, CHAIN_CALLS)]
        if calls:
            effect = calls[pick % len(calls)]
            if isinstance(effect, effects.PostBatch):
                # Final is what is not on chain: whoever performs it has looked.
                is_final &= effect.batch not in [each.batch for each in self.market.chain.batches]
            self.market.todo.remove(effect)
            self.market.post(refuse_chain(effect, self.market.now, is_final=is_final))

    @precondition(lambda self: self.list_shared())
    @rule(pick=PICK, code=st.sampled_from(["GM-3055", "GM-3011"]), is_named=st.booleans())
    def refuse_for_good(self, pick, code, is_named) -> None:
        self.refuse_shared(pick, code, is_named=is_named)

    def refuse_shared(self, pick, code, *, is_named) -> None:
        """Have a batch of several jobs refused by the contract, rightly or not."""
        batches = self.list_shared()
        effect = batches[pick % len(batches)]
        payers = list(sum_requesters(effect))
        account = payers[pick % len(payers)] if is_named else b""
        self.market.todo.remove(effect)
        self.market.post(refuse_batch(effect, self.market.now, code=code, account=account))
        SEEN["refused for good"] += 1

    def list_shared(self) -> list[effects.PostBatch]:
        """The batches of several jobs that are not on chain."""
        on_chain = [posted.batch for posted in self.market.chain.batches]
        posts = [effect for effect in self.market.todo if isinstance(effect, effects.PostBatch)]
        return [each for each in posts if len(each.bills) > 1 and each.batch not in on_chain]

    @precondition(lambda self: self.market.inbox)
    @rule(pick=PICK, repeats=st.booleans())
    def deliver(self, pick, repeats) -> None:
        inbox = self.market.inbox
        event = inbox[pick % len(inbox)] if repeats else inbox.pop(pick % len(inbox))
        self.market.deliver(event)

    @rule(pick=st.integers(min_value=0, max_value=200))
    def repeat_something_old(self, pick) -> None:
        said = self.list_said()
        if said:
            self.market.deliver(said[pick % len(said)])

    @rule(pick=PICK)
    def say_everything_in_anothers_name(self, pick) -> None:
        market = self.market
        said = self.list_said()
        for event in said[: 1 + pick]:
            for name in PROVIDERS + VERIFIERS:
                if event.sender == make_address(name):
                    continue
                before = msgspec.msgpack.encode(market.state)
                self.market.post(
                    msgspec.structs.replace(event, sender=make_address(name), at=market.state.now)
                )
                assert msgspec.msgpack.encode(market.state) == before
                # Forgotten, or it would be repeated later in the name of its true sender.
                market.posted.pop()

    def list_said(self) -> list[events.MessageReceived]:
        """Everything that was said or is under way, the newest first."""
        heard = [*self.market.posted, *self.market.inbox][::-1]
        return [event for event in heard if isinstance(event, events.MessageReceived)]

    @rule(steps=st.integers(min_value=1, max_value=60))
    def play_on(self, steps) -> None:
        self.play(steps)

    @rule(steps=st.integers(min_value=5, max_value=60))
    def play_on_with_an_echo(self, steps) -> None:
        self.play(steps, echoes=True)

    def play(self, steps, *, echoes=False) -> None:
        for _ in range(steps):
            if self.market.todo:
                effect = self.market.todo.pop(0)
                for _ in range(2 if echoes else 1):
                    self.market.perform(effect)
            elif self.market.inbox:
                event = self.market.inbox.pop(0)
                for _ in range(2 if echoes else 1):
                    self.market.deliver(event)

    @rule(seconds=st.sampled_from([1, 1, 5, 12, 40, 700]))
    def wait(self, seconds) -> None:
        self.market.wait(seconds)

    @rule()
    def restart(self) -> None:
        self.market.restart()

    # ---- what must hold ----------------------------------------------------------------

    @invariant()
    def somebody_must_act_on_every_job(self) -> None:
        state = self.market.state
        for job in state.jobs.values():
            step = describe_next(state, job)
            assert (step.actor == "nobody") is job.is_over

    @invariant()
    def money_moves_only_as_ordered(self) -> None:
        self.market.chain.sum_paid()
        paid: Counter[bytes] = Counter()
        for posted in self.market.chain.batches:
            for lane in posted.batch.lanes:
                for leaf in lane.leaves:
                    job = self.market.state.jobs[leaf.order_hash]
                    assert job.order.body.requester == lane.requester
                    paid[leaf.order_hash] += leaf.price
        for order_hash, total in paid.items():
            assert total <= self.market.state.jobs[order_hash].order.body.compute_exposure()
        self.note_what_was_seen()

    def note_what_was_seen(self) -> None:
        for posted in self.market.chain.batches:
            SEEN["two jobs of two requesters"] += len(sum_requesters(posted)) >= 2
            SEEN["two jobs of one requester"] += len(posted.bills) > len(sum_requesters(posted))
        bills = [bill for job in self.market.state.jobs.values() for bill in job.bills]
        codes = [bill.problem.code for bill in bills if bill.problem is not None]
        SEEN["a pause with bills in the pool"] += bool(
            self.market.state.pause and self.market.state.due
        )
        SEEN["an escrow too small"] += "GM-3011" in codes

    def teardown(self) -> None:
        """After all that, honest people and time bring every job to its end."""
        market = self.market
        market.chain.own_fault = ""
        for name in PROVIDERS:
            market.join(name, **HONEST)
        for name in VERIFIERS:
            market.join_verifier(name, is_silent=False, is_mute_when_shown=False)
        for name in REQUESTERS:
            market.chain.deposits[make_address(name)] = 10**12
        market.run(seconds_max=TWO_DAYS)
        for job in market.state.jobs.values():
            money = compute_money(market.state, job)
            assert job.is_over, describe_next(market.state, job)
            assert money.locked == 0 and money.spent + money.returned == money.exposure
            if job.state is JobState.SETTLED:
                assert job.counts[UnitState.ACCEPTED] == len(job.units)
            else:
                assert job.reason is not None
        assert not market.state.open_epochs and not market.state.pool
        self.note_what_was_seen()
        SEEN["a canary"] += market.state.canaries.canaries
        assert not any(each.missed_canaries for each in market.state.verifiers.values())
        assert not market.state.open_batches and not market.state.due
        spent = sum(compute_money(market.state, j).spent for j in market.state.jobs.values())
        assert sum(market.chain.sum_paid().values()) == spent
        for name in set(PROVIDERS) - self.forgers:
            standing = market.state.standings.get(make_address(name))
            assert standing is None or not any(day.forged for day in standing.days)
        self.check_replay()

    def check_replay(self) -> None:
        """The same events give the same state, byte for byte."""
        replayed = make_state(make_settings(**SETTINGS))
        for event in self.market.posted:
            data = msgspec.msgpack.encode(event)
            replayed.decide(msgspec.msgpack.decode(data, type=events.EVENT))
        assert msgspec.msgpack.encode(replayed) == msgspec.msgpack.encode(self.market.state)
        assert isinstance(replayed, CoordinatorState)


class TestCoordinatorMachine(CoordinatorMachine.TestCase):  # type: ignore[misc, valid-type]  # made at run time
    """The machine, and afterwards the proof that it met what it is there for."""

    settings = settings(max_examples=80, stateful_step_count=40)

    @classmethod
    def tearDownClass(cls) -> None:
        missing = {
            "two jobs of two requesters", "two jobs of one requester", "refused for good",
            "an escrow too small", "a pause with bills in the pool", "a canary",
        } - {name for name, count in SEEN.items() if count}  # fmt: skip
        assert not missing, f"the machine never met: {sorted(missing)}"
