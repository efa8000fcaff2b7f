"""Fees, nonces and next steps of a transaction, and what is remembered of first tries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from web3.exceptions import ContractCustomError, ContractLogicError

from gpumarket.adapters.chain_errors import (
    ChainSilent,
    ContractRefused,
    decode_refusal,
    index_errors,
    translate_error,
)
from gpumarket.adapters.first_blocks import DEEDS_MAX, REORG_BLOCKS, FirstBlocks
from gpumarket.adapters.transaction_rules import (
    READINGS,
    Fees,
    Patience,
    Refusal,
    Seen,
    Step,
    bump_fees,
    classify_refusal,
    compute_fees,
    decide_step,
    find_free_nonce,
)
from gpumarket.adapters.transactions import Sender, _Transaction

GWEI = 10**9
FAR = 10**18
PATIENCE = Patience(confirmations=2, bump_seconds=15, bump_blocks=2)

# ---- fees ----------------------------------------------------------------------------------


def test_a_first_offer_holds_while_the_base_fee_doubles() -> None:
    assert compute_fees(30 * GWEI, GWEI) == Fees(cap=61 * GWEI, tip=GWEI)


@pytest.mark.parametrize("fees", [Fees(9, 1), Fees(61 * GWEI, GWEI), Fees(7, 0), Fees(8, 8)])
def test_a_bump_raises_both_fees_by_an_eighth_at_least(fees: Fees) -> None:
    bumped = bump_fees(fees, market=Fees(0, 0), cap_max=FAR)
    assert bumped is not None
    assert bumped.cap * 8 >= fees.cap * 9 and bumped.tip * 8 >= fees.tip * 9
    assert bumped.tip > fees.tip  # a tip of nothing must rise as well
    assert bumped.tip <= bumped.cap


def test_a_bump_goes_to_the_market_where_that_is_higher() -> None:
    assert bump_fees(Fees(10, 1), market=Fees(50, 5), cap_max=FAR) == Fees(50, 5)


def test_the_cap_binds_the_market_and_ends_the_bumping() -> None:
    assert bump_fees(Fees(80, 10), market=Fees(500, 90), cap_max=100) == Fees(100, 90)
    assert bump_fees(Fees(80, 10), market=Fees(80, 10), cap_max=90) == Fees(90, 12)
    assert bump_fees(Fees(80, 10), market=Fees(500, 90), cap_max=89) is None


# ---- nonces and words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mined", "own", "nonce"), [(5, (), 5), (5, (5, 6), 7), (5, (6,), 5), (7, (5, 6), 7)]
)
def test_the_nonce_is_the_lowest_that_is_free(mined: int, own: tuple[int, ...], nonce: int) -> None:
    assert find_free_nonce(mined, frozenset(own)) == nonce


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("already known", Refusal.KNOWN),
        ("transaction already imported", Refusal.KNOWN),
        ("nonce too low: next nonce 5, tx nonce 4", Refusal.NONCE_USED),
        ("replacement transaction underpriced", Refusal.UNDERPRICED),
        ("transaction underpriced: tip needed 1, tip permitted 0", Refusal.UNDERPRICED),
        ("max fee per gas less than block base fee: address 0x1", Refusal.UNDERPRICED),
        ("Insufficient funds for gas * price + value", Refusal.POOR),
        ("gas required exceeds allowance (0)", Refusal.POOR),
        ("intrinsic gas too low", Refusal.OTHER),
        ("exceeds block gas limit", Refusal.OTHER),
    ],
)
def test_what_nodes_say_is_understood(text: str, refusal: Refusal) -> None:
    assert classify_refusal(text) is refusal


# ---- the next step -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (Seen(head=9), Step.WAIT),
        (Seen(head=9, mined_in=8), Step.WAIT),
        (Seen(head=10, mined_in=8), Step.DONE),
        (Seen(head=9, is_dropped=True), Step.REPEAT),
        # Mined outranks everything that nodes say.
        (Seen(head=10, mined_in=8, is_nonce_used=True, taken_readings=99), Step.DONE),
        (Seen(head=9, is_nonce_used=True, taken_readings=READINGS - 1), Step.WAIT),
        (Seen(head=9, is_nonce_used=True, taken_readings=READINGS), Step.LOST),
        # Used, but perhaps by a version whose receipt the node does not show yet.
        (Seen(head=9, is_nonce_used=True, priced_seconds=99, priced_blocks=9), Step.WAIT),
        (Seen(head=9, priced_seconds=14, priced_blocks=9), Step.WAIT),
        (Seen(head=9, priced_seconds=15, priced_blocks=2), Step.BUMP),
        (Seen(head=9, priced_seconds=99, priced_blocks=1, handed_seconds=14), Step.WAIT),
        (Seen(head=9, priced_seconds=99, priced_blocks=1, handed_seconds=15), Step.REPEAT),
        # A deadline that is far changes nothing; the nearer, the sooner a version is replaced.
        (Seen(head=9, left_seconds=60, priced_seconds=14, priced_blocks=2), Step.WAIT),
        (Seen(head=9, left_seconds=60, priced_seconds=15, priced_blocks=1), Step.WAIT),
        (Seen(head=9, left_seconds=40, priced_seconds=9, priced_blocks=1), Step.WAIT),
        (Seen(head=9, left_seconds=40, priced_seconds=10, priced_blocks=0), Step.WAIT),
        (Seen(head=9, left_seconds=40, priced_seconds=10, priced_blocks=1), Step.BUMP),
        # From then on only something empty goes out.
        (Seen(head=9, left_seconds=0), Step.CANCEL),
        (Seen(head=9, left_seconds=-1, is_dropped=True), Step.CANCEL),
        (Seen(head=9, left_seconds=-1, priced_blocks=9, handed_seconds=99), Step.CANCEL),
        (Seen(head=9, left_seconds=-1, is_cancelled=True, handed_seconds=14), Step.WAIT),
        (Seen(head=9, left_seconds=-1, is_cancelled=True, priced_blocks=1), Step.BUMP),
        (Seen(head=9, left_seconds=-1, is_cancelled=True, is_dropped=True), Step.REPEAT),
        # What was mined in time is not taken back, nor can a stranger be.
        (Seen(head=10, mined_in=8, left_seconds=-9), Step.DONE),
        (Seen(head=9, mined_in=8, left_seconds=-9), Step.WAIT),
        (Seen(head=9, left_seconds=-9, is_nonce_used=True), Step.WAIT),
        (Seen(head=9, left_seconds=-9, is_nonce_used=True, taken_readings=READINGS), Step.LOST),
    ],
)
def test_the_next_step_follows_from_what_is_seen(seen: Seen, step: Step) -> None:
    assert decide_step(seen, PATIENCE) is step


# ---- receipts ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_canonical", [True, False])
def test_a_receipt_of_a_branch_that_was_left_is_none(is_canonical: bool) -> None:
    receipt = {"blockNumber": 5, "blockHash": b"x"}
    eth = SimpleNamespace(
        get_transaction_receipt=lambda tx_hash: receipt,
        get_block=lambda number: {"hash": b"x" if is_canonical else b"y"},
    )
    web3: Any = SimpleNamespace(eth=eth)
    ask: Any = None
    sender = Sender(web3, b"k" * 32, ask=ask, patience=PATIENCE)
    transaction = _Transaction({"nonce": 0}, Fees(1, 1), cap_max=1, hashes=[b"h" * 32])
    assert sender._find_receipt(transaction) == (receipt if is_canonical else None)


# ---- errors of the contract ----------------------------------------------------------------

ABI: list[dict[str, Any]] = [
    {
        "type": "error",
        "name": "OddAccount",
        "inputs": [{"name": "account", "type": "address"}, {"name": "needed", "type": "uint256"}],
    },
    {"type": "error", "name": "BadHeader", "inputs": []},
]
ERRORS = index_errors(ABI)
SELECTOR = next(key for key, entry in ERRORS.items() if entry["name"] == "OddAccount")
DATA = SELECTOR + "00" * 12 + "aa" * 20 + f"{7:064x}"


def translate(error: Exception) -> Exception:
    return translate_error(error, errors=ERRORS, rpc_url="http://127.0.0.1:1")


def test_a_custom_error_keeps_its_name_and_values() -> None:
    refused = translate(ContractCustomError(DATA, data=DATA))
    assert isinstance(refused, ContractRefused)
    assert refused.refusal.name == "OddAccount"
    assert refused.refusal.args == {"account": b"\xaa" * 20, "needed": 7}
    assert f"OddAccount(account=0x{'aa' * 20}, needed=7)" in refused.message


@pytest.mark.parametrize("data", ["0x", "0x12345678", DATA[:40], SELECTOR + "zz"])
def test_revert_data_that_is_nobody_s_is_no_refusal(data: str) -> None:
    assert decode_refusal(data, ERRORS) is None
    error = translate(ContractCustomError(data, data=data))
    assert not isinstance(error, ContractRefused) and "the contract refuses" in str(error)


def test_a_reason_in_words_is_repeated_and_silence_is_told_apart() -> None:
    reverted = translate(ContractLogicError("execution reverted: too late", data="0x08c379a0"))
    assert "too late" in str(reverted)
    assert isinstance(translate(TimeoutError("slow")), ChainSilent)


# ---- first blocks --------------------------------------------------------------------------


async def test_a_deed_is_searched_from_where_it_was_first_tried(tmp_path: Path) -> None:
    path = tmp_path / "first_blocks.json"
    blocks = FirstBlocks(path)
    await blocks.begin(1_000)
    assert await blocks.find(b"a", head=1_200) == 1_000 - REORG_BLOCKS
    assert await blocks.find(b"b", head=1_300) == 1_200 - REORG_BLOCKS
    again = FirstBlocks(path)
    assert not again.is_missing
    assert await again.find(b"a", head=9_000) == 1_000 - REORG_BLOCKS
    # An old copy of the file knows how old it is.
    assert await again.find(b"c", head=9_500) == 9_000 - REORG_BLOCKS


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"newest": "x"}'])
async def test_a_lost_file_means_that_all_is_searched(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "first_blocks.json"
    if content is not None:
        path.write_bytes(content)
    blocks = FirstBlocks(path)
    assert blocks.is_missing
    assert await blocks.find(b"a", head=9_000) == 0


async def test_another_chain_s_file_hides_nothing(tmp_path: Path) -> None:
    blocks = FirstBlocks(tmp_path / "first_blocks.json")
    await blocks.begin(5_000)
    assert await blocks.find(b"a", head=100) == 100 - REORG_BLOCKS


async def test_the_deeds_tried_last_are_kept(tmp_path: Path) -> None:
    blocks = FirstBlocks(tmp_path / "first_blocks.json")
    await blocks.begin(1_000)
    await blocks.find(b"old", head=2_000)
    for number in range(DEEDS_MAX - 1):
        blocks._record.deeds[f"{number:08x}"] = 5_000  # type: ignore[union-attr]  # it was begun
    assert await blocks.find(b"old", head=9_000) == 1_000 - REORG_BLOCKS
    await blocks.find(b"new", head=9_001)
    assert len(blocks._record.deeds) == DEEDS_MAX  # type: ignore[union-attr]  # it was begun
    assert await blocks.find(b"old", head=9_002) == 1_000 - REORG_BLOCKS
    assert await blocks.find(b"new", head=9_999) == 9_000 - REORG_BLOCKS
