"""
Valid values of everything in the protocol, so that a test names only what it is about.

`make_x(field=value)` gives a valid X with that field changed. Signed things are signed by the
right key: the key of an actor is `make_key("provider-1")` and so on, always the same for a
name. Time in tests starts at `NOW`.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, TypeVar

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, OwnResult, Seal, Verdict
from gpumarket.protocol.cids import Codec, compute_cid, format_cid
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.gpu import Device, DeviceNeed
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.job import (
    Image,
    Input,
    JobSpec,
    Output,
    Resources,
    VerifyPolicy,
    compute_verify_hash,
)
from gpumarket.protocol.lease import LeaseOffer, Reason, compute_lease_id, make_assignment
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.messages import LeaseProposed
from gpumarket.protocol.offer import DEVNET_CHAIN_ID, Offer, VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import (
    Energy,
    ProviderRoot,
    Receipt,
    UnitResult,
    Usage,
    compute_input_hash,
)
from gpumarket.protocol.signing import Domain, PrivateKey, Signable, Signed
from gpumarket.protocol.units import Amount, Timestamp

NOW = Timestamp(1_790_000_000)
"""When tests begin, in unix seconds."""
DOMAIN = Domain(chain_id=DEVNET_CHAIN_ID, contract=bytes.fromhex("c0" * 20))
ANYWHERE = "/ip4/127.0.0.1/tcp/4001"

T = TypeVar("T")
S = TypeVar("S", bound=Signable)


@cache
def make_key(name: str) -> PrivateKey:
    """Return the key of a named actor; a name has one key for ever."""
    return PrivateKey(make_secret(name))


def make_secret(name: str) -> bytes:
    """Return the secret of a named actor's key, for what signs transactions."""
    return hashlib.sha256(b"test key of " + name.encode()).digest()


def make_address(name: str) -> Address:
    """Return the address of a named actor."""
    return make_key(name).address


def make_hash(name: str) -> Hash32:
    """Return some 32 bytes, the same for the same name."""
    return hashlib.sha256(name.encode()).digest()


def make_cid(name: str = "content") -> Cid:
    """Return the CID of some bytes."""
    return format_cid(compute_cid(name.encode(), Codec.RAW))


def sign(value: S, signer: str, *, domain: Domain = DOMAIN) -> Signed[S]:
    """Sign a value with the key of a named actor."""
    return make_key(signer).sign(value, domain).as_signed()


# ---- job and order -------------------------------------------------------------------------


def make_image(**changes: Any) -> Image:
    """Return an image of 10 MB."""
    values: dict[str, Any] = {
        "archive": make_cid("image"),
        "digest": "sha256:" + "1a" * 32,
        "archive_bytes": 10_000_000,
    }
    return Image(**(values | changes))


def make_input(**changes: Any) -> Input:
    """Return one small input."""
    values: dict[str, Any] = {
        "name": "texts",
        "cid": make_cid("texts"),
        "path": "/input",
        "size_bytes": 5_000,
    }
    return Input(**(values | changes))


def make_output(**changes: Any) -> Output:
    """Return an output folder of at most 1 MB."""
    values: dict[str, Any] = {"path": "/output", "bytes_max": 1_000_000}
    return Output(**(values | changes))


def make_resources(**changes: Any) -> Resources:
    """Return modest needs: no device, one processor."""
    values: dict[str, Any] = {
        "devices": DeviceNeed(count=0),
        "memory_bytes": 10**9,
        "disk_bytes": 10**8,
    }
    return Resources(**(values | changes))


def make_spec(**changes: Any) -> JobSpec:
    """Return a job of four tasks that any provider can run."""
    values: dict[str, Any] = {
        "name": "embeddings",
        "image": make_image(),
        "command": ("python", "/job/run.py"),
        "inputs": (make_input(),),
        "outputs": (make_output(),),
        "units": 4,
        "resources": make_resources(),
        "verify": VerifyPolicy(units_min=1),
    }
    return JobSpec(**(values | changes))


def make_order(spec: JobSpec | None = None, **changes: Any) -> Order:
    """Return an order that fits a job and is good for a day."""
    spec = spec or make_spec()
    values: dict[str, Any] = {
        "requester": make_address("requester"),
        "coordinator": make_address("coordinator"),
        "job_hash": spec.compute_hash(),
        "verify_hash": compute_verify_hash(spec.verify),
        "units": spec.units,
        "checks": spec.units,
        "max_unit_price": 1_000_000,
        "max_check_price": 200_000,
        "max_fee": 0,
        "settle_by": NOW + 86_400,
        "expiry": NOW + 2 * 86_400,
        "nonce": make_hash("nonce"),
    }
    return Order(**(values | changes))


