"""
A settled job with its whole proof and the events of its chain, for tests of the audit.

Six tasks, two providers, one verifier, two epochs: `provider-2` forges its three tasks of the
first epoch and is caught, `provider-1` does them again in the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit_claims import make_claim
from gpumarket.protocol.bills import make_bill
from gpumarket.protocol.canaries import CanaryOpening
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import ChainEvidence
from gpumarket.protocol.header import decode_header_untrusted, encode_header
from gpumarket.protocol.ids import Address, Cid, Hash32, format_hex
from gpumarket.protocol.job import JobSpec, VerifyPolicy
from gpumarket.protocol.ledger import ROLE_VERIFIER, fold_events, make_evidence
from gpumarket.protocol.order import Order
from gpumarket.protocol.pools import draw_pool, make_pools
from gpumarket.protocol.proof import (
    CheckProof,
    EpochDocument,
    EpochProof,
    ProofOfExecution,
    ProviderWork,
    SettlementProof,
    compute_epoch_root,
)
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.settlement import (
    Batch,
    PaymentLeaf,
    compute_fee_evidence,
    make_lanes,
    pack_lanes,
)
from gpumarket.protocol.signing import Domain, Signed, keccak256
from gpumarket.protocol.training import SegmentAudit
from gpumarket.testing import factories
from gpumarket.testing.factories import NOW, make_address, make_cid, make_hash, sign

SEED_DELAY: Final = 2
ESCROW: Final = 50_000_000
UNIT_PRICE: Final = 1_000
CHECK_PRICE: Final = 100_000
FEE: Final = 5_000
FORGER: Final = "provider-2"
COMMIT_BLOCKS: Final = (10, 20)
BATCH_BLOCK: Final = 30
ORDER_SECONDS: Final = 20 * 365 * 86_400
"""Long, so that the order also lives on a chain whose blocks carry the real time."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One event, in the form of the chain adapter's."""

    name: str
    args: dict[str, Any]
    block: int
    log_index: int
    tx_hash: Hash32


@dataclass(frozen=True, slots=True)
class Work:
    """Which tasks one provider did in an epoch."""

    provider: str
    units: tuple[int, ...]


EPOCHS: Final = (
    (Work("provider-1", (0, 2, 4)), Work(FORGER, (1, 3, 5))),
    (Work("provider-1", (1, 3, 5)),),
)


def make_job(**changes: Any) -> JobSpec:
    """Return a job of six tasks of which two in three are done again."""
    policy = VerifyPolicy(
        rate_ppm=500_000, forged_share_ppm=500_000, confidence_ppm=500_000, units_min=0
    )
    return factories.make_spec(**({"units": 6, "verify": policy} | changes))


def make_header(number: int) -> bytes:
    """Return the RLP of some block's header."""
    word = {
        "parentHash", "sha3Uncles", "stateRoot", "transactionsRoot", "receiptsRoot", "mixHash",
    }  # fmt: skip
    block = {name: format_hex(make_hash(f"{name} {number}")) for name in word}
    block |= {"miner": "0x" + "00" * 20, "logsBloom": "0x" + "00" * 256, "extraData": "0x"}
    block |= {"nonce": "0x" + "00" * 8, "number": hex(number), "timestamp": hex(NOW + number)}
    block |= dict.fromkeys(("difficulty", "gasLimit", "gasUsed", "baseFeePerGas"), "0x1")
    return encode_header(block)


def make_nonces(sequence: int) -> bytes:
    """Return what the coordinator keeps secret until a seed is due."""
    return make_hash(f"nonces {sequence}")


