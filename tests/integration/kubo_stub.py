"""
A small stand-in for Kubo's RPC: the calls that our adapter makes, and nothing else.

Modelled on the RPC of Kubo 0.40: POST only, errors as JSON with status 500, `--offline` as a
query option. A call that Kubo no longer has gives 404, as Kubo gives.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gpumarket.protocol.cids import Codec, compute_cid, format_cid, parse_cid

CODECS = {"raw": Codec.RAW, "dag-pb": Codec.DAG_PB, "dag-cbor": Codec.DAG_CBOR}


class KuboStub:
    """`blocks` are here, `remote` can be had from the peers of `swarm`."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.remote: dict[str, bytes] = {}
        self.pins: dict[str, str] = {}
        self.connects: list[list[str]] = []
        self.address = ""

    def call(self, path: str, args: list[str], query: dict[str, str], body: bytes) -> Any:
        match path:
            case "version":
                return {"Version": "0.40.1", "Commit": "", "Repo": "16"}
            case "block/put":
                cid = compute_cid(body, CODECS[query["cid-codec"]])
                self.blocks[format_cid(cid)] = body
                return {"Key": format_cid(cid), "Size": len(body)}
            case "block/get":
                return self.find(args[0], is_offline=query.get("offline") == "true")
            case "block/stat":
                data = self.find(args[0], is_offline=query.get("offline") == "true")
                return {"Key": args[0], "Size": len(data)}
            case "pin/add":
                self.find(args[0], is_offline=True)
                self.pins[args[0]] = query.get("name", "")
                return {"Pins": args}
            case "pin/ls":
                pins = self.pins.items()
                return {"Keys": {cid: {"Type": "recursive", "Name": name} for cid, name in pins}}
            case "pin/rm":
                del self.pins[args[0]]
                return {"Pins": args}
            case "swarm/connect":
                self.connects.append(args)
                if any(not arg.startswith("/") for arg in args):
                    raise LookupError(f"invalid peer address: {args[1:4]}")
                return {"Strings": [f"connect {arg} success" for arg in args]}
        return None

    def find(self, text: str, *, is_offline: bool) -> bytes:
        if text not in self.blocks and not is_offline and text in self.remote:
            self.blocks[text] = self.remote[text]
        parse_cid(text)
        if text not in self.blocks:
            raise LookupError(f"block was not found locally (offline): ipld: could not find {text}")
        return self.blocks[text]


class Handler(BaseHTTPRequestHandler):
    """Turns HTTP into calls of the server's stub."""

    protocol_version = "HTTP/1.1"
    server: "StubServer"

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        body = self.read_upload()
        try:
            reply = self.server.stub.call(
                parts.path.removeprefix("/api/v0/"),
                query.get("arg", []),
                {key: values[0] for key, values in query.items()},
                body,
            )
        except LookupError as error:
            self.send(500, json.dumps({"Message": str(error), "Code": 0, "Type": "error"}))
            return
        if reply is None:
            self.send(404, "404 page not found")
        elif isinstance(reply, bytes):
            self.send(200, reply)
        else:
            self.send(200, json.dumps(reply))

    def read_upload(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not body:
            return b""
        kind = self.headers["Content-Type"].encode()
        message = BytesParser().parsebytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
        payload = next(part for part in message.walk() if not part.is_multipart())
        content = payload.get_payload(decode=True)
        assert isinstance(content, bytes)
        return content

    def send(self, status: int, data: str | bytes) -> None:
        content = data.encode() if isinstance(data, str) else data
        self.send_response(status)
        kind = "application/json" if isinstance(data, str) else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


class StubServer(ThreadingHTTPServer):
    """A server that knows its stub."""

    daemon_threads = True
    stub: KuboStub


@contextmanager
def run_kubo_stub() -> Iterator[KuboStub]:
    stub = KuboStub()
    server = StubServer(("127.0.0.1", 0), Handler)
    server.stub = stub
    stub.address = f"/ip4/127.0.0.1/tcp/{server.server_address[1]}/http"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
