"""
Impostors at the hardware challenge: each is refused with its reason, the honest are accepted.

In logical time; `tests/integration/test_hardware_processes.py` has real processes, and
`scripts/bench hardware` what a machine really takes.
"""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.hardware_checks import (
    DRAIN_SECONDS,
    MATE_SECONDS,
    REJOIN_SECONDS,
    RETRY_SECONDS,
)
from gpumarket.hardware.answering import Solver
from gpumarket.hardware.product import NUMPY
from gpumarket.protocol import hardware, messages
from gpumarket.protocol.gpu import Device
from gpumarket.testing.impostors import (
    ChangedDigest,
    ChangedRow,
    GuessingTable,
    HalfTable,
    LazyProduct,
    ZeroProduct,
)
from tests.adversary.hardware_lab import (
    CPU,
    H100,
    INTERVAL,
    LINE_SECONDS,
    SIMULATED,
    Lab,
    Listing,
    make_h100,
    make_server,
)

Opened = messages.HardwareOpened


@pytest.fixture(name="lab")
def lab_fixture(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


def get_code(lab: Lab, listing: Listing) -> str:
    reason = lab.find_reason(listing)
    return "" if reason is None else reason.code


def get_text(lab: Lab, listing: Listing) -> str:
    reason = lab.find_reason(listing)
    return "" if reason is None else reason.text


# ---- the honest ----------------------------------------------------------------------------


def test_an_honest_device_is_matched_once_it_passed_and_not_before(lab: Lab) -> None:
    listing = lab.join("honest")
    assert (lab.is_matched(listing), get_code(lab, listing)) == (False, "GM-4050")
    lab.run()
    assert (lab.is_matched(listing), get_code(lab, listing)) == (True, "")
    assert [judged.problem for judged in lab.judged] == [""]


@pytest.mark.parametrize("device", [CPU, SIMULATED])
def test_a_processor_and_a_simulated_device_pass_as_what_they_are(lab: Lab, device: Device) -> None:
    listing = lab.join("small", device, make_server())
    # What is made up needs no proof to be what it says it is: made up.
    assert lab.is_matched(listing) is device.simulated
    lab.run()
    assert lab.is_matched(listing)


def test_two_honest_devices_on_one_machine_pass_together(lab: Lab) -> None:
    both = [lab.join("first"), lab.join("second")]
    lab.run()
    assert all(lab.is_matched(listing) for listing in both)


# ---- impostors -----------------------------------------------------------------------------


def test_a_processor_offered_as_a_gpu_is_late_with_the_product(lab: Lab) -> None:
    listing = lab.join("impostor", H100, make_server())
    lab.run()
    assert not lab.is_matched(listing)
    assert get_code(lab, listing) == "GM-4051"
    assert "the product" in get_text(lab, listing)


def test_half_the_memory_is_late_with_the_walks(lab: Lab) -> None:
    card = make_h100()
    card.memory_bytes //= 2
    listing = lab.join("impostor", H100, card, partial(HalfTable, NUMPY))
    lab.run()
    assert get_code(lab, listing) == "GM-4051"
    assert "the walks" in get_text(lab, listing)


def test_half_the_memory_that_guesses_the_rest_is_wrong(lab: Lab) -> None:
    card = make_h100()
    card.memory_bytes //= 2
    listing = lab.join("impostor", H100, card, partial(GuessingTable, NUMPY))
    lab.run()
    assert get_code(lab, listing) == "GM-4052"
    assert "a walk through the table ended elsewhere" in get_text(lab, listing)


def test_half_the_memory_with_the_rest_across_the_bus_is_late_with_the_table(lab: Lab) -> None:
    card = make_h100()
    card.memory_bytes //= 2
    listing = lab.join("impostor", H100, card)
    lab.run()
    assert get_code(lab, listing) == "GM-4051"
    assert "the table" in get_text(lab, listing)


@pytest.mark.parametrize("is_patient", [False, True])
@pytest.mark.parametrize("mark", ["host", "payout", "device_id"])
def test_one_device_offered_twice_does_not_pass_twice(
    lab: Lab, mark: str, is_patient: bool
) -> None:
    # Each by itself passes: the card is fast enough to multiply for both, but holds one table.
    card, device = make_h100(), H100
    card.is_patient = is_patient
    if mark == "device_id":
        device = msgspec.structs.replace(H100, device_id="GPU-1")
    first = lab.join("first", device, card, payout="owner" if mark == "payout" else "")
    lab.run(2 * MATE_SECONDS)
    assert lab.is_matched(first)
    host = first.host if mark == "host" else "10.0.0.2"
    twin = lab.join("twin", device, card, host=host, payout=first.payout)
    lab.run(200)
    assert [lab.is_matched(listing) for listing in (first, twin)].count(True) < 2
    assert "the table" in " ".join(get_text(lab, each) for each in (first, twin))


def test_two_offers_that_nothing_joins_are_found_by_chance_only(lab: Lab) -> None:
    """Another host, another owner, no device id: the guide says that this is not proven."""
    card = make_h100()
    first = lab.join("first", H100, card)
    lab.run(2 * MATE_SECONDS)
    twin = lab.join("twin", H100, card, host="10.0.0.2")
    lab.run(200)
    assert [lab.is_matched(listing) for listing in (first, twin)] == [True, True]


def test_answers_of_an_earlier_challenge_are_worth_nothing(lab: Lab) -> None:
    listing = lab.join("replayer")
    lab.run()
    assert lab.is_matched(listing)
    listing.replays, listing.sent = listing.sent, []
    lab.run(2 * INTERVAL)
    assert get_code(lab, listing) == "GM-4052"
    old = listing.replays[0]
    assert isinstance(old, messages.HardwareAnswered)
    # Under its old name the answer belongs to nothing, and changes nothing.
    before = msgspec.msgpack.encode(lab.state.hardware)
    listing.replays = None
    lab.say(listing, lab.now, old)
    lab.run(1)
    assert msgspec.msgpack.encode(lab.state.hardware) == before


@pytest.mark.parametrize(
    ("solver", "why"),
    [
        (LazyProduct, "not the one that was committed to"),
        (ZeroProduct, "not a row of the product"),
        (ChangedRow, "not the one that was committed to"),
        (ChangedDigest, "not committed to"),
    ],
)
def test_wrong_rows_are_found_whatever_was_committed_to(
    lab: Lab, solver: type[Solver], why: str
) -> None:
    listing = lab.join("forger", make_solver=partial(solver, NUMPY))
    lab.run()
    assert not lab.is_matched(listing)
    assert get_code(lab, listing) == "GM-4052"
    assert why in get_text(lab, listing)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("HardwareAnswered", "the product"),
        ("HardwareReady", "the table"),
        ("HardwareOpened", "the walks"),
    ],
)
def test_a_right_answer_after_its_deadline_is_refused(lab: Lab, kind: str, step: str) -> None:
    listing = lab.join("slow", delay={kind: 60.0})
    lab.run()
    assert get_code(lab, listing) == "GM-4051"
    assert step in get_text(lab, listing)
    declined = [each for each in listing.heard if isinstance(each, messages.Declined)]
    assert [each.code for each in declined] == ["GM-4051"]


