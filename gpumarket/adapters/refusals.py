"""
What each error of the contracts means to the person whose call was refused.

One row an error of `contracts/src/libraries/ErrorsLib.sol` (and of the libraries it builds on): the
code of the catalog, what happened, why, and what to try. Rows are templates over the error's own
values; `:money` and the other forms below say what kind of value it is. Where the money is depends
on whether the call was sent, so the caller adds that line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.units import format_money

LEAF_FAULTS: Final = (
    "nothing",
    "another requester pays than signed the order",
    "another coordinator posted it than the order names",
    "another provider is paid than the order names",
    "the order has no such payment line",
    "the price is above what was signed",
    "it was posted after the order's time to settle",
    "it is no fee of this order, or goes to somebody else",
)
"""`LeafFault` of the contracts, by its number."""
ROLES: Final = ("nobody", "a provider", "a verifier")
VERDICTS: Final = ("none", "MATCH", "MISMATCH", "INCONCLUSIVE")
_TIME_MAX: Final = 253_402_300_799
"""The last second of the year 9999: what is beyond is written as a number."""


class RefusalText(NamedTuple):
    """An error of the contracts in words."""

    code: str
    text: str
    why: str
    hints: tuple[str, ...]


class _Row(NamedTuple):
    code: str
    text: str
    why: str = ""
    hints: tuple[str, ...] = ()


def explain_refusal(name: str, args: Mapping[str, Any]) -> RefusalText | None:
    """Return an error of the contracts in words, or None for one that is not theirs."""
    row = ROWS.get(name)
    if row is None:
        return None
    values = {key: _Value(value) for key, value in args.items()}
    try:
        text, why = row.text.format(**values), row.why.format(**values)
    except (LookupError, ValueError, TypeError):
        # Values that do not belong to this error: its name alone still says what happened.
        text, why = name, ""
    return RefusalText(row.code, text, why, row.hints)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of an error, written as its kind wants it."""

    raw: Any

    def __format__(self, form: str) -> str:
        raw = self.raw
        match form:
            case "money":
                return format_money(raw)
            case "time":
                return _format_time(raw)
            case "label":
                return bytes(raw).rstrip(b"\0").decode("ascii", "replace")
            case "role":
                return _pick(ROLES, raw)
            case "verdict":
                return _pick(VERDICTS, raw)
            case "fault":
                return _pick(LEAF_FAULTS, raw)
        return format_hex(raw) if isinstance(raw, bytes) else str(raw)


