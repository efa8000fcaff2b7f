"""The verifier under any order of events, with restarts: blind, bounded, never lost."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.signing import Domain, PrivateKey
from gpumarket.testing.factories import make_spec
from verifier.core.decide import Verifier
from verifier.core.effects import Effect, ReplayUnit, SendAttestation, SendSeal
from verifier.core.events import (
    CheckAsked,
    Event,
    OutputsCompared,
    ProcessStarted,
    ReplayFailed,
    ResultRevealed,
    TimePassed,
    UnitReplayed,
)
from verifier.core.state import FINISHED, CheckState, check_state

COORDINATOR = b"c" * 20
PROVIDER = PrivateKey(b"p" * 32)
DOMAIN = Domain(chain_id=31337, contract=b"k" * 20)
SPEC = make_spec(units=8)
NUMBER_MAX = 12
NUMBERS = st.integers(1, NUMBER_MAX)
LIFETIME_SECONDS = 60


class VerifierMachine(RuleBasedStateMachine):
    """Asks, replays, reveals and restarts in any order, as a careless world would."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Verifier(verifier=b"v" * 20, domain=DOMAIN, repro_class=bytes(32), slots=2)
        self.now = 1_000
        self.sealed: dict[bytes, bytes] = {}
        self.attested: dict[bytes, SendAttestation] = {}

    def aim(self, number: int, state: CheckState) -> int:
        """Turn a number into that of a check in this state, where there is one."""
        fitting = [c.request.unit for c in self.state.checks.values() if c.state is state]
        return fitting[number % len(fitting)] if fitting and number % 4 else number

    def decide(self, event: Event) -> list[Effect]:
        effects = self.state.decide(event)
        for effect in effects:
            if isinstance(effect, SendSeal):
                first = self.sealed.setdefault(effect.seal.receipt_hash, effect.seal.sealed)
                assert first == effect.seal.sealed, "a seal was changed"
            if isinstance(effect, SendAttestation):
                receipt_hash = effect.attestation.receipt_hash
                assert receipt_hash in self.sealed, "a verdict without a seal"
                assert self.attested.setdefault(receipt_hash, effect) == effect
        return effects

    @rule(number=NUMBERS)
    def ask(self, number: int) -> None:
        request = CheckRequested(
            order_hash=b"o" * 32,
            unit=number,
            receipt_hash=bytes([number]) * 32,
            job=SPEC,
            deadline=self.now + LIFETIME_SECONDS,
            sources=(),
        )
        self.decide(CheckAsked(coordinator=COORDINATOR, request=request, at=self.now))

    @rule(
        number=NUMBERS,
        exit_code=st.sampled_from((0, 0, 0, 3)),
        nonce=st.binary(min_size=32, max_size=32),
    )
    def replay(self, number: int, exit_code: int, nonce: bytes) -> None:
        number = self.aim(number, CheckState.REPLAYING)
        self.decide(
            UnitReplayed(
                receipt_hash=bytes([number]) * 32,
                output="bafy" + "a" * 55,
                exit_code=exit_code,
                duration_ms=5,
                nonce=nonce,
                at=self.now,
            )
        )

    @rule(number=NUMBERS)
    def fail(self, number: int) -> None:
        event = ReplayFailed(
            receipt_hash=bytes([number]) * 32, code="GM-6012", text="gone", at=self.now
        )
        self.decide(event)

    @rule(number=NUMBERS, is_about_the_seal=st.booleans(), is_by_provider=st.booleans())
    def reveal(self, number: int, *, is_about_the_seal: bool, is_by_provider: bool) -> None:
        number = self.aim(number, CheckState.SEALED)
        receipt_hash = bytes([number]) * 32
        check = self.state.checks.get(receipt_hash)
        seal = check.seal if check and is_about_the_seal else None
        result = UnitResult(
            order_hash=b"o" * 32,
            unit=number,
            provider=PROVIDER.address,
            input_hash=bytes(32),
            output="bafy" + "b" * 55,
            output_bytes=9,
            repro_class=bytes(32),
            duration_ms=4,
            salt=b"s" * 32,
        )
        opening = Opening(
            result=result,
            receipt_hash=receipt_hash,
            seal_hashes=(compute_content_hash(seal),) if seal else (),
        )
        key = PROVIDER if is_by_provider else PrivateKey(b"x" * 32)
        signed = key.sign(opening, DOMAIN).as_signed()
        before = check.state if check else None
        self.decide(
            ResultRevealed(coordinator=COORDINATOR, opening=signed, sources=(), at=self.now)
        )
        if check and check.state is CheckState.COMPARING and before is not CheckState.COMPARING:
            assert seal is not None
            assert is_by_provider

    @rule(number=NUMBERS, verdict=st.sampled_from(Verdict))
    def compare(self, number: int, verdict: Verdict) -> None:
        number = self.aim(number, CheckState.COMPARING)
        event = OutputsCompared(
            receipt_hash=bytes([number]) * 32,
            verdict=verdict,
            rule="bytes",
            comparison="so",
            at=self.now,
        )
        self.decide(event)

    @rule(seconds=st.integers(0, 40))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        deadline = self.state.find_next_deadline()
        if deadline is not None and deadline <= self.now:
            self.decide(TimePassed(at=self.now))
            after = self.state.find_next_deadline()
            assert after is None or after > self.now, "a deadline that is not cleared spins"

    @rule()
    def restart(self) -> None:
        written = msgspec.msgpack.encode(self.state)
        self.state = msgspec.msgpack.decode(written, type=Verifier)
        effects = self.decide(ProcessStarted(at=self.now))
        replays = [effect for effect in effects if isinstance(effect, ReplayUnit)]
        assert len(replays) == self.state.count(CheckState.REPLAYING)

    def teardown(self) -> None:
        """From any state a helpful world brings every unfinished check to its end."""
        for _ in range(8 * NUMBER_MAX):  # a free slot starts the next one that waits
            self.replay(1, 0, b"n" * 32)
            self.reveal(1, is_about_the_seal=True, is_by_provider=True)
            self.compare(1, Verdict.MATCH)
        unfinished = [c for c in self.state.checks.values() if c.state not in FINISHED]
        assert not unfinished

    @invariant()
    def keeps_its_promises(self) -> None:
        check_state(self.state)


VerifierMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestVerifierMachine = VerifierMachine.TestCase
