"""
The chain with its court: challenges, proofs and direct settlements, beside all that `Chain` does.

Every write first looks whether the contract would take it and raises `BrokenPrecondition` with the
contract's own error where it would not; nothing is sent then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumarket.adapters.chain import Chain, TxOutcome
from gpumarket.adapters.chain_errors import RAISED_BY_WEB3, TEXT_MAX
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_assignment,
    encode_batch,
    encode_evidence,
    encode_leaf,
    encode_opening,
    encode_order,
    encode_place,
)
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.errors import BrokenPrecondition
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.openings import LeafOpening, PostedBatch
from gpumarket.protocol.order import Order
from gpumarket.protocol.settlement import PaymentLeaf
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.watching import OpenChallenge


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """What the contract says of a leaf."""

    is_challenged: bool
    is_answered: bool
    is_void: bool


class DisputesChain(Chain):
    """One market's contracts seen through one RPC endpoint, with an optional signing key."""

    _disputes: Any = None

    # ---- reading ---------------------------------------------------------------------------

    async def read_block(self, number: int) -> tuple[Hash32, int]:
        """Return a block's hash and time (unix seconds)."""
        header = decode_header_untrusted(await self.read_header(number))
        return header.block_hash, header.timestamp

    async def read_leaf_record(
        self, coordinator: Address, sequence: int, *, lane: int, index: int
    ) -> LeafRecord:
        """Return what has been said about a leaf; void also where its whole lane is."""
        disputes = await self._find_disputes()
        place = (encode_account(coordinator), sequence, lane)
        leaf = await self._read(disputes.functions.leafOf(*place, index).call)
        whole = await self._read(disputes.functions.laneOf(*place).call)
        _open, is_challenged, is_answered, _accused, _judged, is_void = leaf
        _aside, _held, _open, is_lane_void, _slashed = whole
        return LeafRecord(is_challenged, is_answered, is_void or is_lane_void)

    async def read_challenge_hash(self, challenge_id: int) -> Hash32:
        """Return what the contract keeps of an open challenge, or zero."""
        disputes = await self._find_disputes()
        return bytes(await self._read(disputes.functions.challengeOf(challenge_id).call))

    async def is_settled_directly(self, order_hash: Hash32, line: int) -> bool:
        """Say whether a line of an order was settled without its coordinator."""
        function = (await self._find_disputes()).functions.isSettledDirectly(order_hash, line)
        return bool(await self._read(function.call))

    async def is_presigned(self, account: Address, order_hash: Hash32) -> bool:
        """Say whether an account has signed an order by transaction."""
        disputes = await self._find_disputes()
        function = disputes.functions.isPresigned(encode_account(account), order_hash)
        return bool(await self._read(function.call))

    async def read_role(self, operator: Address) -> int:
        """Return what an account is registered as: 0 nothing, 1 provider, 2 verifier."""
        return int((await self._call("operatorOf", encode_account(operator)))[1])

    # ---- challenges ------------------------------------------------------------------------

    async def challenge_leaf(self, batch: PostedBatch, opening: LeafOpening) -> TxOutcome:
        """Demand a leaf's evidence; takes the challenge bond from the signer's escrow."""
        return await self._judge("challengeLeaf", encode_batch(batch), encode_opening(opening))

    async def challenge_withheld(self, batch: PostedBatch, *, lane: int, index: int) -> TxOutcome:
        """Demand a leaf that nobody shows; takes the challenge bond from the signer's escrow."""
        return await self._judge("challengeWithheld", encode_batch(batch), lane, index)

    async def respond(
        self, challenge: OpenChallenge, leaf: PaymentLeaf, evidence: LeafEvidence
    ) -> TxOutcome:
        """Show the evidence of a leaf; the challenger's bond becomes the signer's credit."""
        number, record = challenge.challenge_id, _encode_challenge(challenge)
        return await self._judge(
            "respond", number, record, encode_leaf(leaf), encode_evidence(evidence)
        )

    async def respond_withheld(
        self,
        challenge: OpenChallenge,
        *,
        batch: PostedBatch,
        opening: LeafOpening,
        evidence: LeafEvidence,
    ) -> TxOutcome:
        """Show a leaf with its evidence; the challenger's bond becomes the signer's credit."""
        return await self._judge(
            "respondWithheld",
            challenge.challenge_id,
            _encode_challenge(challenge),
            encode_batch(batch),
            encode_opening(opening),
            encode_evidence(evidence),
        )

    async def time_out(self, challenge: OpenChallenge) -> TxOutcome:
        """End a challenge that nobody answered in time; its bond goes back."""
        return await self._judge("timeout", challenge.challenge_id, _encode_challenge(challenge))

    # ---- proofs ----------------------------------------------------------------------------

    async def prove_bad_leaf(
        self, batch: PostedBatch, opening: LeafOpening, order: Order
    ) -> TxOutcome:
        """Show by its order alone that a leaf is wrong."""
        return await self._judge(
            "proveBadLeaf", encode_batch(batch), encode_opening(opening), encode_order(order)
        )

    async def prove_double(
        self,
        earlier: tuple[PostedBatch, LeafOpening],
        later: tuple[PostedBatch, LeafOpening],
        evidence: LeafEvidence,
    ) -> TxOutcome:
        """
        Show that a later leaf pays what an earlier one paid.

        `evidence` is of the earlier, and looked at only where the later is a direct settlement.
        """
        return await self._judge(
            "proveDouble",
            encode_batch(earlier[0]),
            encode_opening(earlier[1]),
            encode_batch(later[0]),
            encode_opening(later[1]),
            encode_evidence(evidence),
        )

    # ---- direct settlement -----------------------------------------------------------------

    async def settle_direct(
        self,
        evidence: LeafEvidence,
        assignment: Signed[Assignment],
        *,
        acceptance_signature: bytes,
    ) -> TxOutcome:
        """
        Settle a receipt without its coordinator.

        Without an acceptance the evidence needs a MATCH attestation. Only the receipt's provider
        or its payout address may.
        """
        return await self._judge(
            "settleDirect",
            encode_evidence(evidence),
            encode_assignment(assignment.body),
            assignment.signature,
            acceptance_signature,
        )

    # ---- inside ----------------------------------------------------------------------------

    async def _find_disputes(self) -> Any:
        if self._disputes is None:
            address = await self._call("DISPUTES")
            self._disputes = (await self._find_emitters())[address]
        return self._disputes

    async def _judge(self, name: str, *args: object) -> TxOutcome:
        return await self._say(await self._find_disputes(), name, *args)

    async def _say(self, judge: Any, name: str, *args: object) -> TxOutcome:
        """Call a judge, unless it would refuse."""
        try:
            function = judge.functions[name](*args)
        except (*RAISED_BY_WEB3, TypeError) as error:
            # What a stranger signed may hold numbers that the contract has no room for.
            raise BrokenPrecondition(
                f"{name} cannot be said to the contract",
                why=str(error)[:TEXT_MAX],
                money="nothing was sent",
            ) from error
        return await self._send(function)


def _encode_challenge(challenge: OpenChallenge) -> tuple[Any, ...]:
    return (
        encode_place(challenge.place),
        challenge.leaf_hash,
        challenge.price,
        encode_account(challenge.challenger),
        challenge.deadline,
    )
