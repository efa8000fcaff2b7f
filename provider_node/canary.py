"""
The operator's own provider: forges some of what its operator orders, to test verifiers.

It runs every task honestly first. What a secret picks it then makes wrong, and says so to the
coordinator with the receipt; nobody else can tell. What others order is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from gpumarket.adapters.output_files import compare_folders
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.canaries import CanaryNote
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.comparison import BytesRule, JsonRule, NpyRule
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import PrivateKey, encode_uint, keccak256
from gpumarket.protocol.units import PPM

_SECRET_TAG: Final = keccak256(b"gpumarket.canary-secret.v1")
_PICK_TAG: Final = b"gpumarket.canary-pick.v1"
_SALT_TAG: Final = b"gpumarket.canary-salt.v1"
_RULES: Final = (BytesRule, NpyRule, JsonRule)
"""Those whose files we can make wrong, and compare without the job's program."""
NOISE: Final = 0.2
"""Of the spread of an array's values: far over any tolerance, and not to be seen by eye."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is on disk of a forged task."""

    honest: Cid


class Canary:
    """Decides which tasks are forged, forges them, and remembers what they should have been."""

    def __init__(
        self,
        *,
        key: PrivateKey,
        requesters: frozenset[Address],
        share_ppm: int,
        folder: Path,
    ) -> None:
        """Forge this share of what `requesters` order; the secret is the key's, and stays so."""
        self._secret = keccak256(key.sign_digest(_SECRET_TAG))
        self._requesters = requesters
        self._share_ppm = share_ppm
        self._folder = folder

    def picks(self, lease: LeaseOffer) -> bool:
        """Say whether a task is forged; what is done again after that is done right."""
        order, job = lease.order.body, lease.job
        if order.requester not in self._requesters or lease.attempt or job.checkpoint is not None:
            return False
        if not isinstance(job.verify.comparison, _RULES):
            return False
        drawn = self._derive(_PICK_TAG, order.compute_struct_hash() + encode_uint(lease.unit))
        return int.from_bytes(drawn, "big") % PPM < self._share_ppm

    def forge(self, lease: LeaseOffer, output: Path, honest: Cid) -> bool:
        """
        Make an output wrong where it lies; say whether that was possible.

        Only what the job's own rule calls a mismatch counts: an honest verifier must not miss it.
        """
        forged = self._folder / f"{lease.lease_id.hex()}.output"
        shutil.rmtree(forged, ignore_errors=True)
        shutil.copytree(output, forged)
        seed = int.from_bytes(self._derive(_PICK_TAG, lease.lease_id)[:8], "big")
        for path in sorted(path for path in forged.rglob("*") if path.is_file()):
            _disturb(path, np.random.default_rng(seed))
        found = compare_folders(output, forged, lease.job.verify.comparison, base=None)
        is_forged = found.verdict is Verdict.MISMATCH
        if is_forged:
            # First the note: without it the same output would be a fraud.
            kept = self._find_file(lease.lease_id)
            kept.write_bytes(encode_document(_Kept(honest=honest)))
            shutil.rmtree(output)
            shutil.copytree(forged, output)
        shutil.rmtree(forged)
        return is_forged

    def make_note(self, lease_id: Hash32, receipt: Receipt) -> CanaryNote | None:
        """Return what to say of a receipt: nothing where its task was done right."""
        path = self._find_file(lease_id)
        if not path.is_file():
            return None
        kept = decode_document_untrusted(path.read_bytes(), _Kept)
        return CanaryNote(
            receipt_hash=receipt.compute_struct_hash(),
            honest=kept.honest,
            salt=self._derive(_SALT_TAG, lease_id),
        )

    def forget(self, lease_id: Hash32) -> None:
        """Let go of a lease that is over for good."""
        self._find_file(lease_id).unlink(missing_ok=True)

    def _derive(self, tag: bytes, name: bytes) -> Hash32:
        return keccak256(tag + self._secret + name)

    def _find_file(self, lease_id: Hash32) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / lease_id.hex()


# ---- wrong outputs -------------------------------------------------------------------------


def _disturb(path: Path, noise: np.random.Generator) -> None:
    if path.suffix == ".npy":
        _disturb_array(path, noise)
        return
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    is_json = path.suffix == ".json"
    path.write_text(_disturb_json(text) if is_json else _disturb_text(text))


def _disturb_array(path: Path, noise: np.random.Generator) -> None:
    array: Any = np.load(path, allow_pickle=False)
    if array.dtype.kind == "f":
        spread = float(array.std()) + 1e-3
        array = (array + noise.normal(0, NOISE * spread, array.shape)).astype(array.dtype)
    elif array.dtype.kind in "iu":
        array = array + array.dtype.type(1)
    elif array.dtype.kind == "b":
        array = ~array
    np.save(path, array)


def _disturb_json(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return _disturb_text(text)
    # Counts and positions are known without any work: they change only where all is counted.
    changed = _change_numbers(value, lambda number: isinstance(number, float))
    if changed == value:
        changed = _change_numbers(value, lambda number: True)
    return json.dumps(changed, sort_keys=True) + "\n"


def _change_numbers(value: Any, is_changed: Callable[[int | float], bool]) -> Any:
    if isinstance(value, dict):
        return {name: _change_numbers(item, is_changed) for name, item in value.items()}
    if isinstance(value, list):
        return [_change_numbers(item, is_changed) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_changed(value):
        return value
    return value + 1 if isinstance(value, int) else value * (1 + NOISE) + 1e-3


def _disturb_text(text: str) -> str:
    digits = str.maketrans("0123456789", "1234567891")
    changed = text.translate(digits)
    return changed if changed != text else text.swapcase()
