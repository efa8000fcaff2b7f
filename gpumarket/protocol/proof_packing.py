"""Proofs of execution to what their files hold: nothing twice, and nothing that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.proof import (
    CheckProof,
    EpochProof,
    OpenedWork,
    ProofOfExecution,
    ProviderWork,
    SettlementProof,
)
from gpumarket.protocol.proof_format import (
    CheckEntry,
    EpochEntry,
    LaneEntry,
    LeafEntry,
    ProofFile,
    ResultEntry,
    SettlementEntry,
    UnitEntry,
    WorkEntry,
)
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane, OpenedLane
from gpumarket.protocol.signing import Signed


@dataclass(slots=True)
class _Writer:
    proof: ProofOfExecution
    own: Hash32
    job_hash: Hash32
    orders: Mapping[Hash32, int]
    checks: dict[Hash32, list[CheckProof]] = field(default_factory=dict)
    openings: dict[Hash32, Signed[Opening]] = field(default_factory=dict)
    rejected: set[Hash32] = field(default_factory=set)


def pack_proof(proof: ProofOfExecution) -> ProofFile:
    """Return what the file of a proof holds; raise `InvalidInput` where its parts do not fit."""
    own = proof.order.body.compute_struct_hash()
    others = {
        receipt.body.order_hash
        for epoch in proof.epochs
        for work in epoch.document.work
        for receipt in work.receipts
    }
    others |= {
        leaf.order_hash
        for settlement in proof.settlements
        for lane in settlement.batch.lanes
        for leaf in lane.leaves
    }
    orders = tuple(sorted(others - {own}))
    places = {own: 0} | {name: place for place, name in enumerate(orders, start=1)}
    writer = _Writer(proof, own, proof.job.compute_hash(), places)
    if proof.claim is None:
        raise InvalidInput("a proof without its claim cannot be written")
    return ProofFile(
        version=1,
        domain=proof.domain,
        order=proof.order,
        job=proof.job,
        orders=orders,
        epochs=tuple(_pack_epoch(writer, epoch) for epoch in proof.epochs),
        settlements=tuple(_pack_settlement(writer, each) for each in proof.settlements),
        claim=proof.claim,
        chain=proof.chain,
    )


def _pack_epoch(writer: _Writer, epoch: EpochProof) -> EpochEntry:
    writer.checks, writer.rejected = {}, set(epoch.rejected_receipts)
    for check in epoch.checks:
        writer.checks.setdefault(check.opening.body.receipt_hash, []).append(check)
    writer.openings = {each.body.receipt_hash: each for each in epoch.openings}
    document = epoch.document
    opened = epoch.canaries
    if opened is not None and opened.compute_hash() != document.canaries:
        raise InvalidInput("a proof opens other canaries than were committed to")
    work = tuple(_pack_work(writer, each) for each in document.work)
    if writer.checks or writer.openings or writer.rejected:
        raise InvalidInput("a proof has checks, openings or refusals without their receipts")
    return EpochEntry(
        sequence=epoch.sequence,
        epoch=document.epoch,
        work=work,
        verifiers=document.verifiers,
        canaries=epoch.canaries,
        canaries_hash=document.canaries if epoch.canaries is None else None,
        nonces=epoch.nonces,
        header=epoch.header,
    )


def _pack_work(writer: _Writer, work: ProviderWork) -> WorkEntry:
    return WorkEntry(
        root=work.root,
        pools=work.pools,
        stake=work.stake,
        audited=work.audited,
        units=tuple(_pack_unit(writer, receipt) for receipt in work.receipts),
        places=work.places if isinstance(work, OpenedWork) else (),
        siblings=b"".join(work.siblings) if isinstance(work, OpenedWork) else b"",
    )


def _pack_unit(writer: _Writer, receipt: Signed[Receipt]) -> UnitEntry:
    body, name = receipt.body, receipt.body.compute_struct_hash()
    checks = sorted(writer.checks.pop(name, []), key=lambda check: check.seal.signer)
    opening = writer.openings.pop(name, None) or (checks[0].opening if checks else None)
    if any(check.opening != opening for check in checks):
        raise InvalidInput("one result was opened in two ways")
    is_rejected = name in writer.rejected
    writer.rejected.discard(name)
    return UnitEntry(
        order=writer.orders[body.order_hash],
        unit=body.unit,
        price=body.price,
        finished_at=body.finished_at,
        signature=receipt.signature,
        result_hash=body.result_hash if opening is None else None,
        result=None if opening is None else _pack_result(writer, opening, checks),
        checks=tuple(_pack_check(check) for check in checks),
        rejected=is_rejected,
    )


def _pack_result(
    writer: _Writer, opening: Signed[Opening], checks: Sequence[CheckProof]
) -> ResultEntry:
    result = opening.body.result
    named = {compute_content_hash(check.seal.body) for check in checks}
    return ResultEntry(
        output=result.output,
        output_bytes=result.output_bytes,
        repro_class=result.repro_class,
        duration_ms=result.duration_ms,
        salt=result.salt,
        training=result.training,
        usage=result.usage or None,
        input_hash=None if result.order_hash == writer.own else result.input_hash,
        seals=tuple(each for each in opening.body.seal_hashes if each not in named),
        opening=opening.signature,
    )


def _pack_check(check: CheckProof) -> CheckEntry:
    own, theirs = check.evidence.own, check.opening.body.result
    return CheckEntry(
        verifier=check.seal.signer,
        output=None if own.output == theirs.output else own.output,
        exit_code=own.exit_code,
        repro_class=None if own.repro_class == theirs.repro_class else own.repro_class,
        duration_ms=own.duration_ms,
        nonce=own.nonce,
        comparison=check.evidence.comparison,
        segments=check.evidence.segments,
        verdict=check.attestation.body.verdict,
        issued_at=check.attestation.body.issued_at,
        seal=check.seal.signature,
        attestation=check.attestation.signature,
    )


def _pack_settlement(writer: _Writer, settlement: SettlementProof) -> SettlementEntry:
    batch = settlement.batch
    return SettlementEntry(
        sequence=settlement.sequence,
        lanes=tuple(_pack_lane(writer, lane) for lane in batch.lanes),
        bills=batch.bills,
    )


def _pack_lane(writer: _Writer, lane: Lane) -> LaneEntry:
    opened = lane if isinstance(lane, OpenedLane) else None
    siblings = opened.siblings if opened else ()
    return LaneEntry(
        requester=lane.requester,
        payee=lane.payee,
        leaves=tuple(
            LeafEntry(
                order=writer.orders[leaf.order_hash],
                line=leaf.line,
                evidence_hash=leaf.evidence_hash,
                price=leaf.price,
            )
            for leaf in lane.leaves
        ),
        count=opened.count if opened else 0,
        places=opened.places if opened else (),
        siblings=b"".join(name + amount.to_bytes(8, "big") for name, amount in siblings),
    )
