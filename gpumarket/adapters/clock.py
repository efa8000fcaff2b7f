"""Time and randomness: the only place where either enters the market."""

from __future__ import annotations

import secrets
import time

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.units import Timestamp


class SystemClock:
    """The machine's wall clock, in whole unix seconds."""

    def now(self) -> Timestamp:
        """Return the present time."""
        return Timestamp(int(time.time()))


def make_nonce() -> Hash32:
    """Draw 32 unguessable bytes."""
    return secrets.token_bytes(32)
