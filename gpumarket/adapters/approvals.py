"""
Approvals on disk: one file a receipt, `approvals/<receipt hash>.json`, written whole.

Whoever gets one puts it there: the running node what its coordinators relay, its owner's command
what came by hand. The watchtower reads them. A file that is older than any order can be is swept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gpumarket.adapters.first_blocks import replace_file
from gpumarket.protocol.approvals import (
    APPROVAL_BYTES_MAX,
    Approval,
    check_approval,
    decode_approval_untrusted,
)
from gpumarket.protocol.codec import to_dag_json
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.order import Order
from gpumarket.protocol.signing import Domain

FOLDER_NAME: Final = "approvals"


class ApprovalFolder:
    """A provider's approvals, in its data folder."""

    def __init__(self, data_dir: Path, *, domain: Domain) -> None:
        self._folder = data_dir / FOLDER_NAME
        self._domain = domain

    def keep(self, approval: Approval, order: Order) -> bool:
        """
        Write down what is new of a checked approval, durably; say whether anything was.

        Raises `RemoteProtocolError` where `check_approval` does: nothing else lands here.
        """
        check_approval(approval, order=order, domain=self._domain)
        known = self.find(approval.receipt_hash, order)
        merged = approval if known is None else known.merge(approval)
        if merged == known:
            return False
        self._folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._find_path(approval.receipt_hash), to_dag_json(merged).encode())
        return True

    def find(self, receipt_hash: Hash32, order: Order) -> Approval | None:
        """Return what approves a receipt of an order, if it is here and right."""
        try:
            with self._find_path(receipt_hash).open("rb") as file:
                data = file.read(APPROVAL_BYTES_MAX + 1)
        except OSError:
            return None
        try:
            approval = decode_approval_untrusted(data)
            check_approval(approval, order=order, domain=self._domain)
        except RemoteProtocolError:
            return None
        return approval if approval.receipt_hash == receipt_hash else None

    def sweep(self, *, before: float) -> int:
        """Remove what was written before a unix time; return how many that were."""
        removed = 0
        for path in list(self._folder.glob("*")):
            if path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _find_path(self, receipt_hash: Hash32) -> Path:
        return self._folder / f"{receipt_hash.hex()}.json"
