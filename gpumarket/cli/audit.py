"""
`gpumarket audit verify | show`: check a proof against the chain, believing nobody else.

Only this file reads: the proof from a file or a coordinator, the facts from RPC endpoints. What
they come to is computed by `gpumarket.protocol.audit` and written by `audit_view`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gpumarket.adapters.artifacts import load_compiled
from gpumarket.cli.access import make_client, with_connection
from gpumarket.cli.audit_view import (
    NO_ANSWER,
    ClaimedFact,
    Trust,
    describe_found,
    describe_report,
    find_mentions,
    format_found,
    format_report,
)
from gpumarket.cli.output import Console, Outcome, command
from gpumarket.client.connection import Connection
from gpumarket.comparing.rechecking import RE_EXECUTION, has_foreign_differences
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.audit_money import BalanceChange, compute_balances
from gpumarket.protocol.catalog import Exit
from gpumarket.protocol.errors import (
    ChainError,
    GpuMarketError,
    InvalidInput,
    RemoteProtocolError,
)
from gpumarket.protocol.evidence import AuditVerdict, ChainEvidence, Check, MissingEvidence, Report
from gpumarket.protocol.ids import Hash32, parse_address, parse_hash
from gpumarket.protocol.ledger import Event, Ledger, fold_events, make_evidence
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import PROOF_BYTES_MAX, decode_proof_untrusted
from gpumarket.protocol.signing import Domain, keccak256

if TYPE_CHECKING:
    from gpumarket.adapters.chain import Chain

UNITS_MAX: Final = 10_000
RPC_MAX: Final = 8
"""The most endpoints that one audit compares."""
DEEP_LIMIT: Final = "outputs beyond those that were compared or run again here"
NOT_RUN: Final = "nothing was run again: the program is not one that the order signs"
_EXITS: Final = {
    AuditVerdict.PASS: Exit.DONE,
    AuditVerdict.FAIL: Exit.AUDIT_FAIL,
    AuditVerdict.INCOMPLETE: Exit.AUDIT_INCOMPLETE,
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What RPC endpoints say about one contract, up to one block on which all agree."""

    events: tuple[Event, ...]
    ledger: Ledger
    seed_delay_blocks: int
    head: int
    head_hash: Hash32
    block_hashes: dict[int, Hash32]


@dataclass(frozen=True, slots=True)
class Scrutiny:
    """How much an audit wants to see."""

    strict: bool
    deep: Path | None
    """Where outputs lie by CID."""
    units: int
    """How many are run again."""
    is_whole: bool
    """Whether every segment of a training task is."""