def make_signed_order(
    spec: JobSpec | None = None, signer: str = "requester", **changes: Any
) -> Signed[Order]:
    """Return an order signed by its requester."""
    return sign(make_order(spec, **({"requester": make_address(signer)} | changes)), signer)


# ---- offers --------------------------------------------------------------------------------


def make_device(**changes: Any) -> Device:
    """Return a 24 GB card."""
    values: dict[str, Any] = {
        "vendor": "nvidia",
        "model": "RTX 4090",
        "vram_bytes": 24 * 10**9,
        "simulated": False,
        "compute_capability": (8, 9),
        "cuda": (12, 4),
    }
    return Device(**(values | changes))


def make_offer(name: str = "provider-1", **changes: Any) -> Offer:
    """Return the offer of a named provider: one card, two slots, good for two minutes."""
    values: dict[str, Any] = {
        "provider": make_address(name),
        "peer_id": f"12D3KooW{name}",
        "addresses": (ANYWHERE,),
        "sealing_key": make_hash(f"sealing key of {name}"),
        "devices": (make_device(),),
        "slots": 2,
        "cpus": 8,
        "memory_bytes": 32 * 10**9,
        "disk_bytes": 100 * 10**9,
        "region": "SE",
        "isolation": "runc",
        "repro_class": make_hash("class"),
        "price_per_device_hour": Amount(400_000),
        "sequence": 1,
        "issued_at": NOW,
        "expires_at": NOW + 120,
    }
    return Offer(**(values | changes))


def make_signed_offer(name: str = "provider-1", **changes: Any) -> Signed[Offer]:
    """Return an offer signed by its provider."""
    return sign(make_offer(name, **changes), name)


def make_card(name: str = "verifier-1", **changes: Any) -> VerifierCard:
    """Return the card of a named verifier."""
    values: dict[str, Any] = {
        "verifier": make_address(name),
        "peer_id": f"12D3KooW{name}",
        "addresses": (ANYWHERE,),
        "repro_class": make_hash("class"),
        "slots": 2,
        "price_per_check": Amount(100_000),
        "sequence": 1,
        "issued_at": NOW,
        "expires_at": NOW + 120,
    }
    return VerifierCard(**(values | changes))


def make_signed_card(name: str = "verifier-1", **changes: Any) -> Signed[VerifierCard]:
    """Return a card signed by its verifier."""
    return sign(make_card(name, **changes), name)


# ---- leases and receipts -------------------------------------------------------------------


def make_lease_offer(
    spec: JobSpec | None = None, provider: str = "provider-1", **changes: Any
) -> LeaseOffer:
    """Return a lease of unit 0 for a named provider."""
    spec = spec or make_spec()
    order = changes.get("order") or make_signed_order(spec)
    unit, attempt = changes.get("unit", 0), changes.get("attempt", 0)
    values: dict[str, Any] = {
        "lease_id": compute_lease_id(order.body.compute_struct_hash(), unit, attempt),
        "provider": make_address(provider),
        "order": order,
        "job": spec,
        "unit": unit,
        "attempt": attempt,
        "price_per_device_hour": 400_000,
        "price_max": 400_000,
        "deadline": NOW + 3_600,
        "sources": (ANYWHERE,),
    }
    return LeaseOffer(**(values | changes))


def propose(lease: LeaseOffer, signer: str = "coordinator") -> LeaseProposed:
    """Return the message with which a coordinator proposes a lease."""
    return LeaseProposed(lease=sign(lease, signer), assignment=sign(make_assignment(lease), signer))


def make_reason(**changes: Any) -> Reason:
    """Return the reason of a program that failed."""
    values = {"code": "GM-5101", "text": "the program ended with exit code 2", "fault": "requester"}
    return Reason(**(values | changes))


def make_result(
    order: Order | None = None, provider: str = "provider-1", **changes: Any
) -> UnitResult:
    """Return the result of unit 0; its output and salt differ from unit to unit."""
    order = order or make_order()
    unit = changes.get("unit", 0)
    values: dict[str, Any] = {
        "order_hash": order.compute_struct_hash(),
        "unit": unit,
        "provider": make_address(provider),
        "input_hash": compute_input_hash(order.job_hash, unit),
        "output": make_cid(f"output {unit}"),
        "output_bytes": 1_000,
        "repro_class": make_hash("class"),
        "duration_ms": 9_000,
        "salt": make_hash(f"salt {provider} {unit}"),
    }
    values |= changes
    values.setdefault("usage", make_usage(device_ms=values["duration_ms"]))
    return UnitResult(**values)


