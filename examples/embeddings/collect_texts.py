"""
Write texts.txt.gz from this machine's Debian package index.

Usage: python collect_texts.py [COUNT]        (default 2400 lines, evenly spread over the index)

Each line is `package: first line of its description`. The same index gives the same bytes.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

TEXTS = Path(__file__).with_name("texts.txt.gz")


def read_descriptions() -> list[str]:
    """Read one line per package from `apt-cache dumpavail`, sorted and without repetitions."""
    index = subprocess.run(
        ["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    lines = set()
    for stanza in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if "Package" in fields and "Description" in fields:
            lines.add(f"{fields['Package']}: {fields['Description'].strip()}")
    return sorted(lines)


def main() -> None:
    """Pick COUNT lines at even distances and write them compressed, without a date."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2400
    lines = read_descriptions()
    chosen = [lines[index * len(lines) // count] for index in range(count)]
    with TEXTS.open("wb") as target, gzip.GzipFile("", "wb", 9, target, mtime=0) as archive:
        archive.write("".join(f"{line}\n" for line in chosen).encode())
    sys.stdout.write(f"{TEXTS.name}: {count} of {len(lines)} lines, {TEXTS.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
