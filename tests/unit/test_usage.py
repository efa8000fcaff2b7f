"""What a unit took of a machine: bound by its receipt, in its proof, and not to be made up."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import CheckpointPlan
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.protocol.proof_packing import pack_proof
from gpumarket.protocol.receipt import Energy, UnitResult, Usage
from gpumarket.protocol.training import CheckpointFacts
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.chains import make_plan
from gpumarket.testing.factories import (
    NOW,
    change,
    make_address,
    make_cid,
    make_device,
    make_hash,
    make_lease_offer,
    make_resources,
    make_result,
    make_spec,
    make_usage,
)
from gpumarket.testing.proofs import ProofMaker, make_chain_evidence, make_settled_job
from provider_node.core.decide import Provider, decide
from provider_node.core.effects import SignReceipt
from provider_node.core.events import CheckpointStored, OutputStored, UnitPrepared, UnitRan
from provider_node.core.state import Lease
from tests.provider_terms import make_terms

RESULT = make_result()
OLD_HASH = "e04aef324afe5acbc1f5e1d7a664a628c0aa735ba7d2153347396242ebe26b8e"
"""Of the same result, made before results said what they took."""


def test_a_result_from_before_metering_keeps_its_name() -> None:
    old = change(RESULT, usage=UNSET)
    assert old.compute_hash().hex() == OLD_HASH
    assert decode_document_untrusted(encode_document(old), UnitResult) == old


@pytest.mark.parametrize(
    "changes",
    [
        {"device_ms": 1},
        {"bytes_in": 1},
        {"bytes_out": 1},
        {"storage_byte_seconds": 1},
        {"energy": None},
        {"energy": Energy(source="nvml", millijoules=270_000)},
        {"energy": Energy(source="rapl", millijoules=1)},
    ],
)
def test_the_receipt_binds_each_figure(changes: dict[str, Any]) -> None:
    other = change(RESULT, usage=make_usage(**changes))
    assert other.compute_hash() != RESULT.compute_hash()
    assert decode_document_untrusted(encode_document(other), UnitResult) == other


# ---- proofs and audits ---------------------------------------------------------------------


class Liar(ProofMaker):
    """Its providers state another device time, or none at all."""

    usage: Any = UNSET

    def make_result(self, provider: str, unit: int) -> UnitResult:
        return change(super().make_result(provider, unit), usage=self.usage)


@pytest.mark.parametrize("usage", [UNSET, make_usage(), make_usage(energy=None)])
def test_a_proof_carries_what_was_metered_and_stays_canonical(usage: Any) -> None:
    maker = Liar()
    maker.usage = usage
    proof, facts = make_settled_job(maker)
    data = encode_proof(proof)
    again = decode_proof_untrusted(data)
    assert encode_proof(again) == data
    shown = [
        unit.result.usage
        for epoch in pack_proof(again).epochs
        for work in epoch.work
        for unit in work.units
        if unit.result is not None
    ]
    assert shown and set(shown) == {usage or None}
    assert check_proof(again, make_chain_evidence(facts)).verdict is AuditVerdict.PASS


def test_metering_costs_a_proof_little_for_each_result() -> None:
    maker = Liar()
    bare = encode_proof(make_settled_job(maker)[0])
    maker.usage = make_usage(bytes_in=10**12, bytes_out=10**12, storage_byte_seconds=10**18)
    results = 9
    assert 0 < len(encode_proof(make_settled_job(maker)[0])) - len(bare) <= 150 * results


def test_an_audit_refuses_device_time_that_was_not_run() -> None:
    maker = Liar()
    maker.usage = make_usage(device_ms=9_001)
    proof, facts = make_settled_job(maker)
    report = check_proof(proof, make_chain_evidence(facts))
    assert report.verdict is AuditVerdict.FAIL
    assert "metered another device time than it ran" in " ".join(
        check.text for check in report.checks
    )


# ---- the provider --------------------------------------------------------------------------


def make_leased(*, devices: int = 1, plan: CheckpointPlan | None = None) -> tuple[Provider, Lease]:
    """A node that has just taken a lease on its devices and has it prepared."""
    resources = make_resources(devices=DeviceNeed(count=devices))
    offer = make_lease_offer(make_spec(resources=resources, checkpoint=plan))
    terms = make_terms(devices=(make_device(),) * max(1, devices))
    state = Provider(terms=terms)
    lease = state.leases[offer.lease_id] = Lease(
        coordinator=make_address("coordinator"),
        offer=offer,
        assignment=None,  # type: ignore[arg-type]  # nobody settles here
        devices=tuple(range(devices)),
        accepted_at=NOW,
        phase_at=NOW,
    )
    decide(state, UnitPrepared(at=Timestamp(NOW + 5), lease_id=offer.lease_id, bytes_in=700))
    return state, lease


def run_unit(energy: Energy | None, *, devices: int = 1) -> Usage:
    """Take a lease to its receipt; return what the result says it took."""
    state, lease = make_leased(devices=devices)
    name = lease.lease_id
    ran = UnitRan(at=Timestamp(NOW + 95), lease_id=name, duration_ms=90_000, energy=energy)
    decide(state, ran)
    stored_at, salt = Timestamp(NOW + 105), make_hash("salt")
    output = OutputStored(
        at=stored_at, lease_id=name, output=make_cid("out"), output_bytes=50, salt=salt
    )
    [asked] = decide(state, output)
    assert isinstance(asked, SignReceipt)
    result = lease.get_result()
    assert asked.receipt.result_hash == result.compute_hash()
    assert result.usage
    return result.usage


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_a_provider_says_what_a_unit_took(devices: int) -> None:
    energy = Energy(source="nvml", millijoules=27_000_000)
    given = sum(item.size_bytes for item in make_spec().inputs)
    assert run_unit(energy, devices=devices) == Usage(
        device_ms=90_000 * max(1, devices),
        bytes_in=700,
        bytes_out=50,
        storage_byte_seconds=(given + 50) * 100,
        energy=energy,
    )


def test_energy_that_nothing_counts_is_declared_as_unknown() -> None:
    assert run_unit(None).energy is None


def test_checkpoints_count_as_bytes_out() -> None:
    state, lease = make_leased(plan=make_plan())
    for number, size in enumerate((30, 12)):
        facts = CheckpointFacts(
            step=number,
            folder=make_cid(f"checkpoint {number}"),
            model_root=make_hash("model"),
            optimizer_root=make_hash("optimizer"),
            rng_root=make_hash("rng"),
            cursor=0,
            loss="1",
            update_norm="1",
        )
        at, name = Timestamp(NOW + 6), lease.lease_id
        decide(state, CheckpointStored(at=at, lease_id=name, facts=facts, stored_bytes=size))
    assert lease.checkpoint_bytes == 42
