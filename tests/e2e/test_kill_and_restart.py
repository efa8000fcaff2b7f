"""Each role is killed as by a power cut, in the middle of a job: the job still settles, once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumarket.protocol.ids import format_hex, make_job_id
from gpumarket.protocol.statement import find_trusted_block
from tests.e2e.market import (
    DETACHED,
    PROVIDERS,
    Answer,
    Market,
    expect_results,
    make_program,
    wait_for,
)
from tests.patience import PATIENCE

pytestmark = pytest.mark.filterwarnings(DETACHED)
SECONDS = 4
"""How long a task of these jobs takes: long enough to be killed in the middle."""


@pytest.fixture(autouse=True)
def everybody_runs(market: Market) -> Iterator[None]:
    """Start again what a test left dead; no container may be left by a job that is over."""
    yield
    for name, is_alive in market.devnet.list_processes().items():
        if not is_alive:
            market.devnet.restart(name)
    market.devnet._wait_members(len(PROVIDERS))
    # What a dead provider had begun, it begins again until it hears that it need not.
    wait_for(lambda: not market.list_containers(), "every container to end")


def test_the_coordinator_is_killed_in_every_state_of_a_job_that_is_being_followed(
    market: Market,
) -> None:
    before = market.read_money()
    path = market.write_job("headless", program=make_program(seconds=SECONDS), tasks=2)
    answers: list[Answer] = []
    follower = threading.Thread(
        target=lambda: answers.append(
            market.run("run", path, "--follow", "-y", "--json", "-o", "headless")
        )
    )
    follower.start()
    try:
        market.wait_running("the job")
        job_id = market.client.list_jobs()[0]["id"]
        for state in ("running", "checking", "settling"):
            job = market.wait_job(job_id, until=state)
            market.devnet.kill("coordinator")
            market.devnet.restart("coordinator")
            if job["state"] == "settled":  # too quick to be met on its way
                break
        job = market.wait_settled(job_id)
    finally:
        follower.join(timeout=2 * PATIENCE)
    market.check_paid_once(job, before)
    assert [answer.exit for answer in answers] == [0], answers
    assert market.download(job_id) == expect_results(2)
    assert market.audit(job_id).exit == 0


def test_a_provider_is_killed_in_the_middle_of_a_task_and_comes_back(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(
        market.write_job("back-again", program=make_program(seconds=SECONDS), tasks=2)
    )
    victim = market.wait_running(job_id)
    market.devnet.kill(victim)
    assert market.list_containers(victim)  # nobody was left to stop it
    market.devnet.restart(victim)
    job = market.wait_settled(job_id)
    market.check_paid_once(job, before)
    assert market.download(job_id) == expect_results(2)
    assert market.audit(job_id).exit == 0


def test_the_task_of_a_provider_that_stays_dead_goes_to_another(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(market.write_job("dead", program=make_program(seconds=SECONDS), tasks=1))
    victim = market.wait_running(job_id)
    market.devnet.kill(victim)
    job = market.wait_settled(job_id)
    (task,) = market.tasks(job_id)
    assert task["attempts"] == 2
    assert task["provider"] != market.address(victim)
    (failure,) = task["failures"]
    assert failure["provider"] == market.address(victim)
    assert (failure["reason"]["code"], failure["reason"]["fault"]) == ("GM-5301", "provider")
    market.check_paid_once(job, before)
    assert market.download(job_id) == expect_results(1)


def test_the_verifier_is_killed_while_it_re_executes_and_with_it_the_one_it_checks(
    market: Market,
) -> None:
    before = market.read_money()
    job_id = market.submit(
        market.write_job("recheck", program=make_program(seconds=SECONDS), tasks=1)
    )
    market.wait_running(job_id, by="verifier")
    (task,) = market.tasks(job_id)
    victims = ("verifier", market.name_of(task["provider"]))
    for role in victims:
        market.devnet.kill(role)
    for role in victims:
        market.devnet.restart(role)
    job = market.wait_settled(job_id)
    (task,) = market.tasks(job_id)
    assert task["attempts"] == 1
    market.check_paid_once(job, before)
    assert int(job["money"]["checks"]["base"]) > 0
    assert market.audit(job_id).exit == 0


def test_the_whole_market_loses_power_and_comes_back(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(
        market.write_job("power-cut", program=make_program(seconds=SECONDS), tasks=2)
    )
    market.wait_running(job_id)
    roles = ["coordinator", *PROVIDERS, "verifier"]
    for role in roles:
        market.devnet.kill(role)
    for role in roles:
        market.devnet.restart(role)
    job = market.wait_settled(job_id)
    market.check_paid_once(job, before)
    assert market.download(job_id) == expect_results(2)
    assert market.audit(job_id).exit == 0


def test_a_paid_jobs_proof_is_kept_by_itself_and_passes_offline_after_a_kill(
    market: Market,
) -> None:
    job_id = market.submit(market.write_job("kept", tasks=2))
    market.wait_settled(job_id)
    folder = Path(json.loads(market.read_setting("coordinator", "data_dir"))) / "proofs"

    def find() -> Path | None:
        found = [path for path in folder.glob("*-compact.cbor") if name_job(path) == job_id]
        return found[0] if found else None

    path = wait_for(find, "the proof to be kept")
    kept = path.read_bytes()
    market.devnet.kill("coordinator")
    market.devnet.restart("coordinator")
    assert market.client.receipt(job_id, compact=True, anchored=True) == kept
    trusted = find_trusted_block(kept)
    assert trusted is not None
    answer = market.run(
        *("audit", "verify", path, "--trust-block", format_hex(trusted[1]), "--strict", "--json"),
        *("--contract", format_hex(market.read_proof(job_id).domain.contract)),
        *("--chain-id", "31337"),
    )
    checks = {check["name"]: check for check in answer.data["checks"]}
    assert checks["state"]["verdict"] == "PASS"
    # Where everybody was paid at commitment was proven when there was one.
    assert checks["assignments"]["verdict"] == "PASS", checks["assignments"]
    assert answer.exit in (0, 11), answer


def name_job(path: Path) -> str:
    """Return the id of the job of which a kept file is."""
    return make_job_id(bytes.fromhex(path.name.split("-")[1]))
