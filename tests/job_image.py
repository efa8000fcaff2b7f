"""The images that jobs of tests run in; the common one is built by whoever asks first."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE_FOLDER = ROOT / "build/images/embeddings"
TORCH_IMAGE_FOLDER = ROOT / "build/images/torch"
TORCH_IMAGE_MISSING = "the image with PyTorch is not built: scripts/build-image --torch"
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
    return read_image(IMAGE_FOLDER)


def find_torch_image() -> tuple[Path, str] | None:
    """Return archive and config digest of the image with PyTorch, or None; tests never build it."""
    return read_image(TORCH_IMAGE_FOLDER) if (TORCH_IMAGE_FOLDER / "image.json").exists() else None


def read_image(folder: Path) -> tuple[Path, str]:
    """Return archive and config digest of an image that is built."""
    record = json.loads((folder / "image.json").read_text())
    return folder / "image.tar", record["config_digest"]
