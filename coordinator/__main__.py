"""Start a coordinator: `python -m coordinator --config FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordinator.service import serve
from gpumarket.adapters.equipment import run_role
from gpumarket.config import CoordinatorConfig, load_config


def main() -> int:
    """Read the configuration and run until stopped; return the exit status."""
    parser = argparse.ArgumentParser(prog="coordinator", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args().config
    return run_role("coordinator", lambda log: serve(load_config(path, CoordinatorConfig), log))


if __name__ == "__main__":
    sys.exit(main())
