"""How an audit is shown: numbered lines, balances before and after, and what was trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpumarket import __version__
from gpumarket.cli.output import encode_amount, format_table, show_amount
from gpumarket.protocol.audit_money import BalanceChange
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.evidence import AuditVerdict, Check, Report
from gpumarket.protocol.ids import Hash32, format_hex
from gpumarket.protocol.ledger import Event, Ledger
from gpumarket.protocol.signing import Domain

EVENTS_SHOWN: Final = 20
NO_ANSWER: Final = "no answer"
"""What stands in a claim's place where the coordinator did not make one."""
_MARKS: Final = {
    AuditVerdict.PASS: "PASS",
    AuditVerdict.FAIL: "FAIL",
    AuditVerdict.INCOMPLETE: "----",
}


@dataclass(frozen=True, slots=True)
class Trust:
    """What a report rests on beside this program."""

    rpc_urls: tuple[str, ...]
    """None where one trusted block hash was enough."""
    domain: Domain
    head: int
    head_hash: Hash32
    source: str
    """Where the proof came from; nothing in it was believed."""


@dataclass(frozen=True, slots=True)
class ClaimedFact:
    """Something the coordinator says; shown as its word only."""

    kind: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mentions:
    """What the chain has about one thing: events that name it, and its balances now."""

    events: tuple[Event, ...]
    balances: Mapping[str, int]


# ---- reports -------------------------------------------------------------------------------


def format_report(report: Report, balances: Sequence[BalanceChange], trust: Trust) -> str:
    """Write a report for people: one line a check, then money, then what it comes to."""
    lines = []
    for number, check in enumerate(report.checks, start=1):
        lines.append(f"{number:2d} {_MARKS[check.verdict]}  {check.text}")
        if check.remark:
            lines.append(f"         note: {check.remark}")
    for number, text in enumerate(report.not_checked, start=len(report.checks) + 1):
        lines.append(f"{number:2d} ----  not checked: {text}")
    if balances:
        lines += ["", format_balances(balances), ""]
    lines.append(_format_verdict(report))
    lines.append(_format_trust(trust))
    return "\n".join(lines)


def format_balances(balances: Sequence[BalanceChange]) -> str:
    """Write what the batch did to each balance, with the sums, which are equal."""
    rows = [
        (
            each.role,
            format_hex(each.account),
            each.kind,
            show_amount(each.before),
            show_amount(each.after),
            _format_change(each.after - each.before),
        )
        for each in balances
    ]
    before = sum(each.before for each in balances)
    after = sum(each.after for each in balances)
    rows.append(
        ("sum", "", "", show_amount(before), show_amount(after), _format_change(after - before))
    )
    return format_table(("ROLE", "ACCOUNT", "BALANCE", "BEFORE", "AFTER", "CHANGE"), rows)


def describe_report(
    report: Report, balances: Sequence[BalanceChange], trust: Trust
) -> dict[str, Any]:
    """Write a report for machines."""
    return {
        "verdict": report.verdict.value,
        "checks": [
            {
                "number": number,
                "name": check.name,
                "verdict": check.verdict.value,
                "text": check.text,
                "remark": check.remark,
            }
            for number, check in enumerate(report.checks, start=1)
        ],
        "not_checked": list(report.not_checked),
        "balances": [
            {
                "role": each.role,
                "account": format_hex(each.account),
                "balance": each.kind,
                "before": encode_amount(each.before),
                "after": encode_amount(each.after),
            }
            for each in balances
        ],
        "trust": {
            "rpc": list(trust.rpc_urls),
            "chain_id": trust.domain.chain_id,
            "contract": format_hex(trust.domain.contract),
            "head": trust.head,
            "head_hash": format_hex(trust.head_hash),
            "proof": trust.source,
            "tool": f"gpumarket {__version__}",
        },
    }


def _format_verdict(report: Report) -> str:
    total, groups = len(report.checks), len(report.not_checked)
    skipped = f"{groups} group{'s' * (groups != 1)} not checked"
    if report.verdict is AuditVerdict.PASS:
        return f"PASS  {total} checks, {skipped}"
    if report.verdict is AuditVerdict.FAIL:
        failed = _count(report.checks, AuditVerdict.FAIL)
        return f"FAIL  {failed} of {total} checks found a contradiction, {skipped}"
    missing = _count(report.checks, AuditVerdict.INCOMPLETE)
    return f"INCOMPLETE  {missing} of {total} checks lack evidence, none failed, {skipped}"


