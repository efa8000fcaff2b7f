"""
The ledger: fold the contracts' events, in order, into balances and the evidence of an audit.

Only events of the settlement contract move money; those of its judges say why, and are kept. Every
balance is rebuilt from nothing but events, so whoever has all of them needs no archive
node and believes no stored number. A balance below zero shows that events are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.evidence import (
    BatchFact,
    ChainEvidence,
    CommitFact,
    LeafName,
    PayoutChange,
    SeedFact,
    StakeChange,
)
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.settlement import LANE_BYTES
from gpumarket.protocol.signing import Domain

ROLE_PROVIDER: Final = 1
ROLE_VERIFIER: Final = 2
"""`Role.VERIFIER` of the contract."""


class Pocket(IntEnum):
    """Where money of an account lies that the judges may move: `Pocket` of the contract."""

    ESCROW = 0
    CREDIT = 1
    BOND = 2
    STAKE = 3
    BURNT = 4
    """Nobody's: what was slashed and given to nobody."""


class Event(Protocol):
    """One event of the contract: addresses and hashes as bytes, numbers as int."""

    @property
    def name(self) -> str:
        """Name as in the contract's ABI."""

    @property
    def args(self) -> Mapping[str, Any]:
        """Values by their names in the ABI."""

    @property
    def block(self) -> int:
        """Number of the block."""

    @property
    def log_index(self) -> int:
        """Place among all logs of the block."""

    @property
    def tx_hash(self) -> Hash32:
        """The transaction."""


@dataclass(slots=True)
class Ledger:
    """Balances of all parties, and what was committed, seeded and posted; base units."""

    escrow: dict[Address, int] = field(default_factory=dict)
    credit: dict[Address, int] = field(default_factory=dict)
    """Claimable and still maturing together."""
    bond: dict[Address, int] = field(default_factory=dict)
    stake: dict[Address, int] = field(default_factory=dict)
    held: int = 0
    """In dispute: taken by the judges and not given back."""
    burnt: int = 0
    """Slashed, and nobody's for good."""
    verifier_stakes: dict[Address, list[StakeChange]] = field(default_factory=dict)
    provider_stakes: dict[Address, list[StakeChange]] = field(default_factory=dict)
    payouts: dict[Address, Address] = field(default_factory=dict)
    payout_changes: list[PayoutChange] = field(default_factory=list)
    roles: dict[Address, int] = field(default_factory=dict)
    commits: dict[tuple[Address, int], CommitFact] = field(default_factory=dict)
    seeds: dict[tuple[Address, int], SeedFact] = field(default_factory=dict)
    batches: dict[tuple[Address, int], BatchFact] = field(default_factory=dict)
    judgements: list[Event] = field(default_factory=list)
    """What the judges said, in order."""
    voided: set[LeafName] = field(default_factory=set)
    """Leaves and lanes whose money went back to the requester."""
    settled_directly: set[tuple[Hash32, int]] = field(default_factory=set)
    """Order hash and unit of what was settled without its coordinator."""
    accused: dict[int, Hash32] = field(default_factory=dict)
    """By case: the receipt that it is about."""
    acquitted: set[Hash32] = field(default_factory=set)
    """Receipts that the jury of some level called right."""


def fold_events(events: Iterable[Event]) -> Ledger:
    """
    Add up all events of a contract and its judges, in the chain's order from the first block.

    Raises `InvalidInput` where the order is not the chain's, where a balance falls below zero,
    or where an event is not one of the contract's: then events are missing or made up.
    """
    ledger, last = Ledger(), (-1, -1)
    for event in events:
        place = (event.block, event.log_index)
        if place <= last:
            raise _make_error(f"the event at {place} comes after the one at {last}")
        last = place
        fold = _FOLDS.get(event.name)
        if fold is None:
            raise _make_error(f"{event.name} is not an event of the settlement contract")
        try:
            fold(ledger, event.args, event)
        except (LookupError, TypeError, ValueError) as error:
            raise _make_error(f"the event {event.name} at {place} is malformed") from error
    return ledger


