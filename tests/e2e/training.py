"""Training jobs on a market: how one is ordered, and what holds when its provider is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpumarket.comparing.checkpoints import decode_checkpoint_untrusted
from tests.e2e.market import Json, Market, Money, wait_for
from tests.job_image import ROOT
from tests.patience import PATIENCE

EXAMPLE = ROOT / "examples/train"
CHECKPOINTS_BEFORE_KILL = 3
SETTLED_SECONDS_MAX = 4 * PATIENCE
"""Four parties that fetch an image one after the other, perhaps of 300 MB, and train."""


def write_training_job(
    market: Market, model: str, *, steps: int, every: int, pause: float, **fields: Any
) -> Path:
    return market.write_job(
        f"train-{model}",
        command=[
            *("python3", "/in/program/train.py", "--text", "/in/text", "--model", model),
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
            "steps": steps,
            "every": f"{every} steps",
            "max_size": "4MB",
            "keep": 2,
            "random": 1,
        },
        split=None,
        verify={"mode": "sample", "unit": "checkpoint_interval"},
        **fields,
    )


def list_events(market: Market, job_id: str, kind: str) -> list[Json]:
    return [event for event in market.events(job_id) if event["type"] == f"task.{kind}"]


def kill_its_provider(market: Market, job_id: str) -> str:
    """End a job's provider at once when some checkpoints are kept; return which it was."""
    victim = market.wait_running(job_id)
    enough = CHECKPOINTS_BEFORE_KILL
    wait_for(lambda: len(list_events(market, job_id, "checkpoint")) >= enough, "checkpoints")
    market.devnet.kill(victim)
    return victim


def check_went_on(market: Market, job_id: str, *, victim: str, segments: int, before: Money) -> Any:
    """Hold a job to what it promised when its provider was lost; return its last checkpoint."""
    job = market.wait_settled(job_id, seconds=SETTLED_SECONDS_MAX)
    (task,) = market.tasks(job_id)
    assert task["attempts"] == 2
    assert task["provider"] != market.address(victim)
    # Each checkpoint is told of once: the second provider went on and did not begin again.
    assert len(list_events(market, job_id, "checkpoint")) == segments + 1
    (match,) = list_events(market, job_id, "match")
    assert "segments 1, " in match["text"]
    market.check_paid_once(job, before)
    target = market.folder / f"trained-{job_id}"
    assert market.run("job", "get", job_id, "-o", target).exit == 0
    (last,) = target.rglob("step-*")
    audit = market.audit(job_id)
    assert audit.exit == 0, [check for check in audit.data["checks"] if check["verdict"] != "PASS"]
    return decode_checkpoint_untrusted({path.name: path.read_bytes() for path in last.iterdir()})


def check_comes_back(market: Market, victim: str) -> None:
    """What was begun by the dead provider, it ends when it comes back."""
    market.devnet.restart(victim)
    wait_for(lambda: not market.list_containers(), "every container to end")
