"""
How many forgeries sampling finds: against the exact formula, and beside what other markets do.

First part: the market's own seed, sample and miss probability over a grid; every cell is compared
with the hypergeometric distribution. Second part: the same attackers against BOINC's quorum and
adaptive replication, iExec's proof of contribution, and our sample with its juries.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.juries import JURY_SIZES, compute_quorum
from gpumarket.protocol.sampling import (
    assign_verifier,
    compute_miss_ppb,
    compute_sample_size,
    compute_seed,
    draw_sample,
    is_overlapped,
)
from gpumarket.protocol.signing import keccak256
from scripts.benchmarks import Figures
from scripts.benchmarks.peer_schemes import (
    Fleet,
    Forge,
    Tally,
    average,
    run_adaptive,
    run_iexec,
    run_quorum,
)

COUNTS: Final = (1_000, 10_000)
SAMPLES: Final = (30, 59, 90, 299)
FORGED_PPM: Final = (5_000, 10_000, 20_000, 50_000, 100_000)
SEEDS: Final = 20_000
POLICY: Final = VerifyPolicy()
UNIT_PRICE: Final = 1_000
HOSTS, BAD_HOSTS = 100, 20
PEER_UNITS: Final = 40_000
OUR_JOBS: Final = 2_000
OUR_UNITS: Final = 10_000
ROUNDS_MAX: Final = 3
SLANDER: Final = 0.002
"""How often a colluding verifier calls an honest unit forged."""
_CONTRACT: Final = Address(b"\x11" * 20)


def make_rng(seed: int) -> random.Random:
    """Return a generator for a simulation."""
    return random.Random(seed)  # noqa: S311  a simulation that is run again from its seed


# ---- detection against theory --------------------------------------------------------------


def make_seed(number: int) -> Hash32:
    """Fix the seed of one commitment as the chain does: root, a later block, promised nonces."""
    text = number.to_bytes(8, "big")
    return compute_seed(
        chain_id=31337,
        contract=_CONTRACT,
        committer=_CONTRACT,
        sequence=number,
        root=keccak256(b"root" + text),
        mix_hash=keccak256(b"block" + text),
        nonces=keccak256(b"nonces" + text),
    )


def measure_cells(count: int, size: int) -> Mapping[int, tuple[float, float]]:
    """Return, by forged share in ppm, the share of seeds that found a forgery, and its z-score."""
    # Whoever forges does not know the seed, so which units these are is all the same.
    places = make_rng(count * size).sample(range(count), count)
    rank = np.empty(count, dtype=np.int64)
    rank[places] = np.arange(count)
    lowest = np.empty(SEEDS, dtype=np.int64)
    for number in range(SEEDS):
        drawn = draw_sample(make_seed(number), _CONTRACT, count=count, size=size)
        lowest[number] = rank[list(drawn)].min()
    cells = {}
    for share in FORGED_PPM:
        forged = count * share // 1_000_000
        found = float(np.mean(lowest < forged))
        theory = 1 - compute_miss_ppb(count, forged, size) / 1e9
        spread = math.sqrt(max(theory * (1 - theory), 1e-9) / SEEDS)
        cells[share] = (found, (found - theory) / spread)
    return cells


def measure_detection() -> tuple[float, float]:
    """Print the grid; return the worst |z| and what 90 of 10,000 find of 5 %."""
    worst, headline = 0.0, 0.0
    for count in COUNTS:
        for size in SAMPLES:
            cells = measure_cells(count, size)
            shown = "  ".join(
                f"{share / 1e4:g} %: {p:.4f} ({z:+.1f})" for share, (p, z) in cells.items()
            )
            print(f"n {count:>6}  m {size:>3}   {shown}", flush=True)
            worst = max(worst, *(abs(z) for _, z in cells.values()))
            if (count, size) == (10_000, 90):
                headline = cells[50_000][0]
    return worst, headline


# ---- beside others -------------------------------------------------------------------------


@dataclass(slots=True)
class Market:
    """Our scheme over a fleet: one job a provider and epoch, a sample, and juries over it."""

    fleet: Fleet
    rng: random.Random
    tally: Tally
    verifying: int = 0
    """Executions that only verify: checks and juries."""
    convicted: set[int] | None = None
    false_slashes: int = 0
    trials: int = 0

    def run(self, jobs: int) -> None:
        """Run jobs until so many were accepted."""
        self.convicted = set()
        accepted = [0] * self.fleet.size
        audited = [0] * self.fleet.size
        number = done = 0
        while done < jobs:
            number += 1
            standing = [host for host in range(self.fleet.size) if host not in self.convicted]
            provider = self.rng.choice(standing)
            forged = self._forge(provider, number, accepted[provider])
            self.tally.executions += OUR_UNITS
            drawn = self._draw(provider, number, audited[provider])
            if self._is_convicted(provider, number, drawn, forged, standing):
                self.convicted.add(provider)
                self.false_slashes += not forged.any()
                continue
            done += 1
            accepted[provider] += 1
            audited[provider] += len(drawn)
            self.tally.accepted += OUR_UNITS
            self.tally.bad_accepted += int(forged.sum())
        self.tally.units = jobs * OUR_UNITS
        self.tally.executions += self.verifying

    def _forge(self, provider: int, number: int, accepted: int) -> npt.NDArray[np.bool_]:
        draw = np.random.default_rng((number, self.rng.getrandbits(32)))
        if provider >= self.fleet.bad:
            return np.zeros(OUR_UNITS, dtype=np.bool_)
        # The fleet's rule for one unit, asked often enough to know its rate at this trust.
        asked = [self.fleet.forge(self.rng, float(accepted)) for _ in range(400)]
        return draw.random(OUR_UNITS) < sum(asked) / len(asked)

    def _draw(self, provider: int, number: int, audited: int) -> tuple[int, ...]:
        owner, size = name_host(provider), size_sample(audited)
        return draw_sample(make_seed(number), owner, count=OUR_UNITS, size=size)

    def _is_convicted(
        self,
        provider: int,
        number: int,
        drawn: tuple[int, ...],
        forged: npt.NDArray[np.bool_],
        standing: list[int],
    ) -> bool:
        seed = make_seed(number)
        others = {name_host(host): host for host in standing if host != provider}
        for index in drawn:
            receipt = keccak256(seed + index.to_bytes(4, "big"))
            for turn in range(2 if is_overlapped(seed, receipt) else 1):
                self.verifying += 1
                chosen = assign_verifier(seed, receipt, list(others), turn=turn)
                is_forged = bool(forged[index])
                if chosen is not None and self._accuses(others[chosen], provider, is_forged):
                    if self._try(provider, standing, is_forged):
                        return True
        return False

    def _accuses(self, verifier: int, provider: int, is_forged: bool) -> bool:
        if not (self.fleet.colluding and verifier < self.fleet.bad):
            return is_forged
        return provider >= self.fleet.bad and self.rng.random() < SLANDER

    def _try(self, provider: int, standing: list[int], is_forged: bool) -> bool:
        """Go through all juries, since whoever loses appeals to the last; say what it decides."""
        self.trials += 1
        verdict = False
        for level, size in enumerate(JURY_SIZES):
            jury = self.rng.sample([host for host in standing if host != provider], size)
            self.verifying += size
            convicting = sum(self._votes_guilty(juror, provider, is_forged) for juror in jury)
            if convicting >= compute_quorum(level, size):
                verdict = True
            elif size - convicting >= compute_quorum(level, size):
                verdict = False
        return verdict

    def _votes_guilty(self, juror: int, provider: int, is_forged: bool) -> bool:
        if self.fleet.colluding and juror < self.fleet.bad:
            return provider >= self.fleet.bad
        return is_forged


def name_host(host: int) -> Address:
    """Give a host an address."""
    return Address(keccak256(host.to_bytes(4, "big"))[:20])


@lru_cache(maxsize=10_000)
def size_sample(audited: int) -> int:
    """Return the sample's size for a provider of whom so many units were checked and matched."""
    return compute_sample_size(
        POLICY, OUR_UNITS, price=UNIT_PRICE * OUR_UNITS, stake=0, audited=audited
    )


