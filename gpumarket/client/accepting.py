"""
Accepting: a requester's word for receipts whose results it has.

With it a provider can settle a receipt without the coordinator. What there is to accept is read
from a proof of execution, of which nothing is believed that its signers have not signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gpumarket.client.connection import Connection
from gpumarket.client.results import ResultFolder, TaskOutput
from gpumarket.client.wallet import Account
from gpumarket.protocol.approvals import Approval, Approvals
from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Cid, Hash32, format_hex, make_job_id, parse_address
from gpumarket.protocol.order import Order
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_reading import index_all_receipts, iterate_leaves_in, list_openings
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import Domain, PrivateKey, Signed, verify
from gpumarket.protocol.units import Amount

SENT_MAX: Final = 1_000
"""Acceptances in one request."""


@dataclass(frozen=True, slots=True)
class DeliveredTask:
    """A receipt that can be accepted, with the output that it hides."""

    receipt: Signed[Receipt]
    output: Cid
    output_bytes: int

    @property
    def task(self) -> int:
        """The task's index."""
        return self.receipt.body.unit

    @property
    def receipt_hash(self) -> Hash32:
        """What the receipt is called on chain."""
        return self.receipt.body.compute_struct_hash()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A task with nothing to accept, and why."""

    task: int
    why: str


@dataclass(frozen=True)
class Delivery:
    """What a job's requester can accept."""

    domain: Domain
    order: Order
    """Signed by its requester on this very network."""
    tasks: tuple[DeliveredTask, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def job_id(self) -> str:
        """The job's name."""
        return make_job_id(self.order.compute_struct_hash())

    @property
    def amount(self) -> Amount:
        """The sum of the receipts' prices, in base units."""
        return Amount(sum(task.receipt.body.price for task in self.tasks))

    @property
    def providers(self) -> int:
        """How many did the work."""
        return len({task.receipt.signer for task in self.tasks})

    def keep_present(self, folder: Path) -> Delivery:
        """Leave out what is not in a folder of results, whole and as the receipt says."""
        results = ResultFolder(folder)
        absent = [task for task in self.tasks if not results.has(_as_output(task))]
        why = f"its result is not in {folder}"
        left_out = [*self.left_out, *(LeftOut(task.task, why) for task in absent)]
        return replace(
            self,
            tasks=tuple(task for task in self.tasks if task not in absent),
            left_out=tuple(sorted(left_out, key=lambda each: each.task)),
        )


def read_delivery(proof: ProofOfExecution) -> Delivery:
    """
    Find the receipts of a proof that its requester can accept: opened, not rejected, not paid.

    Raises `RemoteProtocolError` GM-7001 where the order is not signed by its requester for the
    network that the proof names.
    """
    order = proof.order.body
    if verify(proof.order, proof.domain).signer != order.requester:
        raise RemoteProtocolError("the order is not its requester's", code="GM-7001")
    paid = {
        leaf.line: settlement.sequence
        for settlement in proof.settlements
        for _, leaf in iterate_leaves_in(proof, settlement)
    }
    # A task that was done twice was done the second time because the first came to nothing.
    delivered = {task.task: task for task in _list_tasks(proof)}
    left_out = []
    for unit in range(order.units):
        if unit in paid:
            delivered.pop(unit, None)
            left_out.append(LeftOut(unit, f"batch {paid[unit]} has paid it"))
        elif unit not in delivered:
            left_out.append(LeftOut(unit, "the proof shows no accepted result"))
    tasks = tuple(delivered[unit] for unit in sorted(delivered) if unit < order.units)
    return Delivery(proof.domain, order, tasks, tuple(left_out))


def check_delivery(delivery: Delivery, connection: Connection, account: Account) -> None:
    """Raise `InvalidInput` unless it is our own order, on the network that we are set to."""
    domain, text = delivery.domain, connection.find("contract")
    contract = parse_address(text) if text else domain.contract
    chain_id = domain.chain_id if connection.chain_id is None else connection.chain_id
    if domain != Domain(chain_id=chain_id, contract=contract):
        raise InvalidInput(
            "the proof is of another network than configured",
            code="GM-3020",
            why=f"it says chain {domain.chain_id} and contract 0x{domain.contract.hex()}, "
            f"configured is chain {chain_id} and contract 0x{contract.hex()}",
            money="nothing was signed",
            hints=("gpumarket config show --origin",),
        )
    requester = delivery.order.requester
    if account.address != requester:
        raise InvalidInput(
            f"{account.name} did not order {delivery.job_id}",
            code="GM-1204",
            why=f"its requester is {format_hex(requester)}",
            money="nothing was signed",
            hints=(f"gpumarket job accept {delivery.job_id} --account {format_hex(requester)}",),
        )
    if not delivery.tasks:
        reasons = [f"task {each.task}: {each.why}" for each in delivery.left_out[:3]]
        raise InvalidInput(
            f"{delivery.job_id} has nothing to accept",
            code="GM-5003",
            why="; ".join(reasons),
            money="nothing was signed",
            hints=(f"gpumarket job describe {delivery.job_id}",),
        )


def sign_delivery(delivery: Delivery, key: PrivateKey) -> Approvals:
    """Sign one acceptance for each receipt; the result is what `--out` writes."""
    return Approvals(
        order=delivery.order,
        approvals=tuple(
            Approval(
                receipt=task.receipt,
                acceptance=key.sign(
                    Acceptance(receipt_hash=task.receipt_hash), delivery.domain
                ).as_signed(),
            )
            for task in delivery.tasks
        ),
    )


def _list_tasks(proof: ProofOfExecution) -> Iterator[DeliveredTask]:
    receipts = index_all_receipts(proof)
    for epoch in proof.epochs:
        refused = set(epoch.rejected_receipts) | {
            check.attestation.body.receipt_hash
            for check in epoch.checks
            if check.attestation.body.verdict != Verdict.MATCH
        }
        for opening in list_openings(epoch):
            name, result = opening.body.receipt_hash, opening.body.result
            receipt = receipts.get(name)
            if receipt is None or name in refused:
                continue
            if _is_delivered(receipt, opening, proof.domain):
                yield DeliveredTask(receipt, result.output, result.output_bytes)


def _is_delivered(receipt: Signed[Receipt], opening: Signed[Opening], domain: Domain) -> bool:
    """Say whether one provider signed both, and the opened result is what the receipt hides."""
    try:
        signers = {verify(receipt, domain).signer, verify(opening, domain).signer}
    except RemoteProtocolError:
        return False
    body, result = receipt.body, opening.body.result
    return (
        signers == {body.provider}
        and result.compute_hash() == body.result_hash
        and (result.order_hash, result.unit) == (body.order_hash, body.unit)
    )


def _as_output(task: DeliveredTask) -> TaskOutput:
    return TaskOutput(
        task=task.task,
        cid=task.output,
        size_bytes=task.output_bytes,
        provider=format_hex(task.receipt.signer),
        is_verified=False,
    )
