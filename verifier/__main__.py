"""Start a verifier: `python -m verifier --config FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpumarket.adapters.equipment import run_role
from gpumarket.config import VerifierConfig, load_config
from verifier.service import serve


def main() -> int:
    """Read the configuration and run until stopped; return the exit status."""
    parser = argparse.ArgumentParser(prog="verifier", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args().config
    return run_role("verifier", lambda log: serve(load_config(path, VerifierConfig), log))


if __name__ == "__main__":
    sys.exit(main())
