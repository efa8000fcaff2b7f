"""
Epochs: finished work is agreed on, committed on chain, and only then given a seed.

Each provider signs the root over its own receipts, so that nobody can put words into its
mouth; the coordinator commits to all of these roots at once. What is sampled depends on a seed
that does not exist yet.
"""

from __future__ import annotations

from coordinator.core.canaries import close_canaries, commit_notes, return_notes
from coordinator.core.effects import CommitEpoch, DrawNonce, Effect, FixSeed, SendMessage
from coordinator.core.epoch_state import Epoch, Part, move_epoch, move_part
from coordinator.core.events import ChainRefused, EpochCommitted, NonceDrawn, SeedFixed
from coordinator.core.leases import end_with_failure, put_in_pool
from coordinator.core.lifecycle import EpochState, PartStage, UnitState
from coordinator.core.order_book import is_eligible
from coordinator.core.pools import find_policy, make_pools
from coordinator.core.state import Lease, State, get_receipt, note_facts, set_timer, write_log
from gpumarket.protocol import messages, pools
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32, format_hex, format_short
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.pools import sort_leaf
from gpumarket.protocol.proof import EpochDocument, ProviderWork, compute_epoch_root
from gpumarket.protocol.receipt import ProviderRoot
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.signing import Signed, keccak256, verify
from gpumarket.protocol.units import Amount, Timestamp

_UNSIGNED = Reason(
    code="GM-7103", text="the provider did not sign its root in time", fault="provider"
)


# ---- opening -------------------------------------------------------------------------------


def open_due_epochs(state: State) -> list[Effect]:
    """Open an epoch over the waiting receipts as often as one is due."""
    effects: list[Effect] = []
    while len(state.open_epochs) < state.settings.epochs_open_max and _is_due(state):
        effects += _open_epoch(state)
    return effects


def _is_due(state: State) -> bool:
    settings = state.settings
    if not state.pool:
        return False
    oldest = next(iter(state.pool.values()))
    if len(state.pool) >= settings.epoch_receipts_max:
        return True
    if oldest + settings.epoch_seconds <= state.now:
        return True
    orders = {state.leases[lease_id].order_hash for lease_id in state.pool}
    return any(_has_no_more_to_come(state, order) for order in orders)


def _has_no_more_to_come(state: State, order_hash: Hash32) -> bool:
    job = state.jobs[order_hash]
    if job.counts[UnitState.LEASED]:
        return False
    return job.reason is not None or job.counts[UnitState.WAITING] == 0


def _open_epoch(state: State) -> list[Effect]:
    number = state.next_epoch
    state.next_epoch += 1
    chosen = list(state.pool)[: state.settings.epoch_receipts_max]
    by_provider: dict[Address, list[Lease]] = {}
    for lease_id in chosen:
        del state.pool[lease_id]
        lease = state.leases[lease_id]
        lease.epoch = number
        by_provider.setdefault(lease.provider, []).append(lease)
    root_by = Timestamp(state.now + state.settings.root_seconds)
    epoch = Epoch(
        number=number,
        opened_at=state.now,
        root_by=root_by,
        parts={
            provider: _make_part(state, number, provider, leases)
            for provider, leases in sorted(by_provider.items())
        },
    )
    state.epochs[number] = epoch
    state.open_epochs.append(number)
    set_timer(state, root_by, "root", key=_make_key(number))
    if state.pool:
        set_timer(state, next(iter(state.pool.values())) + state.settings.epoch_seconds, "pool")
    for order_hash in {state.leases[lease_id].order_hash: None for lease_id in chosen}:
        job = state.jobs[order_hash]
        job.epochs.append(number)
        count = sum(1 for lease_id in chosen if state.leases[lease_id].order_hash == order_hash)
        write_log(
            state,
            job,
            "epoch-opened",
            text=f"{count} results are in, each hidden and signed (epoch {number})",
        )
    requests: list[Effect] = [request_root(epoch, provider) for provider in epoch.parts]
    return [*requests, DrawNonce(epoch=number)]


