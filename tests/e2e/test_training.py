"""A training job whose provider is killed: another goes on, one audit of segments, paid once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumarket.comparing.checkpoints import decode_checkpoint_untrusted
from tests.e2e.market import DETACHED, Json, Market, wait_for
from tests.job_image import ROOT

pytestmark = pytest.mark.filterwarnings(DETACHED)
EXAMPLE = ROOT / "examples/train"
STEPS, EVERY = 120, 20


def write_training_job(market: Market, *, pause: float) -> Path:
    return market.write_job(
        "train",
        command=[
            *("python3", "/in/program/train.py", "--text", "/in/text", "--model", "numpy"),
            *("--out", "/ckpt/final", "--pause", str(pause)),
        ],
        inputs=[
            {"name": "program", "from": f"file:{EXAMPLE / 'program'}", "to": "/in/program"},
            {"name": "text", "from": f"file:{EXAMPLE / 'text.txt.gz'}", "to": "/in/text"},
        ],
        resources={"gpu": {"count": 0}, "cpu": 1, "memory": "512MB", "disk": "100MB"},
        outputs=[{"from": "/ckpt/final", "max_size": "4MB"}],
        checkpoint={
            "path": "/ckpt",
            "steps": STEPS,
            "every": f"{EVERY} steps",
            "max_size": "4MB",
            "keep": 2,
            "random": 1,
        },
        split=None,
        verify={"mode": "sample", "unit": "checkpoint_interval"},
    )


def list_events(market: Market, job_id: str, kind: str) -> list[Json]:
    return [event for event in market.events(job_id) if event["type"] == f"task.{kind}"]


def test_a_killed_provider_costs_one_segment_and_the_next_goes_on(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(write_training_job(market, pause=2))
    victim = market.wait_running(job_id)
    wait_for(lambda: len(list_events(market, job_id, "checkpoint")) >= 3, "three checkpoints")
    market.devnet.kill(victim)
    job = market.wait_settled(job_id)
    (task,) = market.tasks(job_id)
    assert task["attempts"] == 2
    assert task["provider"] != market.address(victim)
    # Each checkpoint is told of once: the second provider went on and did not begin again.
    assert len(list_events(market, job_id, "checkpoint")) == STEPS // EVERY + 1
    (match,) = list_events(market, job_id, "match")
    assert "segments 1, " in match["text"]
    market.check_paid_once(job, before)
    target = market.folder / "trained"
    assert market.run("job", "get", job_id, "-o", target).exit == 0
    (last,) = target.rglob(f"step-{STEPS:08d}")
    files = {path.name: path.read_bytes() for path in last.iterdir()}
    assert decode_checkpoint_untrusted(files).step == STEPS
    audit = market.audit(job_id)
    assert audit.exit == 0, [check for check in audit.data["checks"] if check["verdict"] != "PASS"]
    # What was begun by the dead provider, it ends when it comes back.
    market.devnet.restart(victim)
    wait_for(lambda: not market.list_containers(), "every container to end")