def make_evidence(
    ledger: Ledger, *, domain: Domain, seed_delay_blocks: int, block_hashes: Mapping[int, Hash32]
) -> ChainEvidence:
    """Return what an audit believes: a folded ledger, the contract's rule, and block hashes."""
    return ChainEvidence(
        chain_id=domain.chain_id,
        contract=domain.contract,
        seed_delay_blocks=seed_delay_blocks,
        commits=ledger.commits,
        seeds=ledger.seeds,
        batches=ledger.batches,
        block_hashes=block_hashes,
        verifier_stakes={who: tuple(each) for who, each in ledger.verifier_stakes.items()},
        provider_stakes={who: tuple(each) for who, each in ledger.provider_stakes.items()},
        payouts=tuple(ledger.payout_changes),
        voided=frozenset(ledger.voided),
        settled_directly=frozenset(ledger.settled_directly),
        acquitted=frozenset(ledger.acquitted),
    )


def list_lane_amounts(fact: BatchFact) -> list[tuple[Address, Address, int]]:
    """Return (requester, payee, amount) of each lane of a posted batch."""
    packed = fact.lanes
    found = []
    for start in range(0, len(packed), LANE_BYTES):
        requester, payee = packed[start : start + 2], packed[start + 2 : start + 4]
        found.append(
            (
                fact.requesters[int.from_bytes(requester, "big")],
                fact.payees[int.from_bytes(payee, "big")],
                int.from_bytes(packed[start + 8 : start + 16], "big"),
            )
        )
    return found


# ---- one event -----------------------------------------------------------------------------


def _move(balances: dict[Address, int], account: Address, amount: int) -> None:
    balances[account] = balances.get(account, 0) + amount
    if balances[account] < 0:
        raise _make_error(f"the balance of 0x{account.hex()} falls below zero")


def _make_error(message: str) -> InvalidInput:
    return InvalidInput(
        message,
        code="GM-7010",
        why="events are missing or made up; read from the block of the contract's creation on",
    )