@dataclass(frozen=True)
class ProofMaker:
    """Builds the parts of one job's proof, each signed by the right key."""

    domain: Domain = factories.DOMAIN
    spec: JobSpec = field(default_factory=make_job)
    verifiers: tuple[str, ...] = ("verifier-1",)
    """Those connected at every commitment; the first one does all checks."""
    first_sequence: int = 0
    plan: tuple[tuple[Work, ...], ...] = EPOCHS
    """Who did which tasks in which epoch."""
    checks_max: int = 8

    @property
    def order(self) -> Signed[Order]:
        """The requester's order: up to eight checks and a fee."""
        end = NOW + ORDER_SECONDS
        order = factories.make_order(
            self.spec, checks=self.checks_max, max_fee=50_000, settle_by=end, expiry=end + 1
        )
        return sign(order, "requester", domain=self.domain)

    def make_result(self, provider: str, unit: int) -> UnitResult:
        """Return what a provider has for a task: the right output, or a forger's."""
        output = self.name_output(provider, unit)
        return factories.make_result(self.order.body, provider, unit=unit, output=output)

    def name_output(self, who: str, unit: int) -> Cid:
        """Return what a provider or verifier has for a task."""
        return make_cid(f"forged {unit}" if who == FORGER else f"output {unit}")

    def judge(self, own: Cid, theirs: Cid) -> Verdict:
        """Return what a verifier says of another's output."""
        return Verdict.MATCH if own == theirs else Verdict.MISMATCH

    def make_document(self, index: int) -> EpochDocument:
        """Return what the commitment of the epoch at `index` names."""
        work = []
        for each in sorted(self.plan[index], key=lambda each: make_address(each.provider)):
            results = [self.make_result(each.provider, unit) for unit in each.units]
            receipts = tuple(factories.make_receipt(result) for result in results)
            root = factories.make_provider_root(receipts, each.provider, epoch=index + 1)
            work.append(
                ProviderWork(
                    root=sign(root, each.provider, domain=self.domain),
                    receipts=tuple(
                        sign(receipt, each.provider, domain=self.domain) for receipt in receipts
                    ),
                    pools=make_pools((self.spec.verify, receipt.price) for receipt in receipts),
                )
            )
        cards = [
            sign(factories.make_card(name), name, domain=self.domain)
            for name in sorted(self.verifiers, key=make_address)
        ]
        return EpochDocument(
            coordinator=make_address("coordinator"),
            epoch=index + 1,
            work=tuple(work),
            verifiers=tuple(cards),
            canaries=self.open_canaries(index).compute_hash(),
        )

    def make_epoch(self, index: int, header: bytes) -> EpochProof:
        """Return the proof of one epoch, sampled by the seed that `header` gives."""
        document, committer = self.make_document(index), make_address("coordinator")
        sequence = self.first_sequence + index
        seed = compute_seed(
            chain_id=self.domain.chain_id,
            contract=self.domain.contract,
            committer=committer,
            sequence=sequence,
            root=compute_epoch_root(document),
            mix_hash=decode_header_untrusted(header).mix_hash,
            nonces=make_nonces(sequence),
        )
        checks, openings, rejected = [], [], []
        for each in self.plan[index]:
            owner = make_address(each.provider)
            (work,) = (part for part in document.work if part.root.signer == owner)
            drawn = draw_pool(seed, owner, work.pools[0], stake=0, audited=0)
            for place, unit in enumerate(each.units):
                result = self.make_result(each.provider, unit)
                receipt_hash = factories.make_receipt(result).compute_struct_hash()
                if place in drawn:
                    who = self.choose_verifiers(seed, result, receipt_hash)
                    segments = self.find_segments(seed, result, receipt_hash)
                    checks += self._make_checks(each.provider, result, who, segments)
                else:
                    opening = factories.make_opening(result)
                    openings.append(sign(opening, each.provider, domain=self.domain))
                if each.provider == FORGER:
                    rejected.append(receipt_hash)
        return EpochProof(
            committer=committer,
            sequence=sequence,
            document=document,
            nonces=make_nonces(sequence),
            header=header,
            seed=seed,
            checks=tuple(checks),
            openings=tuple(openings),
            rejected_receipts=tuple(rejected),
            canaries=self.open_canaries(index),
        )

    def open_canaries(self, index: int) -> CanaryOpening:
        """Return what opens an epoch's commitment to canaries: there are none."""
        return CanaryOpening(salt=make_hash(f"canary salt {index}"))

    def choose_verifiers(
        self, _seed: Hash32, _result: UnitResult, _receipt_hash: Hash32
    ) -> tuple[str, ...]:
        """Return who checks a result: always the first, whoever the seed draws."""
        return self.verifiers[:1]

    def find_segments(
        self, _seed: Hash32, _result: UnitResult, _receipt_hash: Hash32
    ) -> SegmentAudit | None:
        """Return what a verdict on a training task rests on: nothing, as this is none."""
        return None

    def _make_checks(
        self,
        provider: str,
        result: UnitResult,
        who: Sequence[str],
        segments: SegmentAudit | None,
    ) -> list[CheckProof]:
        receipt_hash = factories.make_receipt(result).compute_struct_hash()
        owns = [
            factories.make_own_result(
                result, verifier, output=self.name_output(verifier, result.unit)
            )
            for verifier in who
        ]
        seals = [factories.make_seal(own, receipt_hash=receipt_hash) for own in owns]
        hashes = tuple(sorted(compute_content_hash(seal) for seal in seals))
        opening = factories.make_opening(result, seal_hashes=hashes)
        signed = sign(opening, provider, domain=self.domain)
        checks = []
        for verifier, own, seal in zip(who, owns, seals, strict=True):
            evidence = factories.make_evidence(own, opening, segments=segments)
            verdict = self.judge(own.output, result.output)
            attestation = factories.make_attestation(
                evidence, receipt_hash=receipt_hash, verdict=int(verdict)
            )
            checks.append(
                CheckProof(
                    seal=sign(seal, verifier, domain=self.domain),
                    opening=signed,
                    attestation=sign(attestation, verifier, domain=self.domain),
                    evidence=evidence,
                )
            )
        return checks

    def list_payments(
        self, epochs: Sequence[EpochProof]
    ) -> list[tuple[Address, Address, PaymentLeaf]]:
        """Return what the job pays: accepted work, each check, and the fee."""
        order = self.order.body
        order_hash = order.compute_struct_hash()
        paid: list[tuple[Address, int, Hash32, int]] = []
        for epoch in epochs:
            for work in epoch.document.work:
                for receipt in work.receipts:
                    name = receipt.body.compute_struct_hash()
                    if name not in epoch.rejected_receipts:
                        paid.append((receipt.signer, receipt.body.unit, name, receipt.body.price))
        attestations = sorted(
            (check.attestation for epoch in epochs for check in epoch.checks),
            key=lambda each: each.body.receipt_hash,
        )
        for index, each in enumerate(attestations):
            name = each.body.compute_struct_hash()
            paid.append((each.signer, order.units + index, name, CHECK_PRICE))
        fee = compute_fee_evidence(order_hash)
        paid.append((order.coordinator, order.fee_line, fee, FEE))
        return [
            (
                order.requester,
                payee,
                PaymentLeaf(order_hash=order_hash, line=line, evidence_hash=name, price=price),
            )
            for payee, line, name, price in paid
        ]

    def make_batch(
        self,
        epochs: Sequence[EpochProof],
        payments: Sequence[tuple[Address, Address, PaymentLeaf]] | None = None,
    ) -> Batch:
        """Return the batch document that pays for these epochs."""
        payments = self.list_payments(epochs) if payments is None else payments
        own = self.order.body.compute_struct_hash()
        ours = [leaf for _, _, leaf in payments if leaf.order_hash == own]
        receipts = {
            receipt.body.compute_struct_hash(): receipt
            for epoch in epochs
            for work in epoch.document.work
            for receipt in work.receipts
        }
        attestations = {
            check.attestation.body.compute_struct_hash(): check.attestation
            for epoch in epochs
            for check in epoch.checks
        }
        bill = make_bill(self.order, ours, receipts=receipts, attestations=attestations)
        orders = sorted({leaf.order_hash for _, _, leaf in payments})
        return Batch(
            coordinator=make_address("coordinator"),
            lanes=make_lanes(payments),
            bills=tuple(
                compute_content_hash(bill) if order == own else make_hash(f"bill of {order.hex()}")
                for order in orders
            ),
        )

    def make_proof(
        self, epochs: Sequence[EpochProof], batch: Batch, *, sequence: int
    ) -> ProofOfExecution:
        """Return the whole proof."""
        proof = ProofOfExecution(
            domain=self.domain,
            order=self.order,
            job=self.spec,
            epochs=tuple(epochs),
            settlements=(SettlementProof(sequence=sequence, batch=batch),),
        )
        return replace(proof, claim=make_claim(proof))


