"""What an audit rests on and what it says: the chain's facts, and a report of checked lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32


class AuditVerdict(Enum):
    """What a check or a whole audit came to."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCOMPLETE = "INCOMPLETE"


class Finding(NamedTuple):
    """What a check that held says; the remark names what was allowed without proof."""

    text: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `name` stays the same whatever the outcome."""

    name: str
    verdict: AuditVerdict
    text: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All lines, what they come to, and what nobody looked at."""

    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]

    @property
    def verdict(self) -> AuditVerdict:
        """FAIL beats INCOMPLETE beats PASS."""
        found = {check.verdict for check in self.checks}
        for verdict in (AuditVerdict.FAIL, AuditVerdict.INCOMPLETE):
            if verdict in found:
                return verdict
        return AuditVerdict.PASS

    def tighten(self) -> Report:
        """Return the strict form: what was allowed without proof counts as incomplete."""
        return replace(self, checks=tuple(_tighten(check) for check in self.checks))


def _tighten(check: Check) -> Check:
    if check.verdict is AuditVerdict.PASS and check.remark:
        return replace(check, verdict=AuditVerdict.INCOMPLETE)
    return check


class MissingEvidence(Exception):
    """Evidence is not there, so a check proves nothing; becomes an INCOMPLETE line."""


def require(condition: bool, text: str) -> None:
    """Raise `RemoteProtocolError` with `text`, which becomes a FAIL line, unless `condition`."""
    if not condition:
        raise RemoteProtocolError(text)


# ---- the chain's facts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitFact:
    """A commitment as the chain holds it."""

    root: Hash32
    nonce_hash: Hash32
    data_hash: Hash32
    block: int


@dataclass(frozen=True, slots=True)
class SeedFact:
    """A fixed seed as the chain holds it."""

    seed_block: int
    mix_hash: Hash32
    seed: Hash32


@dataclass(frozen=True, slots=True)
class BatchFact:
    """A posted batch as the chain holds it."""

    data_hash: Hash32
    block: int
    posted_at: int
    """Time of the block, unix seconds."""
    requesters: tuple[Address, ...]
    payees: tuple[Address, ...]
    lanes: bytes
    root: Hash32
    """Merkle-sum root over the lanes."""
    escrow_before: Mapping[Address, int]
    """
    Each requester's escrow just before the batch, summed from all earlier events; or at the end
    of the block before, where that was proven.
    """
    credit_before: Mapping[Address, int]
    """Each payee's credit, matured or not, likewise."""
    escrow_after: Mapping[Address, int] | None = None
    """Each requester's escrow at the end of the batch's block, where that was proven."""


class LeafName(NamedTuple):
    """A leaf that was posted: whose batch, its number, the lane and the index in it."""

    coordinator: Address
    sequence: int
    lane: int
    leaf: int | None
    """None for the whole lane."""


class StakeChange(NamedTuple):
    """What an operator had at stake from a block on."""

    block: int
    stake: int


class PayoutChange(NamedTuple):
    """Where a payee's claims go from a block on."""

    block: int
    payee: Address
    payout: Address


class Party(NamedTuple):
    """What the contract holds of a provider, verifier or requester at the end of a block."""

    provider_stake: int
    """Zero for who is no provider."""
    verifier_stake: int
    payout: Address
    """Where its claims go: its own address unless it said another."""


@dataclass(frozen=True, slots=True)
class Anchoring:
    """How the facts hang on one trusted block hash; a fault says why they do not."""

    links: str = ""
    """How the headers are linked."""
    state: str = ""
    """What was proven of the state."""
    link_fault: str = ""
    state_fault: str = ""
    missing: str = ""
    """Why there is nothing to link or prove."""
    newest: int = 0
    """The block up to which things are proven."""


@dataclass(frozen=True, slots=True)
class ChainEvidence:
    """What the auditor read from the chain; the only thing it believes."""

    chain_id: int
    contract: Address
    seed_delay_blocks: int
    commits: Mapping[tuple[Address, int], CommitFact]
    seeds: Mapping[tuple[Address, int], SeedFact]
    batches: Mapping[tuple[Address, int], BatchFact]
    block_hashes: Mapping[int, Hash32]
    verifier_stakes: Mapping[Address, tuple[StakeChange, ...]] = field(default_factory=dict)
    """Every change of each verifier's stake, oldest first."""
    voided: frozenset[LeafName] = frozenset()
    """What was taken back from its payee after it was posted."""
    settled_directly: frozenset[tuple[Hash32, int]] = frozenset()
    """Order hash and unit of what was settled without the coordinator."""

    acquitted: frozenset[Hash32] | None = None
    """Receipts that a jury called right; None where it is not known."""
    undecided: frozenset[Hash32] = frozenset()
    """Those of which a jury had no verdict yet, or one that was appealed."""

    unclear_stakes: frozenset[Address] = frozenset()
    """Verifiers that the state shows to have left, or come back, since a commitment."""
    disputed: frozenset[LeafName] = frozenset()
    """Lanes of which something is held in a dispute, or was taken back."""
    anchoring: Anchoring | None = None
    """None where the facts were read from the events of RPC endpoints."""

    provider_stakes: Mapping[Address, tuple[StakeChange, ...]] | None = None
    """Every change of each provider's stake, oldest first; None where they are not known."""
    payouts: tuple[PayoutChange, ...] | None = None
    """Every change of where somebody is paid, oldest first; None where they are not known."""

    parties: Mapping[int, Mapping[Address, Party]] = field(default_factory=dict)
    """Of commitments' blocks, where their states were proven: what the contract held of whom."""

    def is_acquitted(self, receipt_hash: Hash32) -> bool:
        """Say whether a jury called a result right; raise `MissingEvidence` where none can know."""
        if self.acquitted is None:
            raise MissingEvidence(
                "a result is paid that a verifier called false: whether a jury called it right an "
                "audit with --rpc can say"
            )
        if receipt_hash in self.undecided:
            raise MissingEvidence(
                "a result is paid that a verifier called false, and whose jury had not decided in "
                "the proven state"
            )
        return receipt_hash in self.acquitted

    def find_provider_stake(self, provider: Address, block: int) -> int | None:
        """Return what a provider had at stake at the end of `block`, or None if it is not known."""
        known = self.parties.get(block, {}).get(provider)
        if known is not None:
            return known.provider_stake
        if self.provider_stakes is None:
            return None
        changes = self.provider_stakes.get(provider, ())
        return next((each.stake for each in reversed(changes) if each.block <= block), 0)

    def find_payouts(self, block: int) -> Mapping[Address, Address]:
        """Return where those are paid, at the end of `block`, of whom that is known."""
        found = {each.payee: each.payout for each in self.payouts or () if each.block <= block}
        return found | {who: each.payout for who, each in self.parties.get(block, {}).items()}

    def knows_payouts(self, accounts: Iterable[Address], block: int) -> bool:
        """Say whether it is known where all of these are paid at the end of `block`."""
        return self.payouts is not None or self.parties.get(block, {}).keys() >= set(accounts)

    def find_stake(self, verifier: Address, block: int) -> int:
        """Return what a verifier had at stake at the end of `block`, in base units."""
        known = self.parties.get(block, {}).get(verifier)
        if known is not None:
            return known.verifier_stake
        if verifier in self.unclear_stakes:
            raise MissingEvidence(
                f"whether 0x{verifier.hex()} was staked at commitment is not in the proven state"
            )
        stake = 0
        for change in self.verifier_stakes.get(verifier, ()):
            if change.block <= block:
                stake = change.stake
        return stake