def run_market(fleet: Fleet, jobs: int, rng: random.Random) -> Market:
    """Run our scheme."""
    market = Market(fleet, rng, Tally())
    market.run(jobs)
    return market


# ---- all of it -----------------------------------------------------------------------------


def _at_random(share: float, *, after: float = 0.0) -> Forge:
    return lambda rng, trust: trust >= after and rng.random() < share


@dataclass(frozen=True, slots=True)
class Attack:
    """Attackers by name; a sleeper forges after so much trust, which each scheme counts its way."""

    name: str
    share: float
    is_sleeper: bool = False
    colluding: bool = False

    def make(self, after: float) -> Fleet:
        """Return the fleet for a scheme that trusts after so much."""
        forge = _at_random(self.share, after=after if self.is_sleeper else 0.0)
        return Fleet(HOSTS, BAD_HOSTS, forge, self.colluding)


ATTACKS: Final = (
    Attack("naive 5 %", 0.05),
    Attack("colluding 5 %", 0.05, colluding=True),
    Attack("sleeper 5 %", 0.05, is_sleeper=True),
    Attack("sleeper 50 %", 0.5, is_sleeper=True),
)
PEERS: Final = {
    "quorum of 2": (run_quorum, 0.0, 1),
    "BOINC adaptive": (run_adaptive, 40.0, 3),
    "iExec trust 100": (run_iexec, 310.0, 3),
}
"""Each with the trust a sleeper waits for, and by how much longer it is run to get there."""
OUR_TRUST: Final = 5.0


