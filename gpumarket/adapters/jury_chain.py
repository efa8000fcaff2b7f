"""
The chain with its juries: cases about signed work, beside all that `DisputesChain` does.

Every write first looks whether the contract would take it and raises `BrokenPrecondition` with the
contract's own error where it would not; nothing is sent then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpumarket.adapters.chain import TxOutcome
from gpumarket.adapters.disputes_abi import (
    decode_account,
    encode_account,
    encode_batch,
    encode_opening,
    encode_order,
    encode_receipt,
    encode_vote,
)
from gpumarket.adapters.disputes_chain import DisputesChain
from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.juries import CaseRecord, Party, TrialRecord
from gpumarket.protocol.openings import LeafOpening, Place, PostedBatch
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import Signed


class JuryChain(DisputesChain):
    """One market's contracts seen through one RPC endpoint, with an optional signing key."""

    _jury: Any = None
    _epoch: int = 0

    # ---- reading ---------------------------------------------------------------------------

    async def read_case(self, case: int) -> CaseRecord | None:
        """Return where a case stands; None where there is none, or it is closed."""
        jury = await self._find_jury()
        found = _decode_case(case, await self._read(jury.functions.caseOf(case).call))
        return None if found.receipt_hash == ZERO_HASH else found

    async def read_trial(self, receipt_hash: Hash32) -> TrialRecord | None:
        """
        Return what became of a receipt that was accused on its own.

        None where it never was, or where no jury decided: then it can be accused again.
        """
        jury = await self._find_jury()
        case, verdict, is_over = await self._read(jury.functions.trialOf(receipt_hash).call)
        return TrialRecord(case=case, verdict=verdict, is_over=is_over) if case else None

    async def count_eligible(self) -> int:
        """
        Return how many verifiers may judge a case that is opened in the next block.

        Those that were listed an epoch before it: the number that `accuse_receipt` wants. The list
        is in the order of time, so few of its entries are asked for.
        """
        if not self._epoch:
            self._epoch = int(await self._call("EPOCH"))
        _, now = await self.head()
        low, high = 0, int(await self._call("verifierCount"))
        while low < high:
            middle = (low + high) // 2
            _, listed_at = await self._call("verifierAt", middle)
            # The next block is at least a second later than the newest.
            is_eligible = int(listed_at) <= now + 1 - self._epoch
            low, high = (middle + 1, high) if is_eligible else (low, middle)
        return low

    # ---- accusing --------------------------------------------------------------------------

    async def accuse(
        self, batch: PostedBatch, opening: LeafOpening, receipt: Signed[Receipt], *, eligible: int
    ) -> TxOutcome:
        """
        Call paid work false; takes the jury bond from the signer's escrow.

        `eligible` is how many verifiers had been listed an epoch before the batch was posted.
        """
        return await self._try(
            "accuse",
            encode_batch(batch),
            encode_opening(opening),
            encode_receipt(receipt.body),
            receipt.signature,
            eligible,
        )

    async def accuse_receipt(
        self, order: Order, receipt: Signed[Receipt], *, eligible: int
    ) -> TxOutcome:
        """
        Call signed work false that no batch need have paid; takes the jury bond from escrow.

        Until the order expires. `eligible` is what `count_eligible` returns.
        """
        return await self._try(
            "accuseReceipt",
            encode_order(order),
            encode_receipt(receipt.body),
            receipt.signature,
            eligible,
        )

    # ---- a case's way ----------------------------------------------------------------------

    async def seat_jury(self, case: int, header: bytes) -> TxOutcome:
        """Draw the jury of a case by the header of its seed block, as RLP."""
        return await self._try("seatJury", case, header)

    async def redraw(self, case: int) -> TxOutcome:
        """Have the jury drawn by a later block, where the seed block is too old to be read."""
        return await self._try("redraw", case)

    async def decide(
        self, case: int, jury: Sequence[Address], votes: Sequence[tuple[int, Signed[Attestation]]]
    ) -> TxOutcome:
        """
        Record the verdict that a quorum signed.

        `jury` as it was seated; of each vote the seat, from 0 and rising, and the attestation.
        """
        accounts = [encode_account(each) for each in jury]
        return await self._try("decide", case, accounts, [encode_vote(*each) for each in votes])

    async def appeal(self, case: int) -> TxOutcome:
        """Move a decided case to the next level; takes twice the last bond from escrow."""
        return await self._try("appeal", case)

    async def escalate(self, case: int) -> TxOutcome:
        """Move a case whose jury did not decide in time to the next level."""
        return await self._try("escalate", case)

    async def close(self, case: int, voters: Sequence[Address]) -> TxOutcome:
        """Carry out the last verdict; `voters` are those of `Decided`, none without a verdict."""
        return await self._try("close", case, [encode_account(each) for each in voters])

    # ---- inside ----------------------------------------------------------------------------

    async def _find_jury(self) -> Any:
        if self._jury is None:
            self._jury = (await self._find_emitters())[await self._call("JURY")]
        return self._jury

    async def _try(self, name: str, *args: object) -> TxOutcome:
        return await self._say(await self._find_jury(), name, *args)


def _decode_case(case: int, values: Sequence[Any]) -> CaseRecord:
    place, receipt_hash, price, stake_held, eligible, level, verdict, is_posted, *rest = values
    draw_block, deadline, jury_hash, voters_hash, parties = rest
    return CaseRecord(
        case=case,
        place=_decode_place(place),
        receipt_hash=bytes(receipt_hash),
        price=price,
        stake_held=stake_held,
        eligible=eligible,
        level=level,
        verdict=verdict,
        is_posted=is_posted,
        draw_block=draw_block,
        deadline=deadline,
        jury_hash=bytes(jury_hash),
        voters_hash=bytes(voters_hash),
        parties=tuple(
            Party(account=decode_account(account), bond=bond, accuses=accuses)
            for account, bond, accuses in parties
        ),
    )


def _decode_place(values: Sequence[Any]) -> Place:
    coordinator, sequence, posted_at, lane, index, requester, payee, lane_amount = values
    return Place(
        coordinator=decode_account(coordinator),
        sequence=sequence,
        posted_at=posted_at,
        lane=lane,
        index=index,
        requester=decode_account(requester),
        payee=decode_account(payee),
        lane_amount=lane_amount,
    )
