"""Start a provider: `python -m provider_node --config FILE`, or `gpumarket provider run`."""

from __future__ import annotations

import sys

from gpumarket.cli.main import main

if __name__ == "__main__":
    main(["provider", "run", *sys.argv[1:]])
