"""A market in which one provider forges results: it is found, it earns nothing, the job is done."""

from __future__ import annotations

from tests.e2e.market import Market, expect_results

DEVNET_FLAGS = ("--cheat",)
CHEAT = "provider-3"
TASKS = 6


def test_forged_results_are_found_not_paid_and_done_again_by_honest_providers(
    market: Market,
) -> None:
    before = market.read_money()
    job_id = market.submit(market.write_job("forged", tasks=TASKS))
    job = market.wait_settled(job_id)

    cheat = market.address(CHEAT)
    failures = [
        (task["task"], failure["provider"], failure["reason"]["code"], failure["reason"]["fault"])
        for task in market.tasks(job_id)
        for failure in task["failures"]
    ]
    assert failures
    assert {entry[1:] for entry in failures} == {(cheat, "GM-7101", "provider")}
    workers = {task["provider"] for task in market.tasks(job_id)}
    assert cheat not in workers
    assert market.download(job_id) == expect_results(TASKS)

    market.check_paid_once(job, before)
    after = market.read_money()
    assert after.credits[CHEAT] == 0
    assert all(after.credits[market.name_of(worker)] > 0 for worker in workers)
    assert after.credits["verifier"] > before.credits["verifier"]

    audit = market.run("audit", "verify", job_id)
    assert audit.exit == 0, audit.stdout
    assert "mismatch" in audit.stdout
    line = next(row for row in audit.stdout.splitlines() if "forgery" in row)
    assert cheat[:6] in line, line


def test_a_provider_that_was_caught_has_less_reputation_than_an_honest_one(market: Market) -> None:
    offers = {offer["provider"]: offer["reputation"] for offer in market.client.offers()}
    cheat = offers.pop(market.address(CHEAT))
    assert cheat < min(offers.values())
