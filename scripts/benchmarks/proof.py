"""
One proof file of a job of 10,000 tasks: its size, how long its audit takes, and what it lets pass.

The job is real: 10,000 signed results, committed, seeded, sampled, checked by twelve verifiers and
settled on an anvil of its own, whose state proofs anchor the file. The audit is the one of
`gpumarket audit verify FILE --trust-block HASH`, from bytes to verdict; its opponent, in the same
run, is sha256 of the same bytes. Then the file is changed 100,000 times and audited each time.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from gpumarket.adapters.artifacts import load_compiled
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.state_proofs import StateProver
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.anchoring import Compiled
from gpumarket.protocol.audit import check_proof, iterate_checks
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.evidence import AuditVerdict, Report
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.chain_jobs import settle_job
from gpumarket.testing.large_proofs import make_large_maker
from gpumarket.testing.mutations import Mutator
from scripts.benchmarks import Figures

UNITS: Final = 10_000
CHECKED: Final = 90
VERIFIERS: Final = 12
BYTES_MAX: Final = 204_800
MUTATIONS: Final = 100_000
PROCESSES: Final = 2
CHUNK: Final = 500
HASHES_TIMED: Final = 200


@dataclass(frozen=True, slots=True)
class Case:
    """A file, and the one thing that its auditor trusts."""

    data: bytes
    trusted: Hash32
    compiled: Compiled

    def audit(self, data: bytes) -> Report:
        """Audit bytes as the command does; raise where they are no proof."""
        proof = decode_proof_untrusted(data)
        return check_proof(proof, derive_evidence(proof, self.compiled, trusted=self.trusted))


def run(rounds: int) -> Figures:
    """Build the file, time its audit so often, change it; print and return the figures."""
    case = make_case(UNITS)
    report = case.audit(case.data)
    checked = next(check.text for check in report.checks if check.name == "claim")
    print(f"file         {len(case.data):,} bytes, at most {BYTES_MAX:,}")
    print(f"audit        {report.verdict.value}: {checked}")
    if report.verdict is not AuditVerdict.PASS:
        raise RuntimeError(f"the honest file does not pass: {report}")
    verify_s, hash_s = time_audit(case, rounds)
    ratio = verify_s / hash_s
    print(f"verify       {verify_s * 1e3:.1f} ms CPU, median of {rounds}")
    print(f"sha256       {hash_s * 1e6:.1f} us CPU of the same bytes; ratio {ratio:.0f}")
    accepted, reasons = count_accepted(case, MUTATIONS)
    print(f"changed      {MUTATIONS:,} times, accepted {accepted}")
    for reason, count in reasons.most_common(12):
        print(f"             {count:>7,} {reason}")
    return {
        "bytes": len(case.data),
        "verify_ratio": round(ratio, 1),
        "verify_ms": round(verify_s * 1e3, 2),
        "mutations_accepted": accepted,
        "mutations": MUTATIONS,
    }


def make_case(
    units: int,
    *,
    policy: VerifyPolicy | None = None,
    verifiers: int = VERIFIERS,
    late: tuple[str, ...] = (),
) -> Case:
    """
    Settle a job of so many units on a chain of its own and return its small, anchored proof.

    Verifiers who are `late` stake after the job's work is committed.
    """

    async def settle(url: str) -> tuple[bytes, Hash32]:
        maker = make_large_maker(units, verifiers=verifiers, policy=policy or VerifyPolicy())
        proof = compact_proof(await settle_job(url, maker, late=late))
        chain = Chain(rpc_url=url, contract=proof.domain.contract)
        anchored, trusted = await StateProver(chain).anchor(proof)
        return encode_proof(anchored), trusted

    with tempfile.TemporaryDirectory(prefix="bench-") as name, run_anvil(Path(name)) as url:
        data, trusted = trio.run(settle, url)
    return Case(data, trusted, load_compiled())


def time_audit(case: Case, rounds: int) -> tuple[float, float]:
    """Return the median CPU seconds of an audit and of a hash of the same bytes, by turns."""
    audits, hashes = [], []
    for _ in range(max(3, rounds)):
        forget()
        start = time.process_time()
        case.audit(case.data)
        audits.append(time.process_time() - start)
        start = time.process_time()
        for _ in range(HASHES_TIMED):
            hashlib.sha256(case.data).digest()
        hashes.append((time.process_time() - start) / HASHES_TIMED)
    return statistics.median(audits), statistics.median(hashes)


def forget() -> None:
    """Empty what the library remembers, so that each audit is as the first of a process."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gpumarket.protocol."):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


# ---- changes -------------------------------------------------------------------------------

_shared: list[Case] = []


def count_accepted(case: Case, mutations: int) -> tuple[int, Counter[str]]:
    """Change a file so often and return how many passed, and why the others did not."""
    chunks = [(seed, min(CHUNK, mutations - seed)) for seed in range(0, mutations, CHUNK)]
    accepted, done, reasons = 0, 0, Counter[str]()
    context = multiprocessing.get_context("fork")
    with context.Pool(PROCESSES, initializer=_shared.append, initargs=(case,)) as pool:
        for passed, found in pool.imap_unordered(_try_chunk, chunks):
            for what in passed:
                print(f"ACCEPTED     {what}", flush=True)
            accepted += len(passed)
            reasons += found
            done += CHUNK
            if done % (CHUNK * 20) == 0:
                print(f"             {min(done, mutations):,} of {mutations:,}", flush=True)
    return accepted, reasons


def _try_chunk(chunk: tuple[int, int]) -> tuple[list[str], Counter[str]]:
    case, (seed, count) = _shared[0], chunk
    mutator, passed, reasons = Mutator(case.data, seed), [], Counter[str]()
    for _ in range(count):
        what, data = mutator.mutate()
        reason = find_refusal(case, data)
        if reason is None:
            passed.append(what)
        else:
            reasons[reason] += 1
    return passed, reasons


def find_refusal(case: Case, data: bytes) -> str | None:
    """Return the name of what refuses these bytes, or None where they pass."""
    try:
        proof = decode_proof_untrusted(data)
        evidence = derive_evidence(proof, case.compiled, trusted=case.trusted)
    except GpuMarketError:
        return "not a proof"
    for check in iterate_checks(proof, evidence):
        if check.verdict is not AuditVerdict.PASS:
            return check.name
    return None
