"""Proofs of execution to files and back, strictly: one file for each proof, and one proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import UNSET

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, OwnResult, Seal
from gpumarket.protocol.codec import (
    decode_document_untrusted,
    encode_document,
    from_dag_json_untrusted,
    remember_content_hash,
    to_dag_json,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.evidence import require
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.proof import (
    CheckProof,
    EpochDocument,
    EpochProof,
    OpenedWork,
    ProofOfExecution,
    ProviderWork,
    SettlementProof,
    compute_epoch_root,
)
from gpumarket.protocol.proof_format import (
    CheckEntry,
    EpochEntry,
    LaneEntry,
    ProofFile,
    ResultEntry,
    SettlementEntry,
    UnitEntry,
    WorkEntry,
)
from gpumarket.protocol.proof_packing import pack_proof
from gpumarket.protocol.receipt import Receipt, UnitResult, compute_input_hash
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.settlement import Batch, Lane, OpenedLane, PaymentLeaf
from gpumarket.protocol.signing import Signed

PROOF_BYTES_MAX = 64 * 2**20
_HASH_BYTES, _NODE_BYTES = 32, 40


def encode_proof(proof: ProofOfExecution) -> bytes:
    """Write a proof as its one canonical file; raise `InvalidInput` where its parts do not fit."""
    return encode_document(pack_proof(proof))


def format_proof(proof: ProofOfExecution) -> str:
    """Write a proof as canonical DAG-JSON."""
    return to_dag_json(pack_proof(proof))


def decode_proof_untrusted(data: bytes) -> ProofOfExecution:
    """Read a proof from DAG-CBOR or DAG-JSON; raise `RemoteProtocolError` GM-7001."""
    try:
        # No DAG-CBOR map begins with the byte of a brace.
        if data.lstrip()[:1] == b"{":
            file = from_dag_json_untrusted(data, ProofFile, bytes_max=PROOF_BYTES_MAX)
        else:
            file = decode_document_untrusted(data, ProofFile, bytes_max=PROOF_BYTES_MAX)
        return _unpack(file)
    except (RemoteProtocolError, InvalidInput) as error:
        raise RemoteProtocolError(
            "this is not a proof of execution", code="GM-7001", why=error.message[:300]
        ) from error


@dataclass(slots=True)
class _Reader:
    file: ProofFile
    coordinator: Address
    job_hash: Hash32
    orders: tuple[Hash32, ...]
    """Of this job first."""
    used: set[int] = field(default_factory=set)

    def find_order(self, place: int) -> Hash32:
        """Return an order's hash."""
        require(place < len(self.orders), "a unit or line is of an order that is not listed")
        self.used.add(place)
        return self.orders[place]


def _unpack(file: ProofFile) -> ProofOfExecution:
    for entries in (file.epochs, file.settlements):
        numbers = [entry.sequence for entry in entries]
        require(numbers == sorted(set(numbers)), "epochs or settlements stand out of their order")
    order = file.order.body
    own = order.compute_struct_hash()
    is_sorted = list(file.orders) == sorted({*file.orders} - {own})
    require(is_sorted, "the other orders are not listed once each and rising")
    reader = _Reader(file, order.coordinator, file.job.compute_hash(), (own, *file.orders))
    proof = ProofOfExecution(
        domain=file.domain,
        order=file.order,
        job=file.job,
        epochs=tuple(_unpack_epoch(reader, each) for each in file.epochs),
        settlements=tuple(_unpack_settlement(reader, each) for each in file.settlements),
        claim=file.claim,
        chain=file.chain,
    )
    is_used = reader.used | {0} == set(range(len(reader.orders)))
    require(is_used, "an order is listed that nothing is of")
    return proof


