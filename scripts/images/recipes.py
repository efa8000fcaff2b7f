"""What the job images of the examples hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from scripts.images.render_parts import RENDER_PACKAGES, RENDER_TRIAL, finish_render
from scripts.images.torch_parts import TORCH_MODULES, TORCH_PACKAGES, TORCH_TRIAL, finish_torch

SYSTEM_PACKAGES = (
    "libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libbz2-1.0 liblzma5 libffi8 libssl3 "
    "libcrypt1 libuuid1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib"
).split()
# One thread, so that the same machine always adds in the same order.
ENV = {
    "LC_ALL": "C.UTF-8",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": "/opt/site",
    "PYTHONUNBUFFERED": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Recipe:
    """An image: a layer with Python, which all share, perhaps one from Debian and one from PyPI."""

    pypi: tuple[str, ...] = ()
    debian: DebianLayer | None = None


@dataclass(frozen=True)
class DebianLayer:
    """Debian packages that one image has on top."""

    packages: tuple[str, ...]
    finish: Callable[[Path], None]
    """Drops what no job reads from the unpacked packages, and makes them fit to load."""
    trial: tuple[str, ...]
    """A command that must run in the image, else it is not built."""
    modules: str = ""
    """The folder with their Python modules, if there are any."""


RECIPES = MappingProxyType(
    {
        "embeddings": Recipe(pypi=("numpy", "safetensors", "tokenizers")),
        "render": Recipe(debian=DebianLayer(RENDER_PACKAGES, finish_render, RENDER_TRIAL)),
        "torch": Recipe(
            pypi=("safetensors",),
            debian=DebianLayer(
                TORCH_PACKAGES,
                finish_torch,
                ("usr/bin/python3.11", "-S", "-c", TORCH_TRIAL),
                modules=TORCH_MODULES,
            ),
        ),
    }
)
