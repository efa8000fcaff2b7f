"""The receipt: what a provider says it did for one task, with the result hidden until opened."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.signing import Document, encode_address, encode_uint, keccak256
from gpumarket.protocol.training import TrainingClaim
from gpumarket.protocol.units import U32, U64

_RECEIPT_TYPE = keccak256(
    b"Receipt(bytes32 orderHash,uint32 unit,address provider,bytes32 resultHash,"
    b"uint64 price,uint64 finishedAt)"
)
_RESULT_TAG = b"gpumarket.result.v1"

EnergySource = Literal["nvml", "rapl"]
"""The devices' own counters, or the processor packages' with all that ran on them meanwhile."""


class Energy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a unit's run used, and what counted it."""

    source: EnergySource
    millijoules: U64


class Usage(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a unit took of the machine that did it."""

    device_ms: U64
    """Run time times devices; a task without a device of its own counts as one."""
    bytes_in: U64
    """Image, inputs and checkpoint that were fetched for this unit; what was there is not."""
    bytes_out: U64
    """Output and checkpoints that were stored."""
    storage_byte_seconds: U64
    """Inputs and output, from when they were there until the output was stored."""
    energy: Energy | None = None
    """None is unknown: nothing on the machine counts it, or the node may not read it."""

    def fits(self, *, duration_ms: int, devices: int) -> bool:
        """Say whether the device time is that of a run on so many devices."""
        return self.device_ms == duration_ms * max(1, devices)


class UnitResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One unit of work as it was done; its salted hash is committed before anybody knows the sample.

    The position and the provider are inside, so a result cannot be moved or copied.
    """

    order_hash: Hash32
    unit: U32
    provider: Address
    input_hash: Hash32
    """Hash of the job hash and unit: what was asked."""
    output: Cid
    """The output folder on IPFS."""
    output_bytes: U64
    repro_class: Hash32
    duration_ms: U64
    salt: Hash32
    training: TrainingClaim | None = None
    """For a task with checkpoints: the chain of its segments."""
    usage: Usage | UnsetType = UNSET
    """Left out, not empty, where nobody metered: older documents keep their bytes."""

    def compute_hash(self) -> Hash32:
        """Return the salted hash that a receipt carries as its result."""
        return _hash_result(self)


@lru_cache(maxsize=1024)
def _hash_result(result: UnitResult) -> Hash32:
    return keccak256(_RESULT_TAG + encode_document(result))


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's signed claim for one payment line of an order."""

    order_hash: Hash32
    unit: U32
    provider: Address
    result_hash: Hash32
    price: U64
    finished_at: U64

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash, which names the receipt in settlement leaves."""
        return _hash_receipt(self)


@lru_cache(maxsize=16_384)
def _hash_receipt(receipt: Receipt) -> Hash32:
    # An audit indexes receipts by this name for each of its checks.
    return keccak256(
        _RECEIPT_TYPE
        + receipt.order_hash
        + encode_uint(receipt.unit)
        + encode_address(receipt.provider)
        + receipt.result_hash
        + encode_uint(receipt.price)
        + encode_uint(receipt.finished_at)
    )


class ProviderRoot(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's agreement to one epoch: its receipts' root, their count and their price."""

    KIND: ClassVar[str] = "gpumarket.provider-root.v1"

    coordinator: Address
    epoch: U64
    """The coordinator's own epoch number, not the chain's."""
    provider: Address
    root: Hash32
    """Merkle root over the result hashes, in the order the coordinator listed them."""
    count: U32
    price: U64
    duration_ms: U64


def compute_input_hash(job_hash: Hash32, unit: int) -> Hash32:
    """Hash what a unit was asked to do: its job and its index."""
    return keccak256(job_hash + encode_uint(unit))