def _unpack_epoch(reader: _Reader, entry: EpochEntry) -> EpochProof:
    header = decode_header_untrusted(entry.header)
    checks: list[CheckProof] = []
    openings: list[Signed[Opening]] = []
    rejected: list[Hash32] = []
    work = []
    for each in entry.work:
        receipts = []
        for unit in each.units:
            receipt, opening = _unpack_unit(reader, each.root.body.provider, unit)
            name = receipt.body.compute_struct_hash()
            if unit.rejected:
                rejected.append(name)
            if opening is not None:
                found = _unpack_checks(unit, receipt.body, opening, name)
                opening = found[0].opening if found else _seal(opening, ())
                checks += found
                openings += () if found else (opening,)
            receipts.append(receipt)
        work.append(_unpack_work(each, tuple(receipts)))
    document = EpochDocument(
        coordinator=reader.coordinator,
        epoch=entry.epoch,
        work=tuple(work),
        verifiers=entry.verifiers,
        canaries=_unpack_canaries(entry),
    )
    seed = compute_seed(
        chain_id=reader.file.domain.chain_id,
        contract=reader.file.domain.contract,
        committer=reader.coordinator,
        sequence=entry.sequence,
        root=compute_epoch_root(document),
        mix_hash=header.mix_hash,
        nonces=entry.nonces,
    )
    return EpochProof(
        committer=reader.coordinator,
        sequence=entry.sequence,
        document=document,
        nonces=entry.nonces,
        header=entry.header,
        seed=seed,
        checks=tuple(checks),
        openings=tuple(openings),
        rejected_receipts=tuple(rejected),
        canaries=entry.canaries,
    )


def _unpack_canaries(entry: EpochEntry) -> Hash32:
    opened, stated = entry.canaries, entry.canaries_hash
    require(
        (opened is None) == (stated is not None),
        "an epoch's canaries are there opened and hashed, or neither",
    )
    return opened.compute_hash() if opened else stated or b""


def _unpack_work(entry: WorkEntry, receipts: tuple[Signed[Receipt], ...]) -> ProviderWork:
    if not entry.places and not entry.siblings:
        return ProviderWork(
            root=entry.root,
            receipts=receipts,
            pools=entry.pools,
            stake=entry.stake,
            audited=entry.audited,
        )
    require(len(entry.places) == len(receipts), "the units and their places differ in number")
    return OpenedWork(
        root=entry.root,
        receipts=receipts,
        pools=entry.pools,
        stake=entry.stake,
        audited=entry.audited,
        places=entry.places,
        siblings=_split(entry.siblings, _HASH_BYTES),
    )


def _unpack_unit(
    reader: _Reader, provider: Address, entry: UnitEntry
) -> tuple[Signed[Receipt], Signed[Opening] | None]:
    order_hash, shown = reader.find_order(entry.order), entry.result
    require(
        (shown is None) == (entry.result_hash is not None),
        "a result is there opened and hashed, or neither",
    )
    require(shown is not None or not entry.checks, "a result was checked that is not opened")
    require(entry.order == 0 or not entry.rejected, "a result of another job is called refused")
    result = None if shown is None else _unpack_result(reader, provider, entry, shown)
    receipt = Receipt(
        order_hash=order_hash,
        unit=entry.unit,
        provider=provider,
        result_hash=entry.result_hash or (result.compute_hash() if result else b""),
        price=entry.price,
        finished_at=entry.finished_at,
    )
    signed = Signed(body=receipt, signer=provider, signature=entry.signature)
    if result is None or shown is None:
        return signed, None
    opening = Opening(
        result=result, receipt_hash=receipt.compute_struct_hash(), seal_hashes=shown.seals
    )
    return signed, Signed(body=opening, signer=provider, signature=shown.opening)


def _unpack_result(
    reader: _Reader, provider: Address, entry: UnitEntry, shown: ResultEntry
) -> UnitResult:
    is_own = entry.order == 0
    require(is_own == (shown.input_hash is None), "only another job's result states its input")
    return UnitResult(
        order_hash=reader.find_order(entry.order),
        unit=entry.unit,
        provider=provider,
        input_hash=shown.input_hash or compute_input_hash(reader.job_hash, entry.unit),
        output=shown.output,
        output_bytes=shown.output_bytes,
        repro_class=shown.repro_class,
        duration_ms=shown.duration_ms,
        salt=shown.salt,
        training=shown.training,
        usage=shown.usage or UNSET,
    )