def test_the_deadlines_own_second_still_counts(lab: Lab) -> None:
    bound = hardware.plan_challenge(H100).opening_seconds
    in_time, late = bound - 3 * LINE_SECONDS, bound + 1.0
    punctual = lab.join("punctual", delay={"HardwareOpened": in_time})
    tardy = lab.join("tardy", delay={"HardwareOpened": late}, host="10.0.0.9")
    lab.run()
    assert (lab.is_matched(punctual), get_code(lab, tardy)) == (True, "GM-4051")


def test_somebody_elses_answer_is_refused(lab: Lab) -> None:
    victim = lab.join("victim", delay={"HardwareOpened": 60.0})
    other = lab.join("other", host="10.0.0.9")
    lab.run(1)
    (challenged,) = (m for m in victim.heard if isinstance(m, messages.HardwareChallenged))
    answer = messages.HardwareAnswered(challenge=challenged.task.challenge, root=b"r" * 32)
    lab.say(other, lab.now, answer)
    rounds = msgspec.msgpack.encode(lab.state.hardware.rounds)
    lab.run(LINE_SECONDS)
    assert msgspec.msgpack.encode(lab.state.hardware.rounds) == rounds


# ---- again ---------------------------------------------------------------------------------


def test_a_device_that_failed_is_back_when_it_passes(lab: Lab) -> None:
    listing = lab.join("slow", delay={"HardwareOpened": 60.0})
    lab.run(100)
    assert get_code(lab, listing) == "GM-4051"
    listing.delay.clear()
    lab.run(RETRY_SECONDS + 60)
    assert lab.is_matched(listing)


