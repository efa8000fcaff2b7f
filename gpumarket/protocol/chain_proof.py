"""
The chain's part of a proof: block headers and state proofs that hang on one trusted block hash.

Nothing here is believed. `anchoring.py` derives from the job which slots of which account must be
proven in which block, so the file holds trie nodes only, and none too many.
Source: EIP-1186 (state proofs), EIP-2935 (block hashes in state).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gpumarket.protocol.contract_code import ContractClaim
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.units import U64

ANCHORS_MAX = 256


class Anchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A block's header, and nodes of its state: each once, in the order of first use."""

    header: bytes
    accounts: tuple[bytes, ...]
    """Of the settlement contract, its disputes, its jury and the history contract: who is read."""
    settlement: tuple[bytes, ...] = ()
    disputes: tuple[bytes, ...] = ()
    jury: tuple[bytes, ...] = ()
    history: tuple[bytes, ...] = ()


class CommitClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the proof does not show of one epoch's commitment, and its block."""

    header: bytes
    """RLP of the header of the commitment's block."""
    data_hash: Hash32
    nonce_hash: Hash32 | None = None
    """Only where the seed was fixed without the promised nonces."""
    accounts: tuple[bytes, ...] = ()
    """Nodes of this block's state, as an anchor's: of the settlement contract alone."""
    settlement: tuple[bytes, ...] = ()
    """What it holds of the epoch's parties; both empty where no node proved that block's state."""

    @property
    def has_parties(self) -> bool:
        """Whether stakes and payout addresses as of this block are proven."""
        return bool(self.accounts)


class BatchClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a batch was posted, and the hash of its document."""

    block: U64
    data_hash: Hash32


class ChainProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an auditor needs of the chain besides one block hash."""

    contract: ContractClaim
    commits: tuple[CommitClaim, ...]
    """One for each epoch of the proof."""
    batches: tuple[BatchClaim, ...]
    """One for each settlement of the proof."""
    anchors: Annotated[tuple[Anchor, ...], Meta(min_length=1, max_length=ANCHORS_MAX)]
    """Newest first; the first is the block whose hash the auditor trusts."""
