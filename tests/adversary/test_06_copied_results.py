"""
Attack 6: hand in what another provider computed.

Before results are opened there is nothing to copy: the hash that is public has a salt of 32 bytes
in it, and all outputs of a task with ten answers tried against it fit none, where without the salt
the answer would be read off at once. The hash itself, and an opened result, name their provider:
under another name the coordinator refuses them, and an audit fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from coordinator.core.effects import CloseSession
from coordinator.core.events import MessageReceived
from coordinator.core.lifecycle import JobState
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.ids import ZERO_HASH, Cid, Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.proof import CheckProof
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import (
    change,
    make_address,
    make_cid,
    make_hash,
    make_own_result,
    make_result,
    make_seal,
    make_spec,
    sign,
)
from gpumarket.testing.proofs import ProofMaker, make_chain_evidence, make_epochs, make_settled_job
from tests.coordinator_market import Market, PlayedProvider, list_sent, play_until

P1, COPIER = make_address("provider-1"), make_address("copier")
LABELS = [make_cid(f"label {number}") for number in range(10)]


# ---- before results are opened -------------------------------------------------------------


def guess_salts() -> Iterator[Hash32]:
    """What a copier might try: no salt, the default one, and those of a bad generator."""
    yield ZERO_HASH
    yield from (number.to_bytes(32, "big") for number in range(50))
    yield make_hash("salt")


def find_label(
    result: UnitResult, hidden: Hash32, hash_of: Callable[[UnitResult], Hash32]
) -> Cid | None:
    """Try every label with every guessed salt; the copier knows all else."""
    for label in LABELS:
        for salt in guess_salts():
            if hash_of(change(result, output=label, salt=salt)) == hidden:
                return label
    return None


@pytest.mark.parametrize("answer", LABELS)
def test_the_label_behind_a_result_hash_is_not_found_by_trying_all_ten(answer: Cid) -> None:
    result = make_result(output=answer, salt=make_hash(f"32 random bytes {answer!r}"))
    assert find_label(result, result.compute_hash(), UnitResult.compute_hash) is None

    def hash_unsalted(one: UnitResult) -> Hash32:
        return change(one, salt=ZERO_HASH).compute_hash()

    # The control: without the salt the very same search finds each label.
    assert find_label(result, hash_unsalted(result), hash_unsalted) == answer


@pytest.mark.parametrize("answer", LABELS)
def test_nor_is_a_verifiers_own_result_found_behind_its_seal(answer: Cid) -> None:
    own = make_own_result(output=answer, nonce=make_hash(f"32 random bytes {answer!r}"))
    sealed = make_seal(own).sealed
    tried = {
        change(own, output=label, nonce=nonce).compute_hash()
        for label in LABELS
        for nonce in guess_salts()
    }
    assert sealed not in tried and own.compute_hash() == sealed


# ---- at the coordinator --------------------------------------------------------------------


class Copier(PlayedProvider):
    """Puts the first provider's result hashes into its own receipts."""

    victim: PlayedProvider

    def run(self, lease: LeaseOffer, now: Timestamp) -> messages.UnitFinished:
        done = super().run(lease, now)
        copied = self.victim.run(change(lease, lease_id=make_hash(f"of {lease.unit}")), now)
        taken = copied.receipt.body.result_hash
        self.receipts[lease.lease_id] = change(self.receipts[lease.lease_id], result_hash=taken)
        return change(done, receipt=sign(self.receipts[lease.lease_id], self.name))


def as_it_is(copier: Copier, lease_id: Hash32) -> UnitResult:
    """The victim's result, with the victim's name."""
    unit = copier.results[lease_id].unit
    return copier.victim.results[make_hash(f"of {unit}")]


def under_own_name(copier: Copier, lease_id: Hash32) -> UnitResult:
    return change(as_it_is(copier, lease_id), provider=copier.address)


@pytest.mark.parametrize("claim", [as_it_is, under_own_name])
def test_a_copied_result_hash_can_be_committed_and_not_opened(
    claim: Callable[[Copier, Hash32], UnitResult],
) -> None:
    market = Market()
    copier = Copier("copier")
    copier.victim = PlayedProvider("provider-1")
    market.providers[COPIER] = copier
    market.join("copier", offer={"slots": 4})
    market.join_verifier(card={"slots": 4})
    job = market.submit(make_spec(units=2, verify=VerifyPolicy(mode="full")), checks=8)
    play_until(market, lambda m: list_sent(m.todo, messages.OpeningsRequested))
    (request,) = list_sent(market.todo, messages.OpeningsRequested)
    market.todo.clear()
    copier.results = {lease_id: claim(copier, lease_id) for lease_id in copier.results}
    opened = copier.open(request)
    refused = market.post(MessageReceived(at=market.now, sender=COPIER, message=opened))
    assert [type(effect) for effect in refused] == [CloseSession]
    market.todo.clear()
    market.join("provider-1", offer={"slots": 4})
    market.run(seconds_max=60)
    assert job.state is JobState.SETTLED and job.excluded == [COPIER]
    assert COPIER not in market.chain.sum_paid() and P1 in market.chain.sum_paid()


# ---- in the audit --------------------------------------------------------------------------


def steal(opening: Opening, *, under: str) -> Opening:
    """Return another provider's opening, of its result or of the same under its own name."""
    result = change(opening.result, provider=make_address(under))
    return change(opening, result=result)


@pytest.mark.parametrize("signer", ["provider-1", "provider-2"])
@pytest.mark.parametrize("under", ["provider-1", "provider-2"])
def test_an_opening_of_anothers_result_fails_the_audit(signer: str, under: str) -> None:
    epochs = make_epochs(ProofMaker())

    def copy(check: CheckProof) -> CheckProof:
        opening = steal(check.opening.body, under=under)
        evidence = change(check.evidence, opening_hash=compute_content_hash(opening))
        body = change(check.attestation.body, evidence_hash=compute_content_hash(evidence))
        return change(
            check,
            opening=sign(opening, signer),
            evidence=evidence,
            attestation=sign(body, "verifier-1"),
        )

    checks = [each if each.opening.signer != P1 else copy(each) for each in epochs[0].checks]
    copied = (change(epochs[0], checks=tuple(checks)), epochs[1])
    report = check_proof(*_audit(copied))
    if signer == under == "provider-1":
        assert report.verdict is AuditVerdict.PASS, "nothing was copied"
    else:
        failed = {check.name for check in report.checks if check.verdict is AuditVerdict.FAIL}
        assert failed & {"openings", "verifiers"}, report


def _audit(epochs):
    proof, facts = make_settled_job(epochs=epochs)
    return proof, make_chain_evidence(facts)
