"""Start a coordinator: `python -m coordinator --config FILE`, or `gpumarket coordinator run`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from coordinator.service import serve
from gpumarket.adapters.equipment import run_role
from gpumarket.cli.main import main
from gpumarket.config import CoordinatorConfig, load_config


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="A TOML file.")
def run(config: Path) -> int:
    """Run the coordinator until it is stopped."""
    settings = load_config(config, CoordinatorConfig)
    return run_role("coordinator", partial(serve, settings), log_level=settings.role.log_level)


commands = click.Group("coordinator", {"run": run}, help="The coordinator on this machine.")

if __name__ == "__main__":
    main(["coordinator", "run", *sys.argv[1:]])
