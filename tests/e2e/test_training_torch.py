"""
PyTorch trains on a market and loses its provider: another goes on, and the segments are audited.

The image is made when it is asked for: scripts/build-image --torch, as scripts/test --slow does.
"""

from __future__ import annotations

import pytest

from scripts.images.built import TORCH_IMAGE_MISSING, find_torch_image
from tests.e2e.market import DETACHED, Market
from tests.e2e.training import (
    check_comes_back,
    check_went_on,
    kill_its_provider,
    write_training_job,
)

IMAGE = find_torch_image()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(DETACHED),
    pytest.mark.skipif(IMAGE is None, reason=TORCH_IMAGE_MISSING),
]
STEPS, EVERY = 160, 20
KNOWS_FREQUENCIES = 3.01
"""Nats a byte of this text for who knows how frequent each byte is, and nothing more."""


def test_pytorch_goes_on_from_a_checkpoint_of_a_killed_provider(market: Market) -> None:
    assert IMAGE is not None
    archive, digest = IMAGE
    image = market.client.add_content(archive).cid
    before = market.read_money()
    path = write_training_job(
        market,
        "torch",
        steps=STEPS,
        every=EVERY,
        pause=2,
        image=f"ipfs://{image}",
        image_digest=f"sha256:{digest}",
    )
    job_id = market.submit(path)
    victim = kill_its_provider(market, job_id)
    last = check_went_on(market, job_id, victim=victim, segments=STEPS // EVERY, before=before)
    assert last.step == STEPS
    assert float(last.loss) < 0.9 * KNOWS_FREQUENCIES
    check_comes_back(market, victim)