def _make_part(state: State, number: int, provider: Address, leases: list[Lease]) -> Part:
    leases.sort(
        key=lambda lease: sort_leaf(find_policy(state, lease), lease.order_hash, lease.unit)
    )
    receipts = [get_receipt(lease).body for lease in leases]
    return Part(
        lease_ids=tuple(lease.lease_id for lease in leases),
        pools=make_pools(state, leases),
        expected=ProviderRoot(
            coordinator=state.settings.coordinator,
            epoch=number,
            provider=provider,
            root=compute_root([receipt.result_hash for receipt in receipts]),
            count=len(receipts),
            price=sum(receipt.price for receipt in receipts),
            duration_ms=sum(lease.duration_ms for lease in leases),
        ),
        deadline=Timestamp(state.now + state.settings.root_seconds),
        open_orders=list(dict.fromkeys(lease.order_hash for lease in leases)),
    )


def request_root(epoch: Epoch, provider: Address) -> SendMessage:
    """Return the message that asks a provider to sign its root, now or again."""
    message = messages.RootRequested(epoch=epoch.number, lease_ids=epoch.parts[provider].lease_ids)
    return SendMessage(recipient=provider, message=message)


def _make_key(number: int) -> bytes:
    return number.to_bytes(8, "big")


# ---- collecting roots ----------------------------------------------------------------------


def take_root(state: State, sender: Address, message: messages.RootSigned) -> list[Effect]:
    """Take a provider's signed root, which must be what we computed ourselves."""
    root = verify(message.root, state.settings.domain)
    if not sender == root.signer == root.body.provider:
        raise RemoteProtocolError("a root is signed by somebody else than its provider")
    epoch = state.epochs.get(root.body.epoch)
    part = epoch.parts.get(sender) if epoch else None
    if epoch is None or part is None or part.stage is not PartStage.SIGNING:
        return []
    if root.body != part.expected:
        raise RemoteProtocolError("a provider's root is not over the receipts it was shown")
    part.signed = message.root
    move_part(part, PartStage.SIGNED)
    return try_commit(state, epoch)


def expire_roots(state: State, key: bytes) -> list[Effect]:
    """Go on without the providers that did not sign: their tasks are done again."""
    epoch = state.epochs.get(int.from_bytes(key, "big"))
    if epoch is None or epoch.state is not EpochState.COLLECTING or epoch.root_by > state.now:
        return []
    effects: list[Effect] = []
    for provider, part in epoch.parts.items():
        if part.stage is PartStage.SIGNING:
            effects += _drop_part(state, provider, part)
    return effects + try_commit(state, epoch)


def _drop_part(state: State, provider: Address, part: Part) -> list[Effect]:
    effects: list[Effect] = []
    note_facts(state, provider).withheld += 1
    move_part(part, PartStage.CLOSED)
    part.reason = _UNSIGNED
    part.open_orders = []
    part.rejected = list(part.lease_ids)
    for lease_id in part.lease_ids:
        lease = state.leases[lease_id]
        if lease.state is LeaseState.FINISHED:
            effects += end_with_failure(state, lease, _UNSIGNED, log_type="rejected")
    return effects


def take_nonce(state: State, event: NonceDrawn) -> list[Effect]:
    """Keep the secrets of an epoch until they are due; others are not wanted then."""
    epoch = state.epochs.get(event.epoch)
    if epoch is None or epoch.nonce is not None or epoch.state is not EpochState.COLLECTING:
        return []
    epoch.nonce, epoch.canary_salt = event.nonce, event.canary_salt
    return try_commit(state, epoch)


# ---- commitment and seed -------------------------------------------------------------------