def test_it_is_challenged_again_at_a_time_nobody_knows(lab: Lab) -> None:
    gaps = []
    listing = lab.join("honest")
    for _ in range(4):
        lab.run(60)
        due = lab.state.hardware.records[listing.address].due_at
        gaps.append(due - lab.now)
        lab.run(float(due) - lab.now + 60)
    assert all(INTERVAL / 2 - 60 <= gap <= INTERVAL * 1.5 for gap in gaps)
    assert len(set(gaps)) == len(gaps)
    assert len(lab.judged) == 5


def test_leaving_in_the_middle_is_no_way_around(lab: Lab) -> None:
    listing = lab.join("runaway", H100, make_server())
    lab.run(2)
    lab.leave(listing)
    lab.run(200)
    assert not lab.is_matched(listing)
    lab.say_hello(listing)
    lab.run(REJOIN_SECONDS + 60)
    assert not lab.is_matched(listing)


def test_another_offer_of_devices_needs_another_challenge(lab: Lab) -> None:
    listing = lab.join("upgraded", CPU, make_server())
    lab.run()
    assert lab.is_matched(listing)
    listing.device = H100
    lab.say_hello(listing)
    assert not lab.is_matched(listing)
    lab.run()
    assert get_code(lab, listing) == "GM-4051"


def test_a_crash_in_the_middle_blames_nobody_and_asks_again(lab: Lab) -> None:
    listing = lab.join("honest")
    lab.run(2)
    assert lab.state.hardware.rounds
    data = msgspec.msgpack.encode(lab.state)
    lab.state = msgspec.msgpack.decode(data, type=type(lab.state))
    lab.queue.clear()
    listing.card.busy_until = lab.now  # it stops when another challenge comes
    lab.post(events.ProcessStarted(at=lab.at))
    assert not lab.state.hardware.rounds
    assert get_code(lab, listing) == "GM-4050"
    lab.say_hello(listing)
    lab.run()
    assert lab.is_matched(listing)


def test_work_comes_first_but_not_for_ever(lab: Lab) -> None:
    listing = lab.join("busy")
    lab.run()
    provider = lab.state.providers[listing.address]
    provider.lease_ids.append(b"l" * 32)
    due = lab.state.hardware.records[listing.address].due_at
    lab.run(due - lab.now + DRAIN_SECONDS - 60)
    assert (len(lab.judged), lab.find_reason(listing)) == (1, None)
    lab.run(120)
    assert get_code(lab, listing) == "GM-4050"
    provider.lease_ids.clear()
    lab.run()
    assert len(lab.judged) == 2
    assert lab.find_reason(listing) is None


def test_without_an_interval_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch, interval=0)
    listing = lab.join("anybody")
    lab.run()
    assert (lab.is_matched(listing), lab.judged) == (True, [])
