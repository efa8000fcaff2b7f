"""What the node's owner sees: status, why-idle, metrics, and the commands that print them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.factories import (
    NOW,
    make_address,
    make_device,
    make_lease_offer,
    make_resources,
    make_spec,
    propose,
)
from provider_node.api import (
    URL_FILE,
    Figures,
    describe_idleness,
    describe_status,
    render_idleness,
    render_status,
)
from provider_node.commands import provider
from provider_node.core.decide import Provider, decide
from provider_node.core.events import (
    CoordinatorJoined,
    FundsSeen,
    MessageReceived,
    ProcessStarted,
    TimePassed,
    UnitProgressed,
)
from provider_node.core.hours import (
    CHECKING,
    FAILED,
    IDLE,
    OFFLINE,
    PAID,
    SECONDS_PER_HOUR,
    UNPAID,
    HourLedger,
)
from provider_node.core.state import ACTIVE
from provider_node.report import COLUMNS, HOURS_PAGE, format_report, make_report, render_hours
from tests.provider_terms import make_terms

COORDINATOR = make_address("coordinator")


def make_busy_node() -> Provider:
    """A node with two slots: one task runs, one was declined for its price."""
    terms = make_terms(
        devices=(make_device(simulated=True), make_device()),
        slots=2,
        cpus=8,
        memory_bytes=10**11,
        bond_min=Amount(1),
    )
    state = Provider(terms=terms)
    decide(state, ProcessStarted(at=NOW, terms=terms))
    decide(state, CoordinatorJoined(at=NOW, coordinator=COORDINATOR))
    need = make_resources(devices=DeviceNeed(count=1))
    lease = make_lease_offer(make_spec(units=2, name="render", resources=need))
    cheap = make_lease_offer(lease.job, unit=1, price_per_device_hour=100)
    for offer in (lease, cheap):
        message = propose(offer)
        decide(
            state,
            MessageReceived(
                at=Timestamp(NOW + 10),
                coordinator=COORDINATOR,
                message=message,
                disk_free_bytes=10**12,
            ),
        )
    seen = FundsSeen(
        at=Timestamp(NOW + 10),
        requester=make_address("requester"),
        coordinator=COORDINATOR,
        escrow=Amount(10**9),
        bond=Amount(10**9),
    )
    decide(state, seen)
    decide(
        state,
        UnitProgressed(at=NOW, lease_id=lease.lease_id, phase="run", done=3, total=9, line="x"),
    )
    decide(state, TimePassed(at=Timestamp(NOW + 40)))
    return state


def test_status_shows_sessions_devices_tasks_and_money() -> None:
    status = describe_status(make_busy_node(), peer_id="12D3", now=Timestamp(NOW + 100))
    assert status["is_ready"]
    assert status["slots"] == {"total": 2, "used": 1}
    assert status["devices"][0]["use"] == "preparing"
    assert status["devices"][0]["seconds"] == {"idle": 10, "preparing": 90}
    [task] = status["running"]
    assert (task["name"], task["progress"]["done"]) == ("render", 3)
    assert status["money"]["earned"]["base"] == "0"


def test_why_idle_counts_each_reason_and_names_the_largest() -> None:
    state = make_busy_node()
    answer = describe_idleness(state, now=Timestamp(NOW + 100))
    assert (answer["seen"], answer["declined"], answer["ran"]) == (2, {"price": 1}, 1)
    assert "slots are in use" in answer["because"]
    state.leases.clear()
    assert "price (1 of 1)" in describe_idleness(state, now=NOW)["because"]
    state.connected.clear()
    assert "no coordinator is connected" in describe_idleness(state, now=NOW)["because"]


def test_metrics_rise_with_the_state_and_never_fall() -> None:
    state, figures = make_busy_node(), Figures()
    figures.note_phase("run", 1.5)
    figures.note_head(NOW)
    text = figures.render(state, Timestamp(NOW + 5))
    assert 'gpumarket_orders_declined_total{reason="price"} 1.0' in text
    assert 'gpumarket_gpu_time_seconds_total{gpu="0",state="idle"} 10.0' in text
    assert "gpumarket_chain_head_age_seconds 5.0" in text
    assert 'gpumarket_job_phase_duration_seconds_count{phase="run"} 1.0' in text
    assert figures.render(state, Timestamp(NOW + 5)) == text


@pytest.fixture
def running_node(tmp_path: Path) -> Iterator[Path]:
    """A configuration whose node answers with the state above."""
    state = make_busy_node()
    pages = {
        "/v1/status": render_status(state, peer_id="12D3", now=Timestamp(NOW + 100)),
        "/v1/why-idle": render_idleness(state, now=Timestamp(NOW + 100)),
        HOURS_PAGE: render_hours(state, now=Timestamp(NOW + 100)),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages[self.path].encode())

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / URL_FILE).write_text(f"http://127.0.0.1:{server.server_port}")
    yield write_config(tmp_path)
    server.shutdown()
    server.server_close()


def write_config(folder: Path) -> Path:
    path = folder / "provider.toml"
    path.write_text(f"""