# ---- the chain of it -----------------------------------------------------------------------


class FactWriter:
    """Writes events in order; `write` starts a new log in the block that is named."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, block: int, name: str, **args: Any) -> Fact:
        """Add one event and return it."""
        index = len(self.facts)
        fact = Fact(name, args, block, index, make_hash(f"transaction {index}"))
        self.facts.append(fact)
        return fact

    def write_commit(self, block: int, epoch: EpochProof) -> None:
        """Add an epoch's commitment and, two blocks later, its seed."""
        who = {"committer": epoch.committer, "seq": epoch.sequence}
        self.write(
            block,
            "Committed",
            **who,
            root=compute_epoch_root(epoch.document),
            nonceHash=keccak256(epoch.nonces),
            dataHash=compute_content_hash(epoch.document),
            blockNumber=block,
        )
        header = decode_header_untrusted(epoch.header)
        self.write(
            block + SEED_DELAY + 1,
            "SeedFixed",
            **who,
            blockNumber=header.number,
            mixHash=header.mix_hash,
            seed=epoch.seed,
        )

    def write_batch(self, block: int, batch: Batch, *, sequence: int) -> Fact:
        """Add a batch as the contract would."""
        packed = pack_lanes(batch.lanes)
        return self.write(
            block,
            "BatchPosted",
            coordinator=batch.coordinator,
            seq=sequence,
            postedAt=NOW + block,
            dataHash=compute_content_hash(batch),
            root=packed.root,
            requesters=list(packed.requesters),
            payees=list(packed.payees),
            lanes=packed.lanes,
        )


