"""`gpumarket job accept`: say by signature that work is taken, so that it can be paid for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumarket.cli.access import make_client, open_signer, with_connection
from gpumarket.cli.output import Console, Outcome, command, encode_amount, show_money, show_time
from gpumarket.client.connection import Connection
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import format_hex, format_short, parse_address
from gpumarket.protocol.units import format_size

if TYPE_CHECKING:
    from gpumarket.client.accepting import Delivery
    from gpumarket.client.wallet import Signer

LEFT_OUT_SHOWN = 5
_FILE = click.Path(path_type=Path, dir_okay=False)


@command("job.accept/1", name="accept")
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--proof", type=_FILE, help="A proof fetched before: no coordinator is asked for it.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Only tasks whose results are in this folder, where `job get` has put them.",
)
@click.option("--out", type=_FILE, help="Write a file for the providers instead of sending.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_connection
def accept(
    console: Console,
    *,
    connection: Connection,
    job_id: str | None,
    proof: Path | None,
    results: Path | None,
    out: Path | None,
    yes: bool,
) -> Outcome:
    """Accept a job's work, so that its providers are paid even if the coordinator is silent."""
    from gpumarket.client.accepting import check_delivery
    from gpumarket.client.wallet import find_account

    delivery = _read_delivery(connection, job_id, proof)
    if results is not None:
        delivery = delivery.keep_present(results)
    check_delivery(delivery, connection, find_account(connection))
    console.note(format_meaning(delivery))
    question = f"Accept {_count(delivery)} for {show_money(delivery.amount)}?"
    console.confirm(question, is_yes=yes)
    signer = open_signer(console, connection, chain_id=delivery.domain.chain_id)
    data = describe_delivery(delivery)
    if out is not None:
        size = _write(delivery, signer, out)
        text = (
            f"{out} ({format_size(size)}): give it to the providers; each runs\n"
            f"  gpumarket provider accept {out} --config FILE"
        )
        return Outcome({**data, "path": str(out), "sent": None}, text)
    with make_client(connection) as client:
        sent = client.accept(delivery, signer)
    absent = ", ".join(format_short(parse_address(each)) for each in sent["absent"])
    text = f"{sent['taken']} acceptances are with the coordinator, which tells the providers"
    text += f"; not connected now: {absent}" if absent else ""
    return Outcome({**data, "path": None, "sent": sent}, text)


def format_meaning(delivery: Delivery) -> str:
    """Say what the signature means, from when until when, and what it can cost."""
    order = delivery.order
    money = f"{show_money(delivery.amount)} to {_plural(delivery.providers, 'provider')}"
    lines = [
        f"{delivery.job_id}: {_count(delivery)} of {order.units}, {money}",
        "You say that you have these results and take the work. If no batch pays a task by",
        f"{show_time(order.settle_by)}, its provider may take its price from your escrow itself,",
        f"until {show_time(order.expiry)}. No task is paid twice. This cannot be taken back.",
    ]
    lines += [
        f"left out: task {each.task}, {each.why}" for each in delivery.left_out[:LEFT_OUT_SHOWN]
    ]
    more = len(delivery.left_out) - LEFT_OUT_SHOWN
    return "\n".join([*lines, *([f"left out: {more} more"] if more > 0 else [])])


def describe_delivery(delivery: Delivery) -> dict[str, Any]:
    """Write what is accepted for machines."""
    order = delivery.order
    return {
        "job": delivery.job_id,
        "requester": format_hex(order.requester),
        "amount": encode_amount(delivery.amount),
        "settle_by": show_time(order.settle_by),
        "expiry": show_time(order.expiry),
        "tasks": [
            {
                "task": task.task,
                "provider": format_hex(task.receipt.signer),
                "price": encode_amount(task.receipt.body.price),
                "receipt": format_hex(task.receipt_hash),
                "output": task.output,
            }
            for task in delivery.tasks
        ],
        "left_out": [{"task": each.task, "why": each.why} for each in delivery.left_out],
    }


def _read_delivery(connection: Connection, job_id: str | None, proof: Path | None) -> Delivery:
    from gpumarket.client.accepting import read_delivery
    from gpumarket.protocol.proof_file import decode_proof_untrusted

    if proof is None:
        if job_id is None:
            raise InvalidInput("say which job, or give its proof", hints=("gpumarket job list",))
        with make_client(connection) as client:
            return client.delivery(job_id)
    delivery = read_delivery(decode_proof_untrusted(_read_file(proof)))
    if job_id is not None and not delivery.job_id.startswith(_full(job_id)):
        raise InvalidInput(
            f"{proof} is of another job",
            code="GM-5001",
            why=f"it proves {delivery.job_id}",
            money="nothing was signed",
        )
    return delivery


def _read_file(path: Path) -> bytes:
    from gpumarket.protocol.proof_file import PROOF_BYTES_MAX

    try:
        with path.open("rb") as file:
            return file.read(PROOF_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read", code="GM-1301", why=str(error), money="nothing was signed"
        ) from error


def _write(delivery: Delivery, signer: Signer, path: Path) -> int:
    from gpumarket.client.accepting import sign_delivery
    from gpumarket.protocol.codec import to_dag_json

    data = to_dag_json(sign_delivery(delivery, signer.key)).encode() + b"\n"
    path.write_bytes(data)
    return len(data)


def _count(delivery: Delivery) -> str:
    return _plural(len(delivery.tasks), "task")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _full(job_id: str) -> str:
    from gpumarket.client.views import check_job_id

    return check_job_id(job_id)
