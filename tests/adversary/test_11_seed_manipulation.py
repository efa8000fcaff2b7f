"""
Attack 11: change the seed after the results are committed.

Whoever fixes it late, or early, with another block's header, with a header of its own making, with
other nonces or without any, gets the one seed that the commitment already had, or a refusal; who
promised nonces and withholds them can only let a second seed be fixed in place of the first, and
both rest on the same block; and a reorg deeper than the delay takes the commitment with it, so
that seed and commitment are of one chain or there is no seed at all. What becomes of a seed that
nobody fixes in 8,191 blocks is tried with the contract alone, in
`contracts/test/settlement/Seeds.t.sol`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import rlp

from gpumarket.adapters.chain_errors import ContractRefusal
from gpumarket.adapters.disputes_abi import encode_account
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import ZERO_HASH, Hash32
from gpumarket.protocol.sampling import compute_commitment_hash, compute_seed
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import make_address, make_hash
from tests.integration.court import CONFIG, Court

COORDINATOR, ANYBODY = make_address("coordinator"), make_address("anybody")
NONCES = b"promised nonces"
DELAY, TIMEOUT = CONFIG.seed_delay_blocks, CONFIG.nonce_timeout_blocks


@dataclass(frozen=True)
class Promise:
    """A commitment on chain and all that can be said about it."""

    court: Court
    sequence: int
    root: Hash32
    block: int

    @property
    def seed_block(self) -> int:
        return self.block + DELAY

    def fix(self, header: bytes, nonces: bytes = NONCES, *, block: int = 0) -> Hash32 | str:
        """Let anybody fix the seed; return it, or the name of the refusal."""
        data_hash = make_hash("document")
        made = (self.root, keccak256(NONCES), data_hash, block or self.block)
        function = self.court.settlement.functions.fixSeed(
            encode_account(COORDINATOR), self.sequence, made, header, nonces
        )
        done = self.court.send(function, ANYBODY)
        if isinstance(done, ContractRefusal):
            return done.name
        seed: Hash32 = done.get("SeedFixed")["seed"]
        assert self.read() == compute_commitment_hash(
            root=self.root,
            nonce_hash=keccak256(NONCES),
            data_hash=data_hash,
            block=self.block,
            seed=seed,
        )
        return seed

    def read(self) -> bytes:
        call = self.court.settlement.functions.commitmentOf(
            encode_account(COORDINATOR), self.sequence
        )
        return bytes(call.call())

    def expect(self, header: bytes, nonces: bytes = NONCES) -> Hash32:
        """Return the seed that this header and these nonces must give."""
        return compute_seed(
            chain_id=self.court.domain.chain_id,
            contract=self.court.domain.contract,
            committer=COORDINATOR,
            sequence=self.sequence,
            root=self.root,
            mix_hash=decode_header_untrusted(header).mix_hash,
            nonces=nonces,
        )


def promise(court: Court, name: str) -> Promise:
    root = make_hash(f"root of {name}")
    function = court.settlement.functions.commit(root, keccak256(NONCES), make_hash("document"))
    done = court.do(function, COORDINATOR)
    return Promise(court, done.get("Committed")["seq"], root, done.block)


def test_no_header_but_the_blocks_own_gives_a_seed_and_anybody_fixes_it(court: Court) -> None:
    made = promise(court, "headers")
    # Too early, with the newest header there is.
    assert made.fix(court.read_header(made.block)) == "SeedBlockNotReached"
    court.mine(DELAY + 3)
    header = court.read_header(made.seed_block)
    fields = rlp.decode(header)
    fields[13] = make_hash("a mixHash that gives a kinder sample")
    padded = rlp.encode([*rlp.decode(header), b"one field more"])
    forgeries = [
        court.read_header(made.seed_block - 1),
        court.read_header(made.seed_block + 1),
        rlp.encode(fields),
        padded,
        header[:-1],
        header + b"\0",
        b"",
    ]
    assert {made.fix(each) for each in forgeries} == {"WrongHeader"}
    # Nor does it help to say that it was committed in another block.
    later = court.read_header(made.seed_block + 1)
    assert made.fix(later, block=made.block + 1) == "UnknownCommitment"
    assert made.fix(header) == made.expect(header)
    assert made.fix(header) == "UnknownCommitment", "a seed is fixed once"


def test_whoever_withholds_nonces_gets_one_other_seed_of_the_same_block(court: Court) -> None:
    made = promise(court, "nonces")
    court.mine(DELAY + 1)
    header = court.read_header(made.seed_block)
    assert made.fix(header, b"chosen later") == "WrongNonces"
    assert made.fix(header, b"") == "NoncesStillAwaited"
    court.mine(TIMEOUT)
    assert made.fix(header, b"chosen later") == "WrongNonces", "nor when it is late"
    other = court.read_header(made.seed_block + TIMEOUT)
    assert made.fix(other, b"") == "WrongHeader", "no later block's randomness"
    second = made.expect(header, b"")
    assert second != made.expect(header)
    assert made.fix(header, b"") == second
    # The nonces come too late now: there is one seed, whoever would have liked the other.
    assert made.fix(header) == "UnknownCommitment"


def test_a_late_seed_is_the_early_one(court: Court) -> None:
    made = promise(court, "late")
    court.mine(DELAY + 1)
    header = court.read_header(made.seed_block)
    court.mine(300)
    # The BLOCKHASH opcode has forgotten the block; the chain's history contract has not.
    assert made.fix(court.read_header(made.seed_block + 1)) == "WrongHeader"
    assert made.fix(header) == made.expect(header)


@pytest.mark.parametrize("again", [True, False])
def test_a_reorg_deeper_than_the_delay_takes_seed_and_commitment_along(
    court: Court, *, again: bool
) -> None:
    old = promise(court, f"reorged {again}")
    court.mine(DELAY + 1)
    header = court.read_header(old.seed_block)
    assert old.fix(header) == old.expect(header)
    depth = int(court.web3.eth.block_number) - old.block + 1
    assert depth > DELAY
    court.rpc("anvil_reorg", depth, [])
    assert old.read() == ZERO_HASH
    assert old.fix(header) == "UnknownCommitment"
    if not again:
        return
    court.mine(3)
    new = promise(court, f"reorged {again}")
    assert (new.sequence, new.root) == (old.sequence, old.root), "the same promise"
    assert new.block > old.block
    court.mine(DELAY + 1)
    # What the old chain gave is of no use; the new one gives one seed, which nobody knew before.
    assert new.fix(header) == "WrongHeader"
    fresh = court.read_header(new.seed_block)
    assert new.fix(fresh) == new.expect(fresh) != old.expect(header)