def make_epochs(maker: ProofMaker) -> tuple[EpochProof, ...]:
    """Return the proofs of both epochs."""
    return tuple(
        maker.make_epoch(index, make_header(block + SEED_DELAY))
        for index, block in enumerate(COMMIT_BLOCKS)
    )


def make_settled_job(
    maker: ProofMaker | None = None,
    *,
    epochs: Sequence[EpochProof] | None = None,
    batch: Batch | None = None,
) -> tuple[ProofOfExecution, list[Fact]]:
    """Return a proof and all events of its chain; honest but for `epochs` or `batch`."""
    maker, writer = maker or ProofMaker(), FactWriter()
    _write_parties(writer, maker)
    epochs = make_epochs(maker) if epochs is None else epochs
    for block, epoch in zip(COMMIT_BLOCKS, epochs, strict=True):
        writer.write_commit(block, epoch)
    batch = maker.make_batch(epochs) if batch is None else batch
    writer.write_batch(BATCH_BLOCK, batch, sequence=0)
    writer.write(
        BATCH_BLOCK + 1, "Claimed", payee=make_address("provider-1"), to=bytes(20), amount=1
    )
    proof = maker.make_proof(epochs, batch, sequence=0)
    return proof, writer.facts


def _write_parties(writer: FactWriter, maker: ProofMaker) -> None:
    for name, role in (
        ("provider-1", 1),
        (FORGER, 1),
        *((verifier, ROLE_VERIFIER) for verifier in maker.verifiers),
    ):
        writer.write(
            1,
            "Staked",
            operator=make_address(name),
            role=role,
            payout=make_address(f"payout of {name}"),
            peerIdHash=make_hash(name),
            amount=10_000_000,
        )
    writer.write(1, "Bonded", coordinator=make_address("coordinator"), amount=100_000_000)
    writer.write(2, "Deposited", requester=make_address("requester"), amount=ESCROW + 1_000)
    writer.write(
        3, "WithdrawRequested", requester=make_address("requester"), amount=1_000, unlockAt=NOW
    )
    writer.write(5, "Withdrawn", requester=make_address("requester"), to=bytes(20), amount=1_000)


def make_chain_evidence(
    facts: Sequence[Fact], *, domain: Domain = factories.DOMAIN, **changes: Any
) -> ChainEvidence:
    """Fold events into what an audit believes; `changes` replace parts of it."""
    hashes: Mapping[int, Hash32] = {
        block + SEED_DELAY: keccak256(make_header(block + SEED_DELAY)) for block in COMMIT_BLOCKS
    }
    evidence = make_evidence(
        fold_events(facts), domain=domain, seed_delay_blocks=SEED_DELAY, block_hashes=hashes
    )
    values = {name: getattr(evidence, name) for name in ChainEvidence.__slots__}
    return ChainEvidence(**(values | changes))
