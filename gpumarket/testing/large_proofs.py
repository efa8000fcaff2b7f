"""A large job of one provider, checked by the verifiers that its seed draws, for proofs of size."""

from __future__ import annotations

from dataclasses import dataclass

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.pools import draw_verifiers, prefer_class
from gpumarket.protocol.receipt import UnitResult
from gpumarket.testing.factories import make_address, make_card
from gpumarket.testing.proofs import ProofMaker, Work, make_job

CHECKS_SPARE = 2
"""For one sampled result in so many: one in twenty goes to two verifiers."""


@dataclass(frozen=True)
class LargeMaker(ProofMaker):
    """Checks go to whom the seed draws, so an audit has nothing to remark but what is not shown."""

    def choose_verifiers(
        self, seed: Hash32, result: UnitResult, receipt_hash: Hash32
    ) -> tuple[str, ...]:
        """Return the one or two that the seed draws."""
        names = {make_address(name): name for name in self.verifiers}
        eligible = prefer_class([make_card(name) for name in self.verifiers], result.repro_class)
        return tuple(names[each] for each in draw_verifiers(seed, receipt_hash, eligible))


def make_large_maker(units: int, *, verifiers: int, policy: VerifyPolicy) -> LargeMaker:
    """Return the maker of a job of so many units in one epoch; its domain is still the default."""
    return LargeMaker(
        spec=make_job(units=units, verify=policy),
        verifiers=tuple(f"verifier-{number}" for number in range(1, verifiers + 1)),
        plan=((Work("provider-1", tuple(range(units))),),),
        checks_max=max(8, units // CHECKS_SPARE),
    )