def try_commit(state: State, epoch: Epoch) -> list[Effect]:
    """Commit once every provider has signed or was left out and the nonce is drawn."""
    stages = {part.stage for part in epoch.parts.values()}
    if epoch.state is not EpochState.COLLECTING or PartStage.SIGNING in stages:
        return []
    if PartStage.SIGNED not in stages:
        close_epoch(state, epoch)
        return []
    if epoch.nonce is None:
        return []
    epoch.eligible = tuple(
        verifier.card
        for _, verifier in sorted(state.verifiers.items())
        if is_eligible(state, verifier)
    )
    for provider, part in epoch.parts.items():
        known, standing = state.providers.get(provider), state.standings.get(provider)
        part.stake = Amount(min(known.stake, state.settings.stake_slash) if known else 0)
        part.audited = standing.audited if standing else 0
    epoch.document = _make_document(state, epoch)
    move_epoch(epoch, EpochState.COMMITTING)
    return [make_commit(epoch)]


def make_commit(epoch: Epoch) -> CommitEpoch:
    """Return the effect that puts an epoch's root on chain, now or again."""
    document = get_document(epoch)
    return CommitEpoch(
        epoch=epoch.number,
        root=compute_epoch_root(document),
        nonce_hash=keccak256(_get_nonce(epoch)),
        document=document,
    )


def get_document(epoch: Epoch) -> EpochDocument:
    """Return what is published behind an epoch's commitment."""
    if epoch.document is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no document")
    return epoch.document


def _make_document(state: State, epoch: Epoch) -> EpochDocument:
    work = tuple(
        _make_work(part.signed, part, [state.leases[lease_id] for lease_id in part.lease_ids])
        for part in epoch.parts.values()
        if part.signed is not None
    )
    return EpochDocument(
        coordinator=state.settings.coordinator,
        epoch=epoch.number,
        work=work,
        verifiers=epoch.eligible,
        canaries=commit_notes(state, epoch),
    )


def _make_work(root: Signed[ProviderRoot], part: Part, leases: list[Lease]) -> ProviderWork:
    policies = {lease_id: pool.policy for pool in part.pools for lease_id in pool.lease_ids}
    receipts = tuple(get_receipt(lease) for lease in leases)
    return ProviderWork(
        root=root,
        receipts=receipts,
        pools=pools.make_pools(
            (policies[lease.lease_id], receipt.body.price)
            for lease, receipt in zip(leases, receipts, strict=True)
        ),
        stake=part.stake,
        audited=part.audited,
    )


def take_commitment(state: State, event: EpochCommitted) -> list[Effect]:
    """Note where the commitment is on chain and ask for its seed."""
    epoch = state.epochs.get(event.epoch)
    if epoch is None or epoch.state is not EpochState.COMMITTING:
        return []
    epoch.sequence, epoch.block, epoch.commit_tx = event.sequence, event.block, event.tx
    epoch.problem = ""
    move_epoch(epoch, EpochState.SEEDING)
    _log_for_jobs(
        state,
        epoch,
        "committed",
        f"their root is on chain in block {event.block}, before anybody knows the sample",
    )
    return [make_seed_request(epoch)]


def make_seed_request(epoch: Epoch) -> FixSeed:
    """Return the effect that fixes an epoch's seed, now or again."""
    if epoch.sequence is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no commitment to seed")
    return FixSeed(
        epoch=epoch.number,
        sequence=epoch.sequence,
        block=epoch.block,
        nonces=_get_nonce(epoch),
    )


