"""Start a coordinator: `python -m coordinator --config FILE`, or `gpumarket coordinator run`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from coordinator.service import serve
from gpumarket.adapters.equipment import run_role
from gpumarket.config import CoordinatorConfig, load_config


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="A TOML file.")
def run(config: Path) -> None:
    """Run the coordinator until it is stopped."""
    settings = load_config(config, CoordinatorConfig)
    level = settings.role.log_level
    sys.exit(run_role("coordinator", lambda log: serve(settings, log), log_level=level))


commands = click.Group("coordinator", {"run": run}, help="The coordinator on this machine.")

if __name__ == "__main__":
    run()
