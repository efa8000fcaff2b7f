"""The error catalog covers the tree, and every page says what to do."""

import re
from pathlib import Path
from typing import get_args

import pytest

from gpumarket.protocol import catalog_market, catalog_work
from gpumarket.protocol.catalog import (
    CATALOG,
    Entry,
    Exit,
    Fault,
    find_exit,
    find_fault,
    find_http_status,
    get_entry,
)
from gpumarket.protocol.errors import GpuMarketError, InvalidInput
from gpumarket.protocol.lease import Fault as LeaseFault

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"GM-\d{4}")
FOLDERS = ("gpumarket", "coordinator", "provider_node", "verifier", "scripts", "examples")


def find_used_codes() -> dict[str, str]:
    used = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and (path.suffix == ".py" or path.parent.name == "scripts"):
                for code in CODE.findall(path.read_text(errors="replace")):
                    used[code] = str(path.relative_to(ROOT))
    return used


def test_every_code_used_in_the_tree_has_a_page() -> None:
    missing = {code: path for code, path in find_used_codes().items() if code not in CATALOG}
    assert not missing


def test_no_code_appears_twice_and_rows_are_in_order() -> None:
    codes = [row.split()[0] for row in catalog_market.ROWS + catalog_work.ROWS]
    assert codes == sorted(set(codes))
    assert len(codes) == len(CATALOG)


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.code)
def test_every_page_says_what_why_and_what_to_do(entry: Entry) -> None:
    assert len(entry.title) <= 100
    assert entry.title[0].islower() or entry.title.split()[0].isupper()
    assert entry.summary.endswith(".")
    assert entry.remedies
    assert all(remedy.strip() == remedy and remedy for remedy in entry.remedies)
    assert 400 <= entry.http_status <= 507
    assert entry.fault in get_args(Fault)


def test_faults_are_the_protocol_s_own() -> None:
    assert set(get_args(Fault)) == set(get_args(LeaseFault))


def test_exit_codes_are_the_published_ones() -> None:
    assert {each.name: each.value for each in Exit} == {
        "DONE": 0, "BUG": 1, "USAGE": 2, "INVALID_FILE": 3, "NOT_ALLOWED": 4, "NOT_FOUND": 5,
        "NO_MONEY": 6, "NO_OFFER": 7, "UNREACHABLE": 8, "CONFLICT": 9, "AUDIT_FAIL": 10,
        "AUDIT_INCOMPLETE": 11, "DOCTOR_BLOCKS": 12, "JOB_FAILED": 20, "MARKET_FAILED": 21,
        "JOB_CANCELLED": 22, "NOT_FINISHED": 23, "INTERRUPTED": 130,
    }  # fmt: skip


def test_an_error_ends_as_its_page_says_and_blames_whom_it_names() -> None:
    error = GpuMarketError("no", code="GM-3011", fault="coordinator")
    assert find_exit(error) is Exit.NO_MONEY
    assert find_http_status(error) == 402
    assert find_fault(error) == "coordinator"
    assert find_fault(GpuMarketError("no", code="GM-3011")) == "requester"


def test_a_code_outside_the_catalog_is_a_bug_of_ours() -> None:
    error = GpuMarketError("no", code="GM-0000")
    assert find_exit(error) is Exit.BUG
    assert find_http_status(error) == 500


def test_a_code_may_be_typed_short_and_an_unknown_one_is_refused() -> None:
    assert get_entry("4021") is get_entry("gm-4021") is CATALOG["GM-4021"]
    with pytest.raises(InvalidInput) as caught:
        get_entry("GM-1")
    assert caught.value.code == "GM-1002"