def _deposit(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    _move(ledger.escrow, args["requester"], args["amount"])


def _withdraw(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    _move(ledger.escrow, args["requester"], -args["amount"])


def _bond(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    _move(ledger.bond, args["coordinator"], args["amount"])


def _unbond(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    _move(ledger.bond, args["coordinator"], -args["amount"])


def _stake(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    ledger.roles[args["operator"]] = args["role"]
    _set_payout(ledger, args["operator"], args["payout"], event.block)
    _change_stake(ledger, args["operator"], args["amount"], event.block)


def _unstake(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    _change_stake(ledger, args["operator"], -args["amount"], event.block)


def _change_stake(ledger: Ledger, operator: Address, amount: int, block: int) -> None:
    _move(ledger.stake, operator, amount)
    is_verifier = ledger.roles.get(operator) == ROLE_VERIFIER
    stakes = ledger.verifier_stakes if is_verifier else ledger.provider_stakes
    stakes.setdefault(operator, []).append(StakeChange(block, ledger.stake[operator]))


def _change_payout(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    _set_payout(ledger, args["payee"], args["payout"], event.block)


def _set_payout(ledger: Ledger, payee: Address, payout: Address, block: int) -> None:
    ledger.payouts[payee] = payout
    ledger.payout_changes.append(PayoutChange(block, payee, payout))


def _claim(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    _move(ledger.credit, args["payee"], -args["amount"])


def _commit(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    ledger.commits[args["committer"], args["seq"]] = CommitFact(
        root=args["root"],
        nonce_hash=args["nonceHash"],
        data_hash=args["dataHash"],
        block=event.block,
    )


def _fix_seed(ledger: Ledger, args: Mapping[str, Any], _event: Event) -> None:
    ledger.seeds[args["committer"], args["seq"]] = SeedFact(
        seed_block=args["blockNumber"], mix_hash=args["mixHash"], seed=args["seed"]
    )


def _post_batch(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    requesters, payees = tuple(args["requesters"]), tuple(args["payees"])
    fact = BatchFact(
        data_hash=args["dataHash"],
        block=event.block,
        posted_at=args["postedAt"],
        requesters=requesters,
        payees=payees,
        lanes=args["lanes"],
        root=args["root"],
        escrow_before={each: ledger.escrow.get(each, 0) for each in requesters},
        credit_before={each: ledger.credit.get(each, 0) for each in payees},
    )
    ledger.batches[args["coordinator"], args["seq"]] = fact
    for requester, payee, amount in list_lane_amounts(fact):
        _move(ledger.escrow, requester, -amount)
        _move(ledger.credit, payee, amount)


def _take(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    _dispute(ledger, Pocket(args["from"]), args["account"], -args["amount"], event)


def _give(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    _dispute(ledger, Pocket(args["to"]), args["account"], args["amount"], event)


def _dispute(ledger: Ledger, pocket: Pocket, account: Address, amount: int, event: Event) -> None:
    """Move money between a pocket and what is held; what is in neither cannot be moved."""
    ledger.held -= amount
    if ledger.held < 0:
        raise _make_error("more was given than was held in dispute")
    match pocket:
        case Pocket.ESCROW:
            _move(ledger.escrow, account, amount)
        case Pocket.CREDIT:
            _move(ledger.credit, account, amount)
        case Pocket.BOND:
            _move(ledger.bond, account, amount)
        case Pocket.STAKE:
            _change_stake(ledger, account, amount, event.block)
        case Pocket.BURNT:
            ledger.burnt += amount
            if amount < 0:
                raise _make_error("what was burnt came back")


def _keep_judgement(ledger: Ledger, args: Mapping[str, Any], event: Event) -> None:
    # Moves nothing: the settlement contract has an event of its own for each movement.
    ledger.judgements.append(event)
    if event.name in ("LeafVoided", "LaneVoided"):
        index = args["index"] if event.name == "LeafVoided" else None
        ledger.voided.add(LeafName(args["coordinator"], args["seq"], args["lane"], index))
    elif event.name == "DirectSettled":
        ledger.settled_directly.add((args["orderHash"], args["unit"]))
    elif event.name == "CaseOpened":
        ledger.accused[args["id"]] = args["case_"]["receiptHash"]
    elif event.name == "Decided" and args["verdict"] == Verdict.MATCH:
        ledger.acquitted.add(ledger.accused[args["id"]])


def _move_nothing(_ledger: Ledger, _args: Mapping[str, Any], _event: Event) -> None:
    """Take note of a wish; the money moves with a later event."""


JUDGEMENTS: Final = (
    "Presigned",
    "Challenged",
    "ChallengeEnded",
    "LeafVoided",
    "LaneVoided",
    "Slashed",
    "DirectSettled",
    "CaseOpened",
    "JurySeated",
    "JuryRedrawn",
    "Decided",
    "Appealed",
    "Escalated",
    "CaseClosed",
)
"""Events of Disputes and Jury."""
_FOLDS: Final[dict[str, Callable[[Ledger, Mapping[str, Any], Event], None]]] = {
    "Deposited": _deposit,
    "WithdrawRequested": _move_nothing,
    "Withdrawn": _withdraw,
    "Bonded": _bond,
    "UnbondRequested": _move_nothing,
    "Unbonded": _unbond,
    "BatchPosted": _post_batch,
    "Staked": _stake,
    "UnstakeRequested": _move_nothing,
    "Unstaked": _unstake,
    "PayoutChanged": _change_payout,
    "Claimed": _claim,
    "Taken": _take,
    "Given": _give,
    "Committed": _commit,
    "SeedFixed": _fix_seed,
    **dict.fromkeys(JUDGEMENTS, _keep_judgement),
}
