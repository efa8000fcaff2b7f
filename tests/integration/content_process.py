"""
One content node in a process of its own, driven by JSON lines on stdin; for the content tests.

Run as `python content_process.py FOLDER QUOTA_BYTES`; the first line of output is its address.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import trio

from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.p2p import open_network
from gpumarket.protocol.errors import GpuMarketError


async def answer(node: EmbeddedNode, command: dict[str, Any]) -> dict[str, Any]:
    """Do one command; time it."""
    started = time.perf_counter()
    reply: dict[str, Any] = {}
    try:
        match command["do"]:
            case "add":
                reply = {"cid": await node.add_file(Path(command["path"]))}
            case "add_directory":
                reply = {"cid": await node.add_directory(Path(command["path"]))}
            case "fetch":
                reply = {
                    "bytes": await node.fetch_counted(
                        command["cid"],
                        sources=command["sources"],
                        deadline_s=command["deadline_s"],
                        max_bytes=command["max_bytes"],
                    )
                }
            case "export":
                await node.export(command["cid"], Path(command["path"]))
            case _:
                raise ValueError(command)
    except GpuMarketError as error:
        reply = {"error": error.message, "code": error.code, "why": error.why}
    return {**reply, "seconds": time.perf_counter() - started}


def tell(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Serve commands until stdin ends."""
    folder, quota_bytes = Path(sys.argv[1]), int(sys.argv[2])
    seed = hashlib.sha256(str(folder).encode()).digest()
    async with (
        open_network(key_seed=seed, listen_port=0) as network,
        open_node(network, folder, quota_bytes=quota_bytes) as node,
    ):
        tell({"address": network.addresses[0]})
        stdin = trio.wrap_file(sys.stdin)
        while line := await stdin.readline():
            tell(await answer(node, json.loads(line)))


if __name__ == "__main__":
    trio.run(main)
