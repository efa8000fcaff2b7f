"""The order: a requester's signed promise to pay for one job, up to stated prices."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Hash32
from gpumarket.protocol.job import JobSpec, compute_verify_hash
from gpumarket.protocol.signing import Document, encode_address, encode_uint, keccak256
from gpumarket.protocol.units import U32, U64, Amount, Timestamp

_ORDER_TYPE = keccak256(
    b"Order(address requester,address coordinator,address provider,bytes32 jobHash,"
    b"bytes32 verifyHash,uint32 units,uint32 checks,uint64 maxUnitPrice,uint64 maxCheckPrice,"
    b"uint64 maxFee,uint64 settleBy,uint64 expiry,uint256 nonce)"
)


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What a requester will pay at most, to whom, for which job, until when.

    Payment lines of an order are numbered: [0, units) pay providers for tasks,
    [units, units + checks) pay verifiers for re-executions, and line units + checks pays
    the coordinator its fee. Each line pays at most once.
    """

    requester: Address
    coordinator: Address
    provider: Address = ZERO_ADDRESS
    """Zero leaves the choice to the coordinator."""
    job_hash: Hash32
    verify_hash: Hash32
    units: U32
    checks: U32
    max_unit_price: U64
    max_check_price: U64
    max_fee: U64
    settle_by: U64
    """Unix seconds; the coordinator settles before this."""
    expiry: U64
    """Unix seconds; nothing of this order can be settled after this."""
    nonce: Hash32
    """A uint256 as its 32 bytes."""

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash, which is also the order's name on chain."""
        numbers = (
            self.units,
            self.checks,
            self.max_unit_price,
            self.max_check_price,
            self.max_fee,
            self.settle_by,
            self.expiry,
        )
        return keccak256(
            _ORDER_TYPE
            + encode_address(self.requester)
            + encode_address(self.coordinator)
            + encode_address(self.provider)
            + self.job_hash
            + self.verify_hash
            + b"".join(encode_uint(number) for number in numbers)
            + self.nonce
        )

    def compute_exposure(self) -> Amount:
        """Return the most this order can ever cost."""
        return Amount(
            self.units * self.max_unit_price + self.checks * self.max_check_price + self.max_fee
        )

    @property
    def fee_line(self) -> int:
        """The payment line of the coordinator's fee."""
        return self.units + self.checks

    def find_line_cap(self, line: int) -> Amount | None:
        """Return the most that a payment line may pay, or None where there is no such line."""
        if 0 <= line < self.units:
            return Amount(self.max_unit_price)
        if self.units <= line < self.fee_line:
            return Amount(self.max_check_price)
        return Amount(self.max_fee) if line == self.fee_line else None


class CancelOrder(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A requester's signed wish that no more of an order is started."""

    KIND: ClassVar[str] = "gpumarket.cancel.v1"

    order_hash: Hash32


def check_order_fits(order: Order, spec: JobSpec, *, now: Timestamp) -> None:
    """Raise `InvalidInput` unless the order is about this job and still alive."""
    if order.job_hash != spec.compute_hash():
        raise InvalidInput("the order signs another job than the one sent", code="GM-1201")
    if order.verify_hash != compute_verify_hash(spec.verify):
        raise InvalidInput("the order signs another verification policy", code="GM-1201")
    if order.units != spec.units:
        raise InvalidInput(
            f"the order counts {order.units} tasks, the job has {spec.units}", code="GM-1201"
        )
    if order.settle_by <= now or order.expiry < order.settle_by:
        raise InvalidInput("the order has expired or its times are out of order", code="GM-1202")