def make_usage(**changes: Any) -> Usage:
    """Return what a unit of nine seconds took of a machine that measures its processor."""
    values: dict[str, Any] = {
        "device_ms": 9_000,
        "bytes_in": 2_000,
        "bytes_out": 1_000,
        "storage_byte_seconds": 30_000,
        "energy": Energy(source="rapl", millijoules=270_000),
    }
    return Usage(**(values | changes))


def make_receipt(result: UnitResult | None = None, **changes: Any) -> Receipt:
    """Return the receipt of a result, at 0.40 USDC an hour."""
    result = result or make_result()
    values: dict[str, Any] = {
        "order_hash": result.order_hash,
        "unit": result.unit,
        "provider": result.provider,
        "result_hash": result.compute_hash(),
        "price": 1_000,
        "finished_at": NOW + 10,
    }
    return Receipt(**(values | changes))


def make_provider_root(
    receipts: tuple[Receipt, ...] = (), provider: str = "provider-1", **changes: Any
) -> ProviderRoot:
    """Return a provider's root over receipts in their order."""
    receipts = receipts or (make_receipt(),)
    values: dict[str, Any] = {
        "coordinator": make_address("coordinator"),
        "epoch": 1,
        "provider": make_address(provider),
        "root": compute_root([receipt.result_hash for receipt in receipts]),
        "count": len(receipts),
        "price": sum(receipt.price for receipt in receipts),
        "duration_ms": 9_000 * len(receipts),
    }
    return ProviderRoot(**(values | changes))


# ---- checks --------------------------------------------------------------------------------


def make_own_result(
    result: UnitResult | None = None, verifier: str = "verifier-1", **changes: Any
) -> OwnResult:
    """Return what an honest verifier gets for a result: the same output."""
    result = result or make_result()
    values: dict[str, Any] = {
        "order_hash": result.order_hash,
        "unit": result.unit,
        "verifier": make_address(verifier),
        "output": result.output,
        "exit_code": 0,
        "repro_class": make_hash("class"),
        "duration_ms": 9_500,
        "nonce": make_hash(f"nonce {verifier} {result.unit}"),
    }
    return OwnResult(**(values | changes))


def make_seal(own: OwnResult | None = None, **changes: Any) -> Seal:
    """Return the seal over a verifier's own result, for the default receipt of its unit."""
    own = own or make_own_result()
    values: dict[str, Any] = {
        "order_hash": own.order_hash,
        "unit": own.unit,
        "verifier": own.verifier,
        "receipt_hash": make_receipt().compute_struct_hash(),
        "sealed": own.compute_hash(),
    }
    return Seal(**(values | changes))


def make_opening(result: UnitResult | None = None, **changes: Any) -> Opening:
    """Return the opening of a result that was not sampled."""
    result = result or make_result()
    values: dict[str, Any] = {
        "result": result,
        "receipt_hash": make_receipt(result).compute_struct_hash(),
        "seal_hashes": (),
    }
    return Opening(**(values | changes))


def make_evidence(
    own: OwnResult | None = None, opening: Opening | None = None, **changes: Any
) -> Evidence:
    """Return the evidence that joins a verifier's result to a provider's opening."""
    values: dict[str, Any] = {
        "own": own or make_own_result(),
        "opening_hash": compute_content_hash(opening or make_opening()),
        "comparison": "bytes: 1 file, all equal",
    }
    return Evidence(**(values | changes))


def make_attestation(evidence: Evidence | None = None, **changes: Any) -> Attestation:
    """Return the verdict MATCH on the default receipt."""
    values: dict[str, Any] = {
        "receipt_hash": make_receipt().compute_struct_hash(),
        "verdict": int(Verdict.MATCH),
        "evidence_hash": compute_content_hash(evidence or make_evidence()),
        "issued_at": NOW + 60,
    }
    return Attestation(**(values | changes))


def change(value: T, **changes: Any) -> T:
    """Return a value with some fields changed and everything else as it was."""
    return msgspec.structs.replace(value, **changes)  # type: ignore[type-var]  # any struct
