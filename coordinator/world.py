"""Everything outside a coordinator: the chain, the content store, the members, the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from coordinator.core import events
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.content import EmbeddedNode
from gpumarket.adapters.first_blocks import FirstBlocks
from gpumarket.adapters.jury_chain import JuryChain
from gpumarket.adapters.keys import Identity
from gpumarket.adapters.logs import Log
from gpumarket.protocol.ids import Address
from gpumarket.protocol.messages import Message
from gpumarket.protocol.signing import Domain

JUDGES_MAX = 2

Post = Callable[[events.Event], Awaitable[None]]


class Hall(Protocol):
    """What is needed of the sessions with members."""

    async def send(self, member: Address, message: Message) -> bool:
        """Sign and queue a message; False where that member has no session."""

    def expel(self, member: Address, *, session: int, reason: str) -> None:
        """End a member's session; session 0 is whatever session it has."""


@dataclass(slots=True)
class World:
    """Everything outside: the chain, the content store, the members, the time."""

    identity: Identity
    domain: Domain
    chain: JuryChain
    seed_delay_blocks: int
    content: EmbeddedNode
    hall: Hall
    post: Post
    clock: SystemClock
    log: Log
    first_blocks: FirstBlocks
    judges: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(JUDGES_MAX))
    """Hardware challenges that are checked at one time."""
