"""
A session on which every frame is a signed message for one recipient, numbered and short-lived.

The first message of a session is a hello whose signed offer or card names the libp2p peer it
comes from, so that nobody speaks for another, or the welcome that answers it. Later messages
count only if the same key signed them. A bad frame is dropped and counted, and too many of them
end the session.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import trio

from gpumarket.adapters.logs import Log
from gpumarket.adapters.session import Session, SessionClosed
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import ZERO_ADDRESS, Address
from gpumarket.protocol.messages import (
    CLOCK_SKEW_SECONDS,
    Message,
    ProviderHello,
    VerifierHello,
    Welcome,
    decode_message_untrusted,
    seal_message,
)
from gpumarket.protocol.signing import Domain, PrivateKey, verify
from gpumarket.protocol.token_bucket import TokenBucket
from gpumarket.protocol.units import Timestamp

log = Log("signed_channel")

Hello = ProviderHello | VerifierHello


@dataclass(frozen=True, kw_only=True)
class LinkLimits:
    """Every bound of signed sessions; durations in seconds."""

    bad_messages_max: int = 8
    """More of them in one session end it."""
    messages_per_second: int = 200
    """Faster peers are made to wait."""
    messages_burst: int = 1_000
    hello_seconds_max: float = 10.0
    send_seconds_max: float = 10.0
    """A peer that takes nothing for this long loses its session."""
    members_max: int = 500


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Timestamp:
        """Return the present unix seconds."""


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """Who we are on every session: the key that signs, where its promises count, and the time."""

    key: PrivateKey
    domain: Domain
    clock: Clock


class SignedChannel:
    """One session on which each frame is a message signed for one recipient."""

    def __init__(
        self,
        session: Session,
        identity: LinkIdentity,
        *,
        limits: LinkLimits,
        refused: Counter[str],
        peer: Address = ZERO_ADDRESS,
    ) -> None:
        self.session = session
        self.peer = peer
        """Whose signature counts here; zero until the first message is accepted."""
        self._identity = identity
        self._limits = limits
        self._refused = refused
        self._bad_messages = 0
        self._sequence_sent = 0
        self._sequence_received = 0
        self._turn = trio.Lock()
        self._bucket = TokenBucket(
            per_second=limits.messages_per_second, burst=limits.messages_burst, now_ms=_now_ms()
        )

    async def send(self, message: Message) -> bool:
        """Sign and queue one message; False where the session is over or the peer takes nothing."""
        with trio.move_on_after(self._limits.send_seconds_max) as timer:
            # One at a time: a number that overtakes another would be refused as a repeat.
            async with self._turn:
                self._sequence_sent += 1
                frame = seal_message(
                    message,
                    key=self._identity.key,
                    domain=self._identity.domain,
                    recipient=self.peer,
                    sequence=self._sequence_sent,
                    now=self._identity.clock.now(),
                )
                try:
                    await self.session.send(frame)
                except SessionClosed:
                    return False
        if timer.cancelled_caught:
            self.session.break_off("the peer takes no messages")
            return False
        return True

    async def receive(self) -> Message:
        """
        Return the peer's next good message.

        Raises SessionClosed at the end and RemoteProtocolError after too many bad ones.
        """
        while True:
            frame = await self.session.receive()
            wait_ms = self._bucket.take(1, now_ms=_now_ms())
            if wait_ms:
                await trio.sleep(wait_ms / 1_000)
            try:
                return self._open_frame(frame)
            except RemoteProtocolError as error:
                self.refuse(error)

    def refuse(self, error: RemoteProtocolError) -> None:
        """Count a bad message against the peer; raise the error again if it is one too many."""
        self._bad_messages += 1
        self._refused[error.code] += 1
        log.warn(
            "a message was refused",
            peer=self.session.remote_peer_id,
            code=error.code,
            reason=error.message,
        )
        if self._bad_messages > self._limits.bad_messages_max:
            raise error

    def _open_frame(self, frame: bytes) -> Message:
        identity = self._identity
        message, sender, sequence = decode_message_untrusted(
            frame,
            domain=identity.domain,
            recipient=identity.key.address,
            sequence_after=self._sequence_received,
            now=identity.clock.now(),
        )
        self._check_sender(message, sender)
        self.peer = sender
        self._sequence_received = sequence
        return message

    def _check_sender(self, message: Message, sender: Address) -> None:
        is_opening = isinstance(message, Hello | Welcome)
        if self.peer == ZERO_ADDRESS and not is_opening:
            raise RemoteProtocolError("a session begins with a hello or a welcome")
        if self.peer not in (ZERO_ADDRESS, sender):
            raise RemoteProtocolError("the message is signed by somebody else", code="GM-8202")
        if isinstance(message, Welcome) and message.coordinator != sender:
            raise RemoteProtocolError("the welcome is by somebody else", code="GM-8202")
        if isinstance(message, Hello):
            check_hello(
                message,
                sender=sender,
                peer_id=self.session.remote_peer_id,
                domain=self._identity.domain,
                now=self._identity.clock.now(),
            )


def check_hello(
    hello: Hello, *, sender: Address, peer_id: str, domain: Domain, now: Timestamp
) -> None:
    """Raise `RemoteProtocolError` unless the sender signed it for this peer and it is in force."""
    if isinstance(hello, ProviderHello):
        offer = verify(hello.offer, domain)
        signer, owner, body_peer = offer.signer, offer.body.provider, offer.body.peer_id
        issued_at, expires_at = offer.body.issued_at, offer.body.expires_at
    else:
        card = verify(hello.card, domain)
        signer, owner, body_peer = card.signer, card.body.verifier, card.body.peer_id
        issued_at, expires_at = card.body.issued_at, card.body.expires_at
    if signer != owner or sender != owner:
        raise RemoteProtocolError("the hello is by somebody else", code="GM-8202")
    if body_peer != peer_id:
        raise RemoteProtocolError(
            "the hello names another peer than the one it came from",
            code="GM-8202",
            why=f"it names {body_peer}, it came from {peer_id}",
        )
    if expires_at < now or issued_at > now + CLOCK_SKEW_SECONDS:
        raise RemoteProtocolError("the hello is not in force", code="GM-8204")


def _now_ms() -> int:
    return math.floor(trio.current_time() * 1_000)
