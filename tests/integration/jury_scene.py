"""A signed receipt that no batch paid, its accuser, and six verifiers that may judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from gpumarket.adapters.chain import ChainFact
from gpumarket.adapters.deployment import deploy_devnet
from gpumarket.adapters.jury_chain import JuryChain
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.ids import Address
from gpumarket.protocol.juries import CaseRecord
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import PrivateKey, Signed
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.factories import make_address, make_hash, make_order, make_secret
from tests.integration.court import CONFIG as SHORT
from tests.integration.court import DAY, Court, open_court

CONFIG = replace(SHORT, stake_slash=SHORT.min_stake)
VERIFIERS = 6
NAMES = {make_address(f"verifier {i}"): f"verifier {i}" for i in range(VERIFIERS + 1)}
"""Of them, the last comes too late to judge at first."""
WATCHER = make_address("watcher")


@dataclass
class Trial:
    """A signed receipt that is in no batch, and a watcher with a connection."""

    court: Court
    chain: JuryChain
    order: Order
    receipt: Signed[Receipt]

    @property
    def receipt_hash(self) -> bytes:
        return self.receipt.body.compute_struct_hash()

    async def open(self) -> int:
        """Accuse; return the number of the case as its event tells it."""
        eligible = await self.chain.count_eligible()
        outcome = await self.chain.accuse_receipt(self.order, self.receipt, eligible=eligible)
        return int((await self.find("CaseOpened", accuser=WATCHER, block=outcome.block)).args["id"])

    async def find(self, name: str, *, block: int = 0, **wanted: object) -> ChainFact:
        fact = await self.chain.find_fact(name, from_block=block, wanted=wanted)
        assert fact is not None
        return fact

    async def read(self, case: int) -> CaseRecord:
        record = await self.chain.read_case(case)
        assert record is not None
        return record

    async def seat(self, case: int) -> tuple[Address, ...]:
        """Draw the jury; return it as its event tells it."""
        number = (await self.read(case)).draw_block + CONFIG.seed_delay_blocks
        self.court.mine(CONFIG.seed_delay_blocks + 1)
        outcome = await self.chain.seat_jury(case, await self.chain.read_header(number))
        fact = await self.find("JurySeated", block=outcome.block, id=case)
        return fact.args["jury"]  # type: ignore[no-any-return]  # addresses

    def vote(
        self, jury: Sequence[Address], verdict: Verdict
    ) -> list[tuple[int, Signed[Attestation]]]:
        attestation = Attestation(
            receipt_hash=self.receipt_hash,
            verdict=int(verdict),
            evidence_hash=make_hash("evidence"),
            issued_at=self.court.now,
        )
        domain = self.court.domain
        keys = [PrivateKey(make_secret(NAMES[juror])) for juror in jury]
        return [(seat, key.sign(attestation, domain).as_signed()) for seat, key in enumerate(keys)]

    async def judge(self, case: int, verdict: Verdict) -> tuple[Address, ...]:
        jury = await self.seat(case)
        await self.chain.decide(case, jury, self.vote(jury, verdict))
        return jury

    def wait(self) -> None:
        """Let the time of a jury, or to appeal, pass."""
        self.court.skip_to(self.court.now + CONFIG.response + 1)


@contextmanager
def open_jury_court(folder: Path) -> Iterator[Court]:
    """Run a node of its own with everybody listed; the last verifier too late to judge at first."""
    with run_anvil(folder, block_seconds=None) as url:
        court = open_court(url, *trio.run(deploy_devnet, url, CONFIG))
        for name in ("alice", "watcher"):
            court.pay_in(name, 10**12, "deposit")
        court.stake("provider", "Provider", amount=3 * CONFIG.min_stake)
        *early, late = NAMES.values()
        for name in early:
            court.stake(name, "Verifier")
        court.skip_to(court.now + CONFIG.epoch)
        court.stake(late, "Verifier")
        yield court


def make_trial(court: Court, name: str) -> Trial:
    """Return a receipt of a test's own, named for it."""
    order = make_order(
        requester=make_address("alice"),
        units=2,
        settle_by=court.now + 20 * DAY,
        expiry=court.now + 30 * DAY,
        nonce=make_hash(name),
    )
    receipt = Receipt(
        order_hash=order.compute_struct_hash(),
        unit=1,
        provider=make_address("provider"),
        result_hash=make_hash("result"),
        price=7,
        finished_at=court.now,
    )
    url = str(court.web3.provider.endpoint_uri)  # type: ignore[attr-defined]  # an HTTP provider
    contract = court.domain.contract
    chain = JuryChain(rpc_url=url, contract=contract, secret=make_secret("watcher"))
    signed = PrivateKey(make_secret("provider")).sign(receipt, court.domain).as_signed()
    return Trial(court, chain, order, signed)