def compare(rounds: int) -> tuple[float, int]:
    """Print overhead and wrong results accepted, by attack; ours at its worst is returned."""
    worst_sleeper, false_slashes = 0.0, 0
    for attack in ATTACKS:
        for name, (scheme, after, longer) in PEERS.items():
            fleet = attack.make(after)
            units = PEER_UNITS * (longer if attack.is_sleeper else 1)
            tallies = [scheme(fleet, units, make_rng(n)) for n in range(rounds)]
            _show(attack.name, name, *average(tallies))
        fleet = attack.make(OUR_TRUST)
        markets = [run_market(fleet, OUR_JOBS, make_rng(n)) for n in range(rounds)]
        overhead, bad = average([market.tally for market in markets])
        caught = sum(len(market.convicted or ()) for market in markets) / rounds
        wrong = sum(market.false_slashes for market in markets)
        trials = sum(market.trials for market in markets)
        _show(attack.name, "ours, n 10,000", overhead, bad)
        print(f"{'':<16}{caught:.1f} of {BAD_HOSTS} convicted, {wrong} wrongly, in {trials} trials")
        false_slashes += wrong
        if attack.is_sleeper:
            worst_sleeper = max(worst_sleeper, bad)
    return worst_sleeper, false_slashes


def measure_overhead() -> float:
    """Return what verification costs in an honest fleet, over the work itself."""
    market = run_market(Fleet(HOSTS, 0, _at_random(0.0)), OUR_JOBS // 4, make_rng(0))
    return market.verifying / market.tally.units


def _show(attack: str, scheme: str, overhead: float, bad: float) -> None:
    line = f"{attack:<16}{scheme:<18}{overhead:>8.2%} overhead   {bad:.5%} wrong accepted"
    print(line, flush=True)


def run(rounds: int) -> Figures:
    """Measure, print, and return the figures that are held to their targets."""
    rounds = min(rounds, ROUNDS_MAX)
    print(f"share of {SEEDS} seeds that find a forgery, and how many sigma from theory")
    worst, headline = measure_detection()
    overhead = measure_overhead()
    print(f"honest fleet, n 10,000: verification costs {overhead:.3%} of the work")
    print(f"{HOSTS} hosts, {BAD_HOSTS} of them bad; rejected jobs are done again and counted")
    sleeper, false_slashes = compare(rounds)
    return {
        "worst_z": round(worst, 2),
        "detect_5pct_n10k_m90": headline,
        "overhead_n10k": round(overhead, 5),
        "bad_accepted_sleeper": sleeper,
        "false_slashes": false_slashes,
    }
