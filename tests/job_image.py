"""The image that jobs of tests run in, built once whoever asks first."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from scripts.images.built import find_image

ROOT = Path(__file__).resolve().parents[1]
IMAGE_FOLDER = ROOT / "build/images/embeddings"
BUILD_SECONDS_MAX = 600


def build_job_image() -> tuple[Path, str]:
    """Build the embeddings image unless it is there; return its archive and config digest."""
    lock = ROOT / "build/logs/image.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        # Tests may run in several processes at once.
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [ROOT / "scripts/build-image"]
        subprocess.run(command, check=True, timeout=BUILD_SECONDS_MAX, capture_output=True)
    image = find_image("embeddings")
    assert image is not None
    return image