def _format_time(seconds: int) -> str:
    if not 0 <= seconds <= _TIME_MAX:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _pick(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


_WAIT: Final = "{earliest:time} is the earliest, it is {actual:time}"
_LATE: Final = "{latest:time} was the latest, it is {actual:time}"
_HASHES: Final = "expected {expected}, got {actual}"
_AGAIN: Final = ("read the chain again: somebody else may have done it",)
_BALANCE: Final = ("gpumarket wallet balance",)

ROWS: Final[dict[str, _Row]] = {
    # ---- construction ----------------------------------------------------------------------
    "TooManyDecimals": _Row(
        "GM-3038", "this token has {actual} decimals", "amounts are 64 bits: at most {maximum}"
    ),
    "BadConfig": _Row(
        "GM-3040", "the parameter {name:label} cannot be {actual}", "its bound is {bound}"
    ),
    # ---- money -----------------------------------------------------------------------------
    "ZeroAmount": _Row("GM-3040", "an amount of zero moves nothing"),
    "BadAddress": _Row(
        "GM-3040", "{actual} cannot be paid", "it is the zero address or the contract itself"
    ),
    "TransferMismatch": _Row(
        "GM-3038",
        "the token moved {actual:money} where {expected:money} was asked",
        "a token that takes a fee or rebases cannot be counted",
    ),
    "HoldingsTooLarge": _Row(
        "GM-3038", "the contract would hold more than it can count", "at most {maximum:money}"
    ),
    "SafeERC20FailedOperation": _Row(
        "GM-3038",
        "the token refuses to move",
        "the wallet holds too little or did not allow it, or the token {token} froze an account",
        _BALANCE,
    ),
    "InsufficientBalance": _Row(
        "GM-3011",
        "{account} has {actual:money}, {needed:money} is needed",
        "of its escrow, bond or stake, whichever this call takes from",
        ("gpumarket wallet deposit AMOUNT",),
    ),
    "InsufficientCredit": _Row(
        "GM-3039", "{needed:money} of credit was to be taken back, {actual:money} is waiting"
    ),
    "CreditMatured": _Row(
        "GM-3032",
        "this payment can no longer be taken back",
        "credit of epoch {actualEpoch} has matured, the earliest that has not is {earliestEpoch}",
    ),
    "NothingRequested": _Row(
        "GM-3013",
        "{account} has asked for nothing back, or nothing of it is left",
        "ask first and wait for the exit delay; batches and slashes come before an exit",
        _BALANCE,
    ),
    "StillLocked": _Row(
        "GM-3013", "the money is locked until {unlockAt:time}", "it is {actual:time}", _BALANCE
    ),
    "NothingToClaim": _Row(
        "GM-3013",
        "no credit of {payee} has matured",
        "credit of one epoch can be claimed from the second epoch after it",
        _BALANCE,
    ),
    "BadPocket": _Row("GM-3037", "disputes do not move that kind of money", "pocket {actual}"),
    "ReentrancyGuardReentrantCall": _Row(
        "GM-3038", "the token called back into the contract while it moved"
    ),
    # ---- coordinator -----------------------------------------------------------------------
    "BondTooSmall": _Row(
        "GM-3036",
        "a bond of {actual:money} is too small to post batches",
        "at least {minimum:money}, without what is being taken out",
    ),
    "BadLanesLength": _Row(
        "GM-3039",
        "the batch has {actualBytes} bytes of lanes",
        "it must be 1 to {maximumLanes} lanes of {laneBytes} bytes",
    ),
    "TooManyParties": _Row(
        "GM-3039", "the batch names {actual} parties", "it has lanes for {maximum}"
    ),
    "BadLaneIndex": _Row(
        "GM-3039", "lane {lane} names party {actual}", "its list has {length} of them"
    ),
    "EmptyLane": _Row("GM-3039", "lane {lane} has no leaves"),
    # ---- provider and verifier -------------------------------------------------------------
    "StakeTooSmall": _Row(
        "GM-3036", "the stake would be {actual:money}", "at least {minimum:money}, or nothing"
    ),
    "WrongRole": _Row("GM-3037", "this key is {actual:role}, {expected:role} is needed"),
    "WrongPayout": _Row(
        "GM-3037",
        "this key pays out to {expected}, not to {actual}",
        "only the payout address itself can change that",
    ),
    "NotAuthorized": _Row("GM-3037", "only {expected} may do this, not {actual}"),
    # ---- seeds -----------------------------------------------------------------------------
    "UnknownCommitment": _Row(
        "GM-3034",
        "{committer} has no commitment {seq} with these values that still needs a seed",
        "there is none, or its seed is fixed already",
        _AGAIN,
    ),
    "SeedBlockNotReached": _Row(
        "GM-3033", "the block of the seed is not there yet", "from block {earliest}; now {actual}"
    ),
    "SeedBlockTooOld": _Row(
        "GM-3032",
        "the block of the seed is too old to be read on chain",
        "until block {latest}; now {actual}",
    ),
    "WrongHeader": _Row("GM-3030", "this is not the header of the seed's block", _HASHES),
    "WrongNonces": _Row("GM-3030", "these are not the nonces that were committed", _HASHES),
    "NoncesStillAwaited": _Row(
        "GM-3033",
        "the committed nonces may still come",
        "without them from block {earliest}; now {actual}",
    ),
    "BadHeader": _Row("GM-3030", "the bytes are not a block header"),
    # ---- signatures ------------------------------------------------------------------------
    "WrongSigner": _Row(
        "GM-3031",
        "the signature is not by {expected}",
        "it is by {actual}; zero means that it is malformed",
    ),
    "ECDSAInvalidSignature": _Row("GM-3031", "the signature is malformed"),
    "ECDSAInvalidSignatureLength": _Row(
        "GM-3031", "the signature is {length} bytes long", "only 65 bytes count"
    ),
    "ECDSAInvalidSignatureS": _Row(
        "GM-3031", "the signature has the higher of two forms", "only the lower counts (EIP-2)"
    ),
    "Expired": _Row(
        "GM-3032", "what was signed was valid until {deadline:time}", "it is {actual:time}"
    ),
    # ---- evidence --------------------------------------------------------------------------
    "UnknownBatch": _Row(
        "GM-3034",
        "the chain has no batch with this content",
        "its hash is {actual}, the chain has {expected}; after a reorganization its time changed",
        _AGAIN,
    ),
    "BadIndex": _Row("GM-3030", "there is no index {actual}", "indexes end before {bound}"),
    "BadPathLength": _Row(
        "GM-3030", "the path has {actual} steps", "the trees are {expected} deep"
    ),
    "BadOpening": _Row(
        "GM-3030",
        "the leaf is not there in the batch, or its amounts do not add up",
        "the batch's root is {expectedRoot}, the path leads to {actualRoot}",
    ),
    "WrongHash": _Row("GM-3030", "{what:label} is another than the one meant", _HASHES),
    "WrongParty": _Row("GM-3030", "{what:label} is {actual}, it must be {expected}"),
    "WrongUnit": _Row("GM-3030", "this is about unit {actual}, unit {expected} is meant"),
    "WrongPrice": _Row(
        "GM-3030", "the price is {actual:money}", "{expected:money} was signed or is the limit"
    ),
    "WrongVerdict": _Row("GM-3030", "the verdict is {actual:verdict}, not {expected:verdict}"),
    "NotIndependent": _Row(
        "GM-3030", "{verifier} cannot judge this work", "it is the provider, or paid out with it"
    ),
    "FaultyLeaf": _Row("GM-3030", "the order does not allow this payment: {fault:fault}"),
    "NoFault": _Row(
        "GM-3030", "nothing is wrong with this payment", "what was shown breaks no rule"
    ),
    "WrongEligible": _Row(
        "GM-3030",
        "{actual} is not how many verifiers may be drawn",
        "those count that were listed an epoch before the batch; {listed} are listed now",
    ),
    # ---- disputes --------------------------------------------------------------------------
    "TooLate": _Row("GM-3032", "it is too late for this", _LATE),
    "TooEarly": _Row("GM-3033", "it is too early for this", _WAIT),
    "UnknownChallenge": _Row(
        "GM-3034", "there is no open challenge with this content", "it may be over", _AGAIN
    ),
    "AlreadyVoid": _Row("GM-3034", "this payment was taken back already", "", _AGAIN),
    "AlreadyDisputed": _Row("GM-3034", "the same dispute is open already", "", _AGAIN),
    "AlreadyAnswered": _Row(
        "GM-3034", "the evidence for this payment was shown already", "nobody is asked twice"
    ),
    "AlreadySettled": _Row("GM-3034", "this line was settled directly already", "", _AGAIN),
    "LaneExceeded": _Row(
        "GM-3039", "{actual:money} would be taken out of a lane of {laneAmount:money}"
    ),
    # ---- jury ------------------------------------------------------------------------------
    "UnknownCase": _Row("GM-3034", "there is no open case {id}", "it may be closed", _AGAIN),
    "AlreadySeated": _Row("GM-3034", "the jury of this level sits already", "", _AGAIN),
    "NotSeated": _Row("GM-3035", "the jury of this level was not drawn yet"),
    "NoQuorum": _Row(
        "GM-3035", "{actual} votes do not decide", "{needed} are needed; 0: the jury is empty"
    ),
    "AlreadyJudged": _Row("GM-3034", "this was judged already", "nobody is tried twice"),
    "NotDecided": _Row("GM-3035", "the jury has not decided"),
    "NoFurtherLevel": _Row("GM-3035", "there is no level above this one"),
    # ---- what the contract is built on -----------------------------------------------------
    "InvalidShortString": _Row("GM-3040", "a text of the contract's name is malformed"),
    "StringTooLong": _Row("GM-3040", "a text of the contract's name is too long", "{str}"),
}