[role]
data_dir = "{folder}"
password_file = "{folder}/password"
rpc_url = "http://127.0.0.1:1"
chain_id = 31337
contract = "0x{"c0" * 20}"
[provider]
price_per_device_hour = "0.40 USDC"
region = "SE"
""")
    return path


def call(*arguments: object) -> Result:
    runner = CliRunner()
    return runner.invoke(provider, [str(part) for part in arguments], standalone_mode=False)


def test_the_status_command_prints_the_node(running_node: Path) -> None:
    result = call("status", "--config", running_node)
    assert result.return_value == 0
    assert "READY" in result.stdout
    assert "1 of 2 slots in use" in result.stdout
    assert "(simulated)" in result.stdout
    assert "task 1/2 (render)" in result.stdout


def test_the_commands_print_one_envelope_as_json(running_node: Path) -> None:
    for name in ("status", "why-idle", "report"):
        envelope = json.loads(call(name, "--config", running_node, "--json").stdout)
        assert envelope["ok"]
        assert envelope["schema"] == f"gpumarket.provider.{name}/1"


def test_why_idle_prints_the_funnel(running_node: Path) -> None:
    result = call("why-idle", "--config", running_node)
    assert "     2  seen" in result.stdout
    assert "    -1  asked a lower price than yours" in result.stdout


def test_a_node_that_does_not_run_is_an_error_that_says_how_to_start_it(tmp_path: Path) -> None:
    result = call("status", "--config", write_config(tmp_path))
    assert result.return_value == 8
    assert "GM-8003" in result.stderr
    assert "gpumarket provider run --config" in result.stderr


# ---- the hour report -----------------------------------------------------------------------

DAY = NOW - NOW % 86_400


def make_day(*stages: tuple[str, int]) -> Provider:
    """A node of one device that did one thing after the other from midnight on; minutes."""
    terms = make_busy_node().terms
    state = Provider(terms=msgspec.structs.replace(terms, devices=terms.devices[:1]))
    state.ledger = HourLedger()
    now = DAY
    for use, minutes in stages:
        for _ in range(minutes):
            state.ledger.count(Timestamp(now), [use])
            now += 60
    state.ledger.count(Timestamp(now), [IDLE])
    return state


def report_day(state: Provider, *, now: int, day: date | None = None) -> dict[str, Any]:
    return make_report(json.loads(render_hours(state, now=Timestamp(now))), day)


def test_every_hour_of_the_report_sums_to_sixty_minutes() -> None:
    state = make_day(("idle", 70), ("preparing", 7), ("running", 100), ("checking", 3))
    report = report_day(state, now=DAY + 3 * SECONDS_PER_HOUR)
    [device] = report["devices"]
    assert [row["hour"] for row in device["hours"]] == ["00:00", "01:00", "02:00"]
    assert [sum(row["minutes"].values()) for row in device["hours"]] == [60, 60, 60]
    second = {name: count for name, count in device["hours"][1]["minutes"].items() if count}
    assert second == {"idle": 10, "start": 7, "run": 43}
    assert device["total"]["check"] == 3
    assert device["utilization"] == round(100 / 180, 3)
    lines = list(format_report(report, is_hourly=True))
    assert lines[0].endswith("source: state log, 0 gaps")
    assert "sum 180 of 180 minutes." in lines[-2]
    assert len(list(format_report(report, is_hourly=False))) == len(lines) - 3


def test_the_report_knows_each_use_that_the_ledger_has() -> None:
    known = {use for uses in COLUMNS.values() for use in uses}
    assert {phase.value for phase in ACTIVE} <= known
    assert {IDLE, OFFLINE, CHECKING, PAID, UNPAID, FAILED} <= known


def test_an_hour_that_is_not_over_sums_to_what_of_it_is() -> None:
    report = report_day(make_day(("idle", 60)), now=DAY + SECONDS_PER_HOUR + 150)
    [device] = report["devices"]
    assert sum(device["hours"][1]["minutes"].values()) == 2
    assert "the last of 120 are to come" in list(format_report(report, is_hourly=True))[-2]


def test_idle_minutes_come_with_what_was_declined_in_their_hour() -> None:
    state = make_day(("running", 60), ("idle", 60))
    for hour in range(2):
        state.tally.note_seen(Timestamp(DAY + hour * SECONDS_PER_HOUR), "price")
    report = report_day(state, now=DAY + 2 * SECONDS_PER_HOUR)
    assert [row["declined"] for row in report["devices"][0]["hours"]] == [{}, {"price": 1}]
    assert "1) while idle: 1 declined for price" in list(format_report(report, is_hourly=True))[-2]


def test_a_day_of_which_nothing_is_kept_says_what_is() -> None:
    state = make_day(("idle", 60))
    with pytest.raises(InvalidInput, match="nothing is kept of 2001-02-03") as caught:
        report_day(state, now=DAY + SECONDS_PER_HOUR, day=date(2001, 2, 3))
    assert "the ledger holds" in caught.value.why


def test_the_report_command_prints_the_day(running_node: Path) -> None:
    day = datetime.fromtimestamp(NOW, UTC).date().isoformat()
    result = call("report", "--hourly", "--date", day, "--config", running_node)
    assert result.return_value == 0, result.stderr
    assert "HOUR" in result.stdout
    assert "0 gaps" in result.stdout
    assert "earned 0.00 USDC" in result.stdout
    other = call("report", "--date", "2001-02-03", "--config", running_node)
    assert other.return_value == 2
    assert "nothing is kept" in other.stderr
