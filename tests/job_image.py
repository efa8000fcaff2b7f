"""The images that jobs of tests run in, each built once, whoever asks first."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from scripts.images.built import BuiltImage, find_image

ROOT = Path(__file__).resolve().parents[1]
IMAGE_FOLDER = ROOT / "build/images/embeddings"
BUILD_SECONDS_MAX = 600


def build_job_image(name: str = "embeddings") -> BuiltImage:
    """Build an image unless it is there; return its archive and config digest."""
    lock = ROOT / "build/logs/image.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        # Tests may run in several processes at once.
        fcntl.flock(held, fcntl.LOCK_EX)
        flags = [] if name == "embeddings" else [f"--{name}"]
        command = [str(ROOT / "scripts/build-image"), *flags]
        subprocess.run(command, check=True, timeout=BUILD_SECONDS_MAX, capture_output=True)
    image = find_image(name)
    assert image is not None
    return image
