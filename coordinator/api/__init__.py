"""The coordinator's HTTP API: requests become events, state becomes JSON."""

from coordinator.api.archive import Archive
from coordinator.api.desk import Desk
from coordinator.api.routes import make_app

__all__ = ["Archive", "Desk", "make_app"]
