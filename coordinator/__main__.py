"""Start a coordinator: `python -m coordinator --config FILE`, or `gpumarket coordinator run`."""

from __future__ import annotations

import sys

from coordinator.commands import coordinator as commands
from gpumarket.cli.main import main

__all__ = ["commands"]

if __name__ == "__main__":
    main(["coordinator", "run", *sys.argv[1:]])
