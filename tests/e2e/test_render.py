"""
The rendering example on a market of unlike machines: frames whose bytes differ, and a forged one.

One verifier's class renders with two threads, so that light is gathered in another order: about a
quarter of all pixels differ by a level or more. The rule `image` must take those frames for the
same, but no frame in which one small place was exchanged for another.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import yaml

from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.image import compute_ssim_map, decode_image_untrusted
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import ImageRule
from gpumarket.testing.devnet import CPU_PROVIDER, VerifierProfile
from gpumarket.testing.machine_classes import SSE, TWO_THREADS
from tests.e2e.market import DETACHED, Json, Market
from tests.job_image import ROOT, build_job_image
from tests.patience import PATIENCE

EXAMPLE = ROOT / "examples/render"
SETTINGS = ", ".join(f'{name} = "{value}"' for name, value in (SSE | TWO_THREADS).items())
OTHER = VerifierProfile("verifier", f"emulate = {{{SETTINGS}}}\n")
SAME = VerifierProfile("verifier-2")
DEVNET_MEMBERS = ((CPU_PROVIDER,), (OTHER, SAME))
FRAMES, WIDTH, HEIGHT = 6, 160, 120
TWO_THREADS_RULE = {"as": "image", "max_mismatch": 0.005}
"""Measured in docs/measurements/render.md."""
PATCH = 9
"""Pixels of a side that are exchanged: fewer than that rule lets differ by any amount."""
pytestmark = pytest.mark.filterwarnings(DETACHED)


def run_job(market: Market, name: str, *, frames: int, compare: object) -> str:
    """Run the example in small, with every task done again; return the job."""
    job = read_example()
    del job["name"]
    archive, digest = build_job_image("render")
    job["image"] = f"ipfs://{market.client.add_content(archive).cid}"
    job["image_digest"] = f"sha256:{digest}"
    for entry in job["inputs"]:
        entry["from"] = f"file:{EXAMPLE / entry['from'].removeprefix('file:')}"
    for flag, value in {"--frames": f"{frames}", "--size": f"{WIDTH}x{HEIGHT}"}.items():
        job["command"][job["command"].index(flag) + 1] = value
    job["split"]["items"] = frames
    job["verify"] = {"mode": "full", "compare": compare}
    job_id = market.submit(market.write_job(name, **job))
    market.wait_settled(job_id, seconds=2 * PATIENCE)
    return job_id


def read_matches(market: Market, job_id: str) -> list[str]:
    """Return what verifiers said of the tasks that matched."""
    rows = market.events(job_id)
    return [entry["text"] for entry in rows if entry["type"] == "task.match"]


def read_example() -> Json:
    """Read the example's job file."""
    job: Json = yaml.safe_load((EXAMPLE / "render.yaml").read_text())
    return job


@pytest.fixture(scope="module", name="frames")
def frames_fixture(market: Market, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Order a frame, then an animation that nobody of the provider's class checks; fetch it."""
    same = run_job(market, "same", frames=1, compare="bytes")
    assert read_matches(market, same) == ["both outputs have the same CID"]
    market.devnet.kill(SAME.name)

    job_id = run_job(market, "render", frames=FRAMES, compare=TWO_THREADS_RULE)
    matches = read_matches(market, job_id)
    assert len(matches) == FRAMES / read_example()["split"]["size"], market.describe(job_id)
    assert all("SSIM of the worst 64 x 64 pixels is 0.99" in text for text in matches), matches
    audit = market.run("audit", "verify", job_id)
    assert audit.exit == 0, audit.stdout
    assert f"{len(matches)} matches are of outputs with different CIDs" in audit.stdout

    folder = tmp_path_factory.mktemp("frames") / "results"
    answer = market.run("job", "get", job_id, "-o", folder)
    assert answer.exit == 0, answer.stderr
    paths = sorted(folder.glob("task-*/*.png"), key=lambda path: path.name)
    assert [path.name for path in paths] == [f"frame-{index:04d}.png" for index in range(FRAMES)]
    return [path.read_bytes() for path in paths]


def judge(own: bytes, theirs: bytes) -> tuple[Verdict, str]:
    """Compare two frames by the rule for two threads, which accepts more than the example's own."""
    assert read_example()["verify"]["compare"] == {"as": "image"}
    rule = ImageRule(max_mismatch=str(TWO_THREADS_RULE["max_mismatch"]))
    outcome = compare_outputs({"frame.png": own}, {"frame.png": theirs}, rule)
    return outcome.verdict, outcome.sentence


def encode(pixels: Any) -> bytes:
    """Write pixels as the example does."""
    spec = importlib.util.spec_from_file_location("render", EXAMPLE / "render.py")
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    data: bytes = program.encode_png(pixels.tobytes(), WIDTH, HEIGHT)
    return data


def list_chunks(data: bytes) -> list[bytes]:
    """Name the parts of a PNG in their order."""
    names, at = [], 8
    while at < len(data):
        names.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return names


def test_frames_are_pictures_of_a_moving_scene_and_nothing_else(frames: list[bytes]) -> None:
    for data in frames:
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert list_chunks(data) == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]
        pixels = decode_image_untrusted(data).pixels
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert pixels.std() > 30
        assert encode(pixels) == data
    # The next frame, handed in again, is found.
    assert {judge(one, other)[0] for one, other in pairwise(frames)} == {Verdict.MISMATCH}


def test_a_frame_with_one_small_place_exchanged_is_no_match(frames: list[bytes]) -> None:
    pixels = decode_image_untrusted(frames[0]).pixels
    forged = pixels.copy()
    forged[40 : 40 + PATCH, 76 : 76 + PATCH] = pixels[90 : 90 + PATCH, 20 : 20 + PATCH]
    maps = [
        compute_ssim_map(pixels[:, :, c].astype(float), forged[:, :, c].astype(float))
        for c in range(3)
    ]
    assert np.mean(maps) > 0.97, "a mean over the whole picture sees nothing"
    verdict, text = judge(frames[0], encode(forged))
    assert verdict is Verdict.MISMATCH
    assert "SSIM of the worst 64 x 64 pixels" in text