def _unpack_checks(
    entry: UnitEntry, receipt: Receipt, opening: Signed[Opening], name: Hash32
) -> list[CheckProof]:
    who = [each.verifier for each in entry.checks]
    require(who == sorted(set(who)), "the checks of a unit stand out of their order")
    owns = [_unpack_own(each, receipt, opening.body.result) for each in entry.checks]
    seals = [
        Seal(
            order_hash=receipt.order_hash,
            unit=receipt.unit,
            verifier=own.verifier,
            receipt_hash=name,
            sealed=own.compute_hash(),
        )
        for own in owns
    ]
    opening = _seal(opening, [remember_content_hash(seal) for seal in seals])
    opening_hash = remember_content_hash(opening.body)
    found = []
    for each, own, seal in zip(entry.checks, owns, seals, strict=True):
        evidence = Evidence(
            own=own,
            opening_hash=opening_hash,
            segments=each.segments,
            comparison=each.comparison,
        )
        attestation = Attestation(
            receipt_hash=name,
            verdict=each.verdict,
            evidence_hash=remember_content_hash(evidence),
            issued_at=each.issued_at,
        )
        found.append(
            CheckProof(
                seal=Signed(body=seal, signer=own.verifier, signature=each.seal),
                opening=opening,
                attestation=Signed(
                    body=attestation, signer=own.verifier, signature=each.attestation
                ),
                evidence=evidence,
            )
        )
    return found


def _unpack_own(entry: CheckEntry, receipt: Receipt, theirs: UnitResult) -> OwnResult:
    require(entry.output != theirs.output, "an output is stated twice")
    require(entry.repro_class != theirs.repro_class, "a class is stated twice")
    return OwnResult(
        order_hash=receipt.order_hash,
        unit=receipt.unit,
        verifier=entry.verifier,
        output=theirs.output if entry.output is None else entry.output,
        exit_code=entry.exit_code,
        repro_class=entry.repro_class or theirs.repro_class,
        duration_ms=entry.duration_ms,
        nonce=entry.nonce,
    )


def _seal(opening: Signed[Opening], hashes: Sequence[Hash32]) -> Signed[Opening]:
    """Return the opening with the seals of its checks among those that it names."""
    body = opening.body
    others = body.seal_hashes
    named = tuple(sorted({*others, *hashes}))
    is_once = len(named) == len(others) + len(hashes) and list(others) == sorted(others)
    require(is_once, "an opening names a seal twice, or seals that do not rise")
    sealed = Opening(result=body.result, receipt_hash=body.receipt_hash, seal_hashes=named)
    return Signed(body=sealed, signer=opening.signer, signature=opening.signature)


def _unpack_settlement(reader: _Reader, entry: SettlementEntry) -> SettlementProof:
    batch = Batch(
        coordinator=reader.coordinator,
        lanes=tuple(_unpack_lane(reader, lane) for lane in entry.lanes),
        bills=entry.bills,
    )
    return SettlementProof(sequence=entry.sequence, batch=batch)


def _unpack_lane(reader: _Reader, entry: LaneEntry) -> Lane:
    leaves = tuple(
        PaymentLeaf(
            order_hash=reader.find_order(leaf.order),
            line=leaf.line,
            evidence_hash=leaf.evidence_hash,
            price=leaf.price,
        )
        for leaf in entry.leaves
    )
    if entry.count == 0:
        require(not entry.places and not entry.siblings, "a whole lane has no places")
        return Lane(requester=entry.requester, payee=entry.payee, leaves=leaves)
    require(len(entry.places) == len(leaves), "the leaves and their places differ in number")
    require(len(leaves) < entry.count, "a lane of which all is shown has no places")
    siblings = tuple(
        (node[:_HASH_BYTES], int.from_bytes(node[_HASH_BYTES:], "big"))
        for node in _split(entry.siblings, _NODE_BYTES)
    )
    return OpenedLane(
        requester=entry.requester,
        payee=entry.payee,
        leaves=leaves,
        places=entry.places,
        siblings=siblings,
        count=entry.count,
    )


def _split(data: bytes, size: int) -> tuple[bytes, ...]:
    require(len(data) % size == 0, "a list of hashes is cut off")
    return tuple(data[start : start + size] for start in range(0, len(data), size))
