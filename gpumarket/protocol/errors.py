"""
Every way the market can say no, and what the one who catches it should do.

    GpuMarketError
      InvalidInput           the caller's mistake: show it, change nothing
      RemoteProtocolError    a peer broke the protocol: drop the message, count it
      LocalProtocolError     our own bug: stop and write a report
      ChainError             the chain said no, or could not be asked
        BrokenPrecondition   it will say no again: do not retry
          DeadlinePassed     it would come too late, and will never come
        LostRace             somebody was faster: read the chain again, then decide
      SandboxError           a container could not run as asked: fail the execution
      ContentError           bytes are missing, wrong or too many: fail the fetch
      Unrecoverable          state is not what it must be: stop, touch nothing
"""

from __future__ import annotations

from collections.abc import Sequence


class GpuMarketError(Exception):
    """
    What happened, why, where the money is and what to try.

    `message` is at most one sentence; `code` names a page of `gpumarket explain`;
    `why` gives facts with numbers; `money` says what was charged or locked;
    `hints` are commands that run as printed.
    """

    default_code = "GM-9001"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        why: str = "",
        money: str = "",
        hints: Sequence[str] = (),
        fault: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.why = why
        self.money = money
        self.hints = tuple(hints)
        self.fault = fault


class InvalidInput(GpuMarketError):
    """The caller's mistake: show it; nothing was changed."""

    default_code = "GM-1001"


class RemoteProtocolError(GpuMarketError):
    """A peer broke the protocol: drop what it sent and count it against the peer."""

    default_code = "GM-8201"


class LocalProtocolError(GpuMarketError):
    """Our own bug: stop, write a report, never retry."""

    default_code = "GM-9001"


class ChainError(GpuMarketError):
    """The chain said no or could not be asked: retry only if a subclass does not forbid it."""

    default_code = "GM-3001"


class BrokenPrecondition(ChainError):
    """The contract refuses this call in its present state: do not retry as it is."""

    default_code = "GM-3055"


class DeadlinePassed(BrokenPrecondition):
    """It was not done in time, and what was sent for it can never be mined any more."""

    default_code = "GM-3006"


class LostRace(ChainError):
    """Somebody else did it first: read the chain again before deciding."""

    default_code = "GM-3056"


class SandboxError(GpuMarketError):
    """A container could not be run as asked: fail this execution and keep the node."""

    default_code = "GM-5201"


class ContentError(GpuMarketError):
    """Bytes are missing, wrong or too many: fail this fetch and keep what is verified."""

    default_code = "GM-6001"


class Unrecoverable(GpuMarketError):
    """State is not what it must be: stop this process and touch nothing."""

    default_code = "GM-9002"
