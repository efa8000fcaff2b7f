"""Start a verifier: `python -m verifier --config FILE`, or `gpumarket verifier run`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from gpumarket.adapters.equipment import run_role
from gpumarket.cli.main import main
from gpumarket.config import VerifierConfig, load_config
from verifier.service import serve


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="A TOML file.")
def run(config: Path) -> int:
    """Run the verifier until it is stopped."""
    settings = load_config(config, VerifierConfig)
    return run_role("verifier", partial(serve, settings), log_level=settings.role.log_level)


commands = click.Group("verifier", {"run": run}, help="The verifier on this machine.")

if __name__ == "__main__":
    main(["verifier", "run", *sys.argv[1:]])
