"""Images that scripts/build-image has made here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH_IMAGE_MISSING = "the image with PyTorch is not built: scripts/build-image --torch"
LOAD_SECONDS_MAX = 600

BuiltImage = tuple[Path, str]
"""An archive, and the hex digest of the config in it."""


def find_image(name: str) -> BuiltImage | None:
    """Return an image that is built, or None."""
    folder = ROOT / "build/images" / name
    if not (folder / "image.json").exists():
        return None
    record = json.loads((folder / "image.json").read_text())
    return folder / "image.tar", record["config_digest"]


def find_torch_image() -> BuiltImage | None:
    """Return the image with PyTorch, or None; it is made when a person asks for it."""
    return find_image("torch")


def load_image(image: BuiltImage) -> str:
    """Give an image to the Docker engine; return the name that it has there."""
    archive, digest = image
    command = ["docker", "load", "--quiet", "--input", str(archive)]
    subprocess.run(command, check=True, timeout=LOAD_SECONDS_MAX, capture_output=True)
    return f"sha256:{digest}"
