"""
POV-Ray for a job image, from Debian: what it takes to render to a file, and no more.

Its preview window, which needs half a desktop, stays out; so do its own scenes and includes, which
have licenses of their own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from scripts.images.linking import cut_links

RENDER_PACKAGES = tuple(
    (
        "libboost-thread1.74.0 libdeflate0 libimath-3-1-29 libjbig0 libjpeg62-turbo liblerc4 "
        "libopenexr-3-1-30 libpng16-16 libtiff6 libwebp7 libzstd1 povray"
    ).split()
)
RENDER_TRIAL = ("usr/bin/povray", "+I/dev/null", "-F", "-D", "+W16", "+H16")
"""An empty scene: everything that is linked is loaded, and a ray is traced for each pixel."""


def finish_render(root: Path) -> None:
    """Drop what no renderer reads, and cut the preview window off."""
    for name in ("etc", "usr/share"):
        shutil.rmtree(root / name)
    cut_links(
        root / "usr/bin/povray", libraries=re.compile("libSDL-"), functions=re.compile("SDL_")
    )
