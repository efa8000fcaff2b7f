"""The honest market: from a job file to payment and audit, by commands as in the README."""

from __future__ import annotations

import pytest

from tests.e2e.market import Market, expect_results
from tests.job_image import IMAGE_FOLDER

TASKS = 6


def test_a_job_is_followed_to_its_end_paid_and_audited_from_the_proof_file(market: Market) -> None:
    before = market.read_money()
    path = market.write_job(
        "tiny", tasks=TASKS, image=f"file:{IMAGE_FOLDER / 'image.tar'}", image_digest=None
    )
    answer = market.run("run", path, "--follow", "-y", "--json", "-o", "results")
    assert answer.exit == 0, answer.stderr
    job = answer.data
    assert job["state"] == "settled"
    assert job["units"] | {"retries": 0} == {
        "total": TASKS,
        "waiting": 0,
        "running": 0,
        "finished": 0,
        "accepted": TASKS,
        "retries": 0,
        "failed": 0,
    }
    results = market.folder / "results"
    found = {
        int(file.parent.name.removeprefix("task-")): file.read_text()
        for file in results.glob("task-*/result.txt")
    }
    assert found == expect_results(TASKS)
    market.check_paid_once(job, before)
    money = {key: int(value["base"]) for key, value in job["money"].items()}
    assert money["payable"] + money["checks"] + money["fee"] == money["spent"] > 0
    assert money["spent"] + money["returned"] == money["locked"]

    audit = market.run("audit", "verify", results / "proof.cbor")
    assert audit.exit == 0, audit.stdout
    assert "PASS" in audit.stdout
    assert "FAIL" not in audit.stdout
    assert "not checked" in audit.stdout


def test_the_same_market_runs_a_second_job_and_its_results_come_by_id(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(market.write_job("again"))
    job = market.wait_settled(job_id)
    market.check_paid_once(job, before)
    assert market.download(job_id) == expect_results(3)
    assert market.audit(job_id).exit == 0

    proof, path = market.client.receipt(job_id), market.folder / "changed.cbor"
    at = proof.index(b"price") + 7
    path.write_bytes(proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :])
    assert market.run("audit", "verify", path).exit == 10


@pytest.mark.parametrize(
    ("role", "kind"),
    [("coordinator", "coordinator"), ("provider-1", "provider"), ("verifier", "verifier")],
)
def test_every_role_answers_its_metrics_and_health(market: Market, role: str, kind: str) -> None:
    page = market.read_page("/metrics", role=role)
    assert f'gpumarket_build_info{{role="{kind}",version=' in page
    assert market.read_page("/healthz", role=role)


def test_the_offers_say_which_devices_are_simulated(market: Market) -> None:
    answer = market.run("market", "offers")
    assert answer.exit == 0
    assert answer.stdout.count("simulated") == 2