def _format_trust(trust: Trust) -> str:
    count = len(trust.rpc_urls)
    source = f"{count} RPC endpoint{'s' * (count != 1)} ({', '.join(trust.rpc_urls)})"
    if not trust.rpc_urls:
        source = "one block hash and no network"
    return (
        f"trust used: {source}, "
        f"chain {trust.domain.chain_id}, contract {format_hex(trust.domain.contract)}, head block "
        f"{trust.head} {format_hex(trust.head_hash)[:10]}…, this tool v{__version__}; "
        "nothing from the coordinator was believed"
    )


def _count(checks: Iterable[Check], verdict: AuditVerdict) -> int:
    return sum(check.verdict is verdict for check in checks)


def _format_change(amount: int) -> str:
    return f"+{show_amount(amount)}" if amount > 0 else show_amount(amount)


# ---- one thing -----------------------------------------------------------------------------


def find_mentions(events: Sequence[Event], ledger: Ledger, names: Iterable[str]) -> Mentions:
    """Find the events that name any of `names`, and an address's balances."""
    wanted = {value for name in names if (value := _read_name(name)) is not None}
    balances = {
        label: table[account]
        for account in wanted
        if isinstance(account, bytes)
        for label, table in (
            ("escrow", ledger.escrow),
            ("credit", ledger.credit),
            ("bond", ledger.bond),
            ("stake", ledger.stake),
        )
        if account in table
    }
    found = tuple(event for event in events if _is_about(event, wanted))
    return Mentions(found, balances)


def format_found(name: str, mentions: Mentions, claims: Sequence[ClaimedFact]) -> str:
    """Write what is known of a thing: the chain's facts apart from the coordinator's word."""
    lines = [f"{name} on chain: {len(mentions.events)} events"]
    lines += [f"  {label:<7} {show_amount(amount)}" for label, amount in mentions.balances.items()]
    lines += [f"  {_format_event(event)}" for event in mentions.events[-EVENTS_SHOWN:]]
    hidden = len(mentions.events) - EVENTS_SHOWN
    if hidden > 0:
        lines.append(f"  ({hidden} earlier events not shown; --json has them all)")
    for claim in claims:
        lines.append(f"the coordinator says, unchecked ({claim.kind}):")
        lines.append(f"  {json.dumps(claim.content, ensure_ascii=False)}")
    return "\n".join(lines)


def describe_found(name: str, mentions: Mentions, claims: Sequence[ClaimedFact]) -> dict[str, Any]:
    """Write what is known of a thing for machines."""
    return {
        "name": name,
        "chain": {
            "events": [
                {
                    "event": event.name,
                    "block": event.block,
                    "log": event.log_index,
                    "tx": format_hex(event.tx_hash),
                    "args": _show_value(event.args),
                }
                for event in mentions.events
            ],
            "balances": {
                label: encode_amount(amount) for label, amount in mentions.balances.items()
            },
        },
        "coordinator": [{"kind": claim.kind, "says": claim.content} for claim in claims],
    }


def _read_name(name: str) -> bytes | int | None:
    """Read what a person typed: hex, a sequence number, or a CID, of which the digest counts."""
    if name.isdigit():
        return int(name)
    try:
        if name.startswith("0x"):
            return bytes.fromhex(name[2:])
        return parse_cid(name.removeprefix("ipfs://")).digest
    except (ValueError, InvalidInput):
        return None  # a job id; the chain knows it by its transactions only


def _is_about(event: Event, wanted: set[bytes | int]) -> bool:
    named: set[bytes | int] = {event.tx_hash}
    for key, value in event.args.items():
        if isinstance(value, bytes):
            named.add(value)
        elif isinstance(value, list | tuple):
            named |= {item for item in value if isinstance(item, bytes)}
        elif key == "seq":
            named.add(value)
    return bool(named & wanted)


def _format_event(event: Event) -> str:
    parts = [f"{key}={_show_short(value)}" for key, value in event.args.items()]
    return f"block {event.block}  {event.name}  {' '.join(parts)}  tx {format_hex(event.tx_hash)}"


def _show_short(value: Any) -> str:
    shown = _show_value(value)
    if isinstance(shown, list):
        return f"[{', '.join(_show_short(item) for item in shown)}]"
    text = str(shown)
    return f"{text[:10]}…" if text.startswith("0x") and len(text) > 42 else text


def _show_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return format_hex(value)
    if isinstance(value, Mapping):
        return {key: _show_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_show_value(item) for item in value]
    return value
