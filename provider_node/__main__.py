"""Start a provider: `python -m provider_node --config FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpumarket.adapters.equipment import run_role
from gpumarket.adapters.logs import Log
from gpumarket.config import ProviderConfig, load_config
from provider_node.service import serve


def main() -> int:
    """Read the configuration and run until stopped; return the exit status."""
    parser = argparse.ArgumentParser(prog="provider_node", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()

    async def run(log: Log) -> None:
        await serve(load_config(arguments.config, ProviderConfig), log)

    return run_role("provider", run)


if __name__ == "__main__":
    sys.exit(main())
