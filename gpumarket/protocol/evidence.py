"""What an audit rests on and what it says: the chain's facts, and a report of checked lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpumarket.protocol.ids import Address, Hash32


class AuditVerdict(Enum):
    """What a check or a whole audit came to."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCOMPLETE = "INCOMPLETE"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    verdict: AuditVerdict
    text: str


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
    requesters: tuple[Address, ...]
    payees: tuple[Address, ...]
    lanes: bytes
    tx_hash: Hash32
    escrow_before: Mapping[Address, int]
    """Each requester's escrow just before the batch, summed from all earlier events."""


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
    verifiers_since: Mapping[Address, int] = field(default_factory=dict)
    """Block in which each verifier first staked."""