def take_seed(state: State, event: SeedFixed) -> bool:
    """
    Note the seed if it is the one that the chain's rule gives; say whether it was taken.

    A seed without our nonce is possible: anybody may fix one when we are late.
    """
    epoch = state.epochs.get(event.epoch)
    if epoch is None or epoch.state is not EpochState.SEEDING or epoch.sequence is None:
        return False
    for nonces in (_get_nonce(epoch), b""):
        seed = compute_seed(
            chain_id=state.settings.domain.chain_id,
            contract=state.settings.domain.contract,
            committer=state.settings.coordinator,
            sequence=epoch.sequence,
            root=compute_epoch_root(get_document(epoch)),
            mix_hash=event.mix_hash,
            nonces=nonces,
        )
        if seed == event.seed:
            break
    else:
        epoch.problem = "the chain's seed is not what its rule gives"
        set_timer(
            state, state.now + state.settings.retry_seconds, "chain", key=_make_key(event.epoch)
        )
        return False
    epoch.seed, epoch.mix_hash, epoch.seed_nonces = event.seed, event.mix_hash, nonces
    epoch.seed_block, epoch.header_rlp, epoch.seed_tx = event.block, event.header_rlp, event.tx
    epoch.problem = ""
    move_epoch(epoch, EpochState.CHECKING)
    _log_for_jobs(
        state,
        epoch,
        "seeded",
        f"block {event.block} gives the seed {format_hex(event.seed)[:10]}…: the sample is drawn",
    )
    return True


def refuse_call(state: State, event: ChainRefused) -> list[Effect]:
    """Try a commitment or seed again later; without a seed for good, a later epoch must do."""
    epoch = state.epochs.get(event.epoch)
    stuck = {"commit": EpochState.COMMITTING, "seed": EpochState.SEEDING}.get(event.call)
    if epoch is None or epoch.state is not stuck:
        return []
    if epoch.problem != event.text:
        _log_for_jobs(state, epoch, "chain-refused", f"{event.call}: {event.text}")
    epoch.problem = event.text
    if event.call == "seed" and event.is_final:
        _dissolve(state, epoch)
        return []
    set_timer(state, state.now + state.settings.retry_seconds, "chain", key=_make_key(event.epoch))
    return []


def retry_call(state: State, key: bytes) -> list[Effect]:
    """Issue again the chain call that an epoch waits for."""
    epoch = state.epochs.get(int.from_bytes(key, "big"))
    if epoch is not None and epoch.state is EpochState.COMMITTING:
        return [make_commit(epoch)]
    if epoch is not None and epoch.state is EpochState.SEEDING:
        return [make_seed_request(epoch)]
    return []


def close_epoch(state: State, epoch: Epoch) -> None:
    """Close an epoch for good; its record stays for proofs."""
    move_epoch(epoch, EpochState.CLOSED)
    state.open_epochs.remove(epoch.number)
    close_canaries(state, epoch)
    for key, check in epoch.checks.items():
        state.check_epochs.pop(check.receipt_hash, None)
        state.waiting_checks.pop(key, None)


def _dissolve(state: State, epoch: Epoch) -> None:
    for part in epoch.parts.values():
        if part.stage is PartStage.CLOSED:
            continue
        move_part(part, PartStage.CLOSED)
        part.open_orders = []
        for lease_id in part.lease_ids:
            lease = state.leases[lease_id]
            if lease.state is LeaseState.FINISHED:
                lease.epoch = None
                put_in_pool(state, lease)
                return_notes(state, epoch, lease)
    close_epoch(state, epoch)


def _get_nonce(epoch: Epoch) -> bytes:
    if epoch.nonce is None:
        raise LocalProtocolError(f"epoch {epoch.number} has no nonce")
    return epoch.nonce


def _log_for_jobs(state: State, epoch: Epoch, type_: str, text: str) -> None:
    orders = {
        state.leases[lease_id].order_hash: None
        for part in epoch.parts.values()
        for lease_id in part.lease_ids
    }
    for order_hash in orders:
        job = state.jobs[order_hash]
        if not job.is_over:
            write_log(state, job, type_, text=text)


def describe_missing_roots(epoch: Epoch) -> str:
    """Name the providers whose signature an epoch waits for."""
    missing = [format_short(p) for p, part in epoch.parts.items() if part.signed is None]
    return ", ".join(missing)
