"""A market whose operator forges some results on purpose: found, set aside, and nobody's fault."""

from __future__ import annotations

from tests.e2e.market import Market, expect_results

DEVNET_FLAGS = ("--canary",)
CANARY = "provider-3"
TASKS = 6


def test_canaries_are_noted_found_done_again_and_revealed(market: Market) -> None:
    before = market.read_money()
    verify = {"mode": "full", "compare": "bytes"}
    job_id = market.submit(market.write_job("canaries", tasks=TASKS, verify=verify))
    job = market.wait_settled(job_id)

    canary = market.address(CANARY)
    failures = {
        task["task"]: [(f["provider"], f["reason"]["code"], f["reason"]["fault"]) for f in found]
        for task in market.tasks(job_id)
        if (found := task["failures"])
    }
    assert failures
    assert all(found == [(canary, "GM-7108", "none")] for found in failures.values())
    assert market.download(job_id) == expect_results(TASKS)
    market.check_paid_once(job, before)

    (verifier,) = market.ask("/v1/verifiers")["data"]
    assert (verifier["found_canaries"], verifier["missed_canaries"]) == (len(failures), 0)
    assert verifier["barred_until"] is None
    assert market.read_money().credits["verifier"] > before.credits["verifier"]

    page = market.ask("/v1/canaries")
    assert page["canaries"] == len(failures)
    assert page["checks"] == TASKS + len(failures)
    (epoch,) = page["epochs"]
    assert len(epoch["notes"]) == len(failures)
    assert {note["provider"] for note in epoch["notes"]} == {canary}
    assert {word["verdict"] for word in epoch["verdicts"]} == {"MISMATCH"}

    audit = market.run("audit", "verify", job_id)
    assert audit.exit == 0, audit.stdout
    assert f"{len(failures)} results were forged on purpose" in audit.stdout
    assert "forgery shown against nobody" in audit.stdout


def test_the_operators_provider_keeps_its_good_name(market: Market) -> None:
    offers = {offer["provider"]: offer for offer in market.client.offers()}
    assert offers[market.address(CANARY)]["reputation"] >= 0.5