def with_scrutiny(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a `Scrutiny` and pass it one."""

    @click.option(
        "--strict", is_flag=True, help="What is allowed without proof counts as incomplete."
    )
    @click.option(
        "--deep",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Compare the outputs again, which lie in DIR by CID.",
    )
    @click.option("--reexec", is_flag=True, help="Run a sampled task again with Docker, from DIR.")
    @click.option("--units", type=click.IntRange(1, UNITS_MAX), help="Run so many again.")
    @click.option("--all-segments", is_flag=True, help="Of training tasks run all, not the drawn.")
    @functools.wraps(function)
    def run(
        console: Console,
        *,
        strict: bool,
        deep: Path | None,
        reexec: bool,
        units: int | None,
        all_segments: bool,
        **options: Any,
    ) -> Any:
        if deep is not None and not deep.is_dir():
            raise InvalidInput(f"there is no folder {deep}", code="GM-1301")
        if deep is None and reexec:
            raise InvalidInput("--reexec needs --deep DIR with the image and the inputs")
        if units is not None and not reexec:
            raise InvalidInput("--units says how many --reexec runs again")
        if all_segments and not reexec:
            raise InvalidInput("--all-segments says what --reexec runs again")
        scrutiny = Scrutiny(strict, deep, (units or 1) if reexec else 0, all_segments)
        return function(console, scrutiny=scrutiny, **options)

    return run


@click.group()
def audit() -> None:
    """Check proofs without trusting anybody."""


@command("audit.verify/1", name="verify")
@click.argument("target", metavar="PROOF|JOB")
@click.option("--rpc", "rpcs", multiple=True, metavar="URL", help="RPC endpoint; may be several.")
@click.option("--from-block", type=click.IntRange(0), default=0, help="Where the contract begins.")
@click.option(
    "--trust-block",
    metavar="HASH",
    help="Hash of the newest block in the file: then nothing else is needed, and no network.",
)
@with_scrutiny
@with_connection
def verify(
    console: Console,
    *,
    connection: Connection,
    target: str,
    rpcs: tuple[str, ...],
    from_block: int,
    trust_block: str | None,
    scrutiny: Scrutiny,
) -> Outcome:
    """Check a job from order to payment: a proof file, or a job whose proof is fetched first."""
    if trust_block is not None and rpcs:
        raise InvalidInput("--trust-block and --rpc are two ways to know the chain: choose one")
    proof, source = load_proof(console, connection, target)
    domain, warnings = _find_domain(connection, proof)
    if trust_block is None:
        evidence, trust = _ask_chain(connection, proof, rpcs, domain, from_block, source)
    else:
        evidence, trust = _derive_offline(proof, domain, parse_hash(trust_block), source)
    report = check_proof(proof, evidence)
    report = _look_deeper(console, proof, report, scrutiny)
    balances: tuple[BalanceChange, ...] = ()
    with suppress(GpuMarketError, MissingEvidence):  # the report's own lines say what is wrong
        balances = compute_balances(proof, evidence)
    return Outcome(
        describe_report(report, balances, trust),
        format_report(report, balances, trust),
        exit=_EXITS[report.verdict],
        warnings=warnings,
        is_ok=report.verdict is AuditVerdict.PASS,
    )


def _look_deeper(
    console: Console, proof: ProofOfExecution, report: Report, scrutiny: Scrutiny
) -> Report:
    """Add what the outputs on disk say, and what comes out of running units again."""
    if scrutiny.deep is not None:
        _note_missing(console, proof, scrutiny)
        checks = _compare_again(proof, report, scrutiny.deep)
        if scrutiny.units:
            checks.append(_run_again(console, proof, report, scrutiny))
        left = (DEEP_LIMIT, *report.not_checked[1:])
        report = replace(report, checks=tuple(checks), not_checked=left)
    return report.tighten() if scrutiny.strict else report


def _note_missing(console: Console, proof: ProofOfExecution, scrutiny: Scrutiny) -> None:
    from gpumarket.adapters.output_rechecks import list_missing

    folder = scrutiny.deep
    if folder is None:
        return
    with suppress(GpuMarketError):  # a CID that is none is a fault that the report names
        is_run, is_whole = scrutiny.units > 0, scrutiny.is_whole
        for cid in list_missing(proof, folder, is_run=is_run, is_whole=is_whole):
            console.note(f"not in {folder}: {cid}")


def _compare_again(proof: ProofOfExecution, report: Report, folder: Path) -> list[Check]:
    from gpumarket.adapters.output_rechecks import recheck_outputs

    compared = recheck_outputs(proof, folder)
    checks = list(report.checks)
    is_whole = compared.verdict is AuditVerdict.PASS and not compared.remark
    if is_whole and not has_foreign_differences(proof):
        # What the verifiers were believed in, that other bytes are within the rule, is shown now.
        checks = [replace(each, remark="") if each.name == "verifiers" else each for each in checks]
    return [*checks, compared]


def _run_again(
    console: Console, proof: ProofOfExecution, report: Report, scrutiny: Scrutiny
) -> Check:
    from gpumarket.adapters.rerunning import rerun_units

    if scrutiny.deep is None or not _is_order_sound(report):
        return Check(RE_EXECUTION, AuditVerdict.INCOMPLETE, NOT_RUN)
    console.note(f"running up to {scrutiny.units} tasks again with the local Docker engine")
    return rerun_units(proof, scrutiny.deep, count=scrutiny.units, is_whole=scrutiny.is_whole)


def _is_order_sound(report: Report) -> bool:
    """Say whether the program and its inputs are those that the requester signed."""
    checks = [check for check in report.checks if check.name in ("order", "job")]
    return all(check.verdict is AuditVerdict.PASS for check in checks)


def _derive_offline(
    proof: ProofOfExecution, domain: Domain, trusted: Hash32, source: str
) -> tuple[ChainEvidence, Trust]:
    evidence = derive_evidence(proof, load_compiled(), trusted=trusted)
    # What the auditor was told to expect counts, not what the proof is about.
    evidence = replace(evidence, chain_id=domain.chain_id, contract=domain.contract)
    newest = 0
    if proof.chain is not None:
        newest = _read_number(proof.chain.anchors[0].header)
    return evidence, Trust((), domain, newest, trusted, source)


def _ask_chain(
    connection: Connection,
    proof: ProofOfExecution,
    rpcs: tuple[str, ...],
    domain: Domain,
    from_block: int,
    source: str,
) -> tuple[ChainEvidence, Trust]:
    urls = rpcs or (connection.require("rpc_url"),)
    blocks = sorted({number for epoch in proof.epochs if (number := _read_number(epoch.header))})
    snapshot = read_chain(urls, domain, from_block=from_block, blocks=blocks)
    evidence = make_evidence(
        snapshot.ledger,
        domain=domain,
        seed_delay_blocks=snapshot.seed_delay_blocks,
        block_hashes=snapshot.block_hashes,
    )
    return evidence, Trust(urls, domain, snapshot.head, snapshot.head_hash, source)


@command("audit.show/1", name="show")
@click.argument("name", metavar="ANY")
@click.option("--rpc", "rpcs", multiple=True, metavar="URL", help="RPC endpoint; may be several.")
@click.option("--from-block", type=click.IntRange(0), default=0, help="Where the contract begins.")
@with_connection
def show(
    console: Console,
    *,
    connection: Connection,
    name: str,
    rpcs: tuple[str, ...],
    from_block: int,
) -> Outcome:
    """Say what is known of a job, transaction, address, CID, hash or epoch number."""
    urls = rpcs or (connection.require("rpc_url"),)
    claims, names = _ask_coordinator(connection, name)
    domain = _find_market(connection)
    snapshot = read_chain(urls, domain, from_block=from_block, blocks=())
    mentions = find_mentions(snapshot.events, snapshot.ledger, (name, *names))
    has_answer = any(claim.kind != NO_ANSWER for claim in claims)
    is_known = bool(mentions.events or mentions.balances or has_answer)
    return Outcome(
        describe_found(name, mentions, claims),
        format_found(name, mentions, claims),
        exit=Exit.DONE if is_known else Exit.NOT_FOUND,
        is_ok=is_known,
    )


for _command in (verify, show):
    audit.add_command(_command)


# ---- the proof -----------------------------------------------------------------------------


def load_proof(
    console: Console, connection: Connection, target: str
) -> tuple[ProofOfExecution, str]:
    """
    Read a proof from a file or, for a job id, from the coordinator; say where it came from.

    Raises `RemoteProtocolError` GM-7001 for bytes that are no proof.
    """
    path = Path(target)
    if path.is_file():
        data, source = _read_file(path), f"file {path}"
    elif path.suffix or "/" in target:
        raise InvalidInput(f"there is no file {target}", code="GM-1301")
    else:
        with make_client(connection) as client:
            data = client.receipt(target)
        source = f"proof of {target} from {connection.url}"
        console.note(f"{source}; nothing in it is believed")
    return decode_proof_untrusted(data), source


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(PROOF_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read", code="GM-1301", why=str(error)) from error


def _read_number(header: bytes) -> int:
    from gpumarket.protocol.header import decode_header_untrusted

    try:
        return decode_header_untrusted(header).number
    except RemoteProtocolError:
        return 0  # the check of the seeds says so


def _find_domain(connection: Connection, proof: ProofOfExecution) -> tuple[Domain, tuple[str, ...]]:
    text = connection.find("contract")
    chain_id = connection.chain_id
    contract = parse_address(text) if text else proof.domain.contract
    domain = Domain(
        chain_id=proof.domain.chain_id if chain_id is None else chain_id, contract=contract
    )
    if text and chain_id is not None:
        return domain, ()
    warning = (
        f"the chain or contract is the one that the proof names, {domain.chain_id} and "
        f"0x{contract.hex()}: compare it with one you trust, or set --chain-id and --contract"
    )
    return domain, (warning,)


# ---- the chain -----------------------------------------------------------------------------


def read_chain(
    urls: Sequence[str], domain: Domain, *, from_block: int, blocks: Sequence[int]
) -> Snapshot:
    """
    Read all events of a contract, and the hashes of some blocks, from every endpoint.

    Raises `ChainError` GM-7010 where two endpoints disagree, `InvalidInput` where one is on
    another chain.
    """
    import trio

    from gpumarket.adapters.chain import Chain

    if len(urls) > RPC_MAX:
        raise InvalidInput(f"{len(urls)} RPC endpoints, the limit is {RPC_MAX}", code="GM-1302")
    chains = [Chain(rpc_url=url, contract=domain.contract) for url in urls]

    async def read() -> Snapshot:
        for chain in chains:
            await chain.check_network(domain.chain_id)
        head = min([(await chain.head())[0] for chain in chains])
        found = [await _read_one(chain, from_block, head, blocks) for chain in chains]
        if any(each != found[0] for each in found):
            raise ChainError(
                "the RPC endpoints tell different stories",
                code="GM-7010",
                why=f"asked {', '.join(urls)} for the same blocks up to {head}",
            )
        return found[0]

    return trio.run(read)


async def _read_one(chain: Chain, from_block: int, head: int, blocks: Sequence[int]) -> Snapshot:
    events = tuple(await chain.read_facts(from_block, head))
    rules = await chain.read_rules()
    hashes = {}
    for number in blocks:
        if number <= head:
            hashes[number] = keccak256(await chain.read_header(number))
    return Snapshot(
        events=events,
        ledger=fold_events(events),
        seed_delay_blocks=rules.seed_delay_blocks,
        head=head,
        head_hash=keccak256(await chain.read_header(head)),
        block_hashes=hashes,
    )


# ---- the coordinator's word ----------------------------------------------------------------


def _find_market(connection: Connection) -> Domain:
    contract, chain_id = connection.find("contract"), connection.chain_id
    if contract and chain_id is not None:
        return Domain(chain_id=chain_id, contract=parse_address(contract))
    with make_client(connection) as client:
        return client.market().domain


def _ask_coordinator(
    connection: Connection, name: str
) -> tuple[tuple[ClaimedFact, ...], tuple[str, ...]]:
    """Return what the coordinator says of a thing, and other names under which the chain has it."""
    claims: list[ClaimedFact] = []
    names: list[str] = []
    try:
        with make_client(connection) as client:
            if name.startswith("gm-"):
                job = client.job(name)
                claims.append(ClaimedFact("job", job))
                batch = job.get("batch")
                names += [str(batch.get("tx", ""))] if isinstance(batch, dict) else []
            elif name.startswith("0x") and len(name) == 42:
                claims += [
                    ClaimedFact("provider", each)
                    for each in client.providers()
                    if str(each.get("provider", "")).lower() == name.lower()
                ]
            elif not name.startswith("0x") and not name.isdigit():
                found = client.stat_content(name.removeprefix("ipfs://"))
                content = {"cid": found.cid, "bytes": found.size_bytes, "files": found.file_count}
                claims.append(ClaimedFact("content", content))
    except GpuMarketError as error:
        claims.append(ClaimedFact(NO_ANSWER, {"code": error.code, "message": error.message}))
    return tuple(claims), tuple(names)
