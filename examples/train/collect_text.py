"""
Write text.txt.gz: Genesis and Exodus of the King James Bible, which has long been free.

    apt-get download bible-kjv bible-kjv-text && for p in *.deb; do dpkg-deb -x $p root; done
    python3 collect_text.py root

The text of 1611 is out of copyright; Debian publishes it in the package bible-kjv-text.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path


def collect(root: Path) -> bytes:
    """Return the verses, one a line, without their numbers."""
    # It says 255 when its input ends, whatever it printed.
    done = subprocess.run(
        ["usr/bin/bible", "-d", "usr/lib/bible.data", "-f", "ge1:1-ex40:38"],
        check=False,
        cwd=root,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    if not done.stdout:
        sys.exit(f"collect_text: {done.stderr.decode()}")
    return re.sub(rb"^\w+:\d+ ", b"", done.stdout, flags=re.MULTILINE)


if __name__ == "__main__":
    target = Path(__file__).parent / "text.txt.gz"
    target.write_bytes(gzip.compress(collect(Path(sys.argv[1])), 9, mtime=0))
