"""What is started here is ended here: by `devnet down`, and by Ctrl-C at any point of the demo."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from tests.e2e.market import (
    PROVIDERS,
    Market,
    can_connect,
    list_containers,
    list_marked_processes,
    make_program,
    start_marked,
    wait_for,
)
from tests.job_image import ROOT
from tests.patience import PATIENCE


def test_down_in_the_middle_of_a_job_leaves_no_process_port_or_container(
    job_image: Path, tmp_path: Path
) -> None:
    assert job_image.is_file()
    market = Market(tmp_path)
    try:
        market.start()
        market.submit(market.write_job("cut-off", program=make_program(seconds=60)))
        wait_for(lambda: len(market.list_containers()) == len(PROVIDERS), "every provider to work")
        processes = market.devnet.state["processes"]
        roles = [name for name in processes if name != "chain"]
        ports = [
            int(market.read_setting(role, key))
            for role in roles
            for key in ("listen_port", "http_port")
        ]
        ports.append(int(market.devnet.state["rpc_url"].rpartition(":")[2]))
        assert all(can_connect(port) for port in ports)
        pids = [entry["pid"] for entry in processes.values()]

        answer = market.run("devnet", "down", "--json")

        assert answer.exit == 0, answer.stderr
        assert set(answer.data["stopped"]) == set(processes)
        assert answer.data["killed"] == []
        assert [pid for pid in pids if runs(pid)] == []
        assert [port for port in ports if can_connect(port)] == []
        assert market.list_containers() == []
        mounts = Path("/proc/mounts").read_text()
        assert str(tmp_path) not in mounts
        again = market.run("devnet", "down")
        assert again.exit == 5
        assert "GM-1401" in again.stderr
    finally:
        market.stop()


@pytest.mark.parametrize("sign", ["contracts ", "tasks ok"], ids=["starting", "running"])
def test_ctrl_c_stops_all_of_the_demo(sign: str, job_image: Path, tmp_path: Path) -> None:
    assert job_image.is_file()
    mark = f"e2e-{os.urandom(8).hex()}"
    with start_marked([ROOT / "scripts/demo"], mark=mark, folder=tmp_path) as demo:
        lines = Lines(demo)
        lines.wait(sign)
        wait_for(lambda: list_states(mark), "the devnet's state")
        owners = [
            entry["address"].removeprefix("0x")
            for state in list_states(mark)
            for entry in state["accounts"].values()
        ]
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(timeout=PATIENCE) == 130, lines.text
        wait_for(lambda: not list_marked_processes(mark), "every process to end")
        assert list_containers(owners) == []
        assert "logs " in lines.text


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that ended and waits for its parent to notice does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


class Lines:
    """What a process prints, read in a thread so that it never waits for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        self._process = process
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, sign: str, seconds: float = 2 * PATIENCE) -> None:
        """Wait for a line with this in it."""
        with contextlib.suppress(queue.Empty):
            while (line := self._queue.get(timeout=seconds)) is not None:
                if sign in line:
                    return
        raise AssertionError(f"{sign!r} did not come:\n{self.text}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under our hands
            for line in self._process.stdout:
                self.text += line
                self._queue.put(line)
        self._queue.put(None)


def list_states(mark: str) -> list[dict[str, dict[str, dict[str, str]]]]:
    """Read the state of each devnet that a marked process works for."""
    folders = {Path(f"/proc/{pid}/cwd").resolve() for pid in list_marked_processes(mark)}
    found = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads((folder / ".gpumarket" / "devnet.json").read_text()))
    return found
