"""
A coordinator of one page for tests of the client: the HTTP API in memory, no market behind it.

It checks what a real one checks of a request (content against its CID, the order's signature
and its fit to the job) and then does what the test told it. Standard library only, so that the
client is not tested against its own HTTP code.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from gpumarket.protocol.car import decode_car_untrusted, encode_car
from gpumarket.protocol.catalog import find_http_status
from gpumarket.protocol.cids import ContentId, format_cid, parse_cid
from gpumarket.protocol.codec import from_dag_json_untrusted
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import ContentError, GpuMarketError, InvalidInput
from gpumarket.protocol.ids import format_hex, make_job_id
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.order import CancelOrder, Order, check_order_fits
from gpumarket.protocol.signing import Domain, Signed, verify
from gpumarket.protocol.units import Timestamp
from gpumarket.protocol.unixfs import Block, walk_blocks

BODY_BYTES_MAX: Final = 64 * 2**20
CONTRACT: Final = bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3")
COORDINATOR: Final = bytes.fromhex("15d34aaf54267db7d7c367839aaf71a00a2c6a65")
PROVIDER: Final = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
STARTED_AT: Final = "2026-01-02T03:04:05Z"


def make_amount(base: int) -> dict[str, Any]:
    """Write an amount as the API does."""
    text = f"{base // 10**6}.{base % 10**6:06d}"
    return {"amount": text, "token": "USDC", "base": str(base), "decimals": 6}


@dataclass
class FakeCoordinator:
    """
    The state of the fake; tests read and change it freely.

    Use as a context manager: `with FakeCoordinator() as fake: … fake.url`.
    """

    chain_id: int = DEVNET_CHAIN_ID
    blocks: dict[bytes, Block] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    orders: list[Signed[Order]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """Job id by idempotency key."""
    events: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    offers: list[dict[str, Any]] = field(default_factory=list)
    verifiers: list[dict[str, Any]] = field(default_factory=list)
    canaries: dict[str, Any] = field(default_factory=dict)
    refuse: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem to answer with, by path; `status` in it is the HTTP status."""
    quote: dict[str, Any] = field(default_factory=dict)
    state_after_submit: str = "settled"
    cut_stream_after: int = 0
    """Break the event stream after so many events, once for each connection; zero never."""
    connections: int = 0
    proof: bytes = b"\xa0"
    receipt_queries: list[dict[str, list[str]]] = field(default_factory=list)
    """What was asked for with each receipt."""
    acceptances: list[Signed[Acceptance]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Providers that are not connected."""

    def __enter__(self) -> FakeCoordinator:
        fake = self

        class Handler(_Handler):
            coordinator = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Where the fake listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def domain(self) -> Domain:
        """The signing domain it speaks of."""
        return Domain(chain_id=self.chain_id, contract=CONTRACT)

    def get_block(self, cid: ContentId) -> bytes:
        """Return a block, or raise `ContentError` GM-6012."""
        block = self.blocks.get(cid.digest)
        if block is None:
            raise ContentError(f"nobody has {format_cid(cid)}", code="GM-6012")
        return block.data

    def describe_self(self) -> dict[str, Any]:
        """Answer `/v1/info`."""
        return {
            "version": "0.1.0",
            "role": "coordinator",
            "chain_id": self.chain_id,
            "contract": format_hex(CONTRACT),
            "coordinator": format_hex(COORDINATOR),
            "devnet": self.chain_id == DEVNET_CHAIN_ID,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def describe_quote(self) -> dict[str, Any]:
        """Answer `/v1/quotes`: what the test set, or one provider that fits."""
        return self.quote or {
            "feasible": True,
            "funnel": [{"stage": "online", "left": 3}, {"stage": "vram", "left": 1}],
            "offers": self.offers,
            "price": {"low": make_amount(1000), "high": make_amount(2500)},
        }

    def accept_order(self, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Check an order as a coordinator does and make its job."""
        spec = from_dag_json_untrusted(json.dumps(body["spec"]), JobSpec)
        signed = from_dag_json_untrusted(json.dumps(body["order"]), Signed[Order])
        order = verify(signed, self.domain).body
        check_order_fits(order, spec, now=Timestamp(int(time.time())))
        for cid in (spec.image.archive, *(each.cid for each in spec.inputs)):
            for each in walk_blocks(parse_cid(cid), self.get_block):
                self.get_block(each)
        if key in self.answers:
            return self.jobs[self.answers[key]]
        self.orders.append(signed)
        order_hash = order.compute_struct_hash()
        job = make_job(
            make_job_id(order_hash), spec=spec, order=order, state=self.state_after_submit
        )
        self.answers[key] = job["id"]
        self.jobs[job["id"]] = job
        return job

    def take_acceptances(self, job_id: str, body: object) -> dict[str, Any]:
        """Check whose they are and keep them, as the real one does."""
        signed = from_dag_json_untrusted(json.dumps(body), tuple[Signed[Acceptance], ...])
        for each in signed:
            signer = verify(each, self.domain).signer
            if format_hex(signer) != self.jobs[job_id]["requester"]:
                raise InvalidInput("only the requester can accept", code="GM-1204")
        self.acceptances += signed
        return {"id": job_id, "taken": len(signed), "providers": 1, "absent": self.absent}

    def find_job(self, prefix: str) -> dict[str, Any]:
        """Return the job whose id begins so, or raise `InvalidInput` GM-5001."""
        found = [job for job_id, job in self.jobs.items() if job_id.startswith(prefix)]
        if len(found) != 1:
            raise InvalidInput(f"there is no job {prefix}", code="GM-5001")
        return found[0]


def make_job(job_id: str, *, spec: JobSpec, order: Order, state: str) -> dict[str, Any]:
    """Describe a job as `/v1/jobs/{id}` does, with all its tasks accepted."""
    return {
        "id": job_id,
        "name": spec.name,
        "state": state,
        "reason": None,
        "order_hash": format_hex(order.compute_struct_hash()),
        "requester": format_hex(order.requester),
        "units": {
            "total": spec.units, "waiting": 0, "running": 0,
            "finished": 0, "accepted": spec.units,
        },
        "money": {
            "locked": make_amount(order.compute_exposure()), "payable": make_amount(0),
            "checks": make_amount(400), "fee": make_amount(0),
            "spent": make_amount(3000), "returned": make_amount(order.compute_exposure() - 3000),
        },
        "next": {"actor": "nobody", "what": "", "deadline": None},
        "placements": [{"task": 0, "provider": PROVIDER}],
        "created_at": STARTED_AT,
        "settled_at": STARTED_AT if state == "settled" else None,
        "batch": {"seq": 1, "tx": "0x" + "ab" * 32, "block": 17} if state == "settled" else None,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    """Routes requests to the fake."""

    coordinator: FakeCoordinator
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is given
        """Say nothing: tests look at the state."""

    def do_GET(self) -> None:
        """Answer a read."""
        self._guard(self._answer_get)

    def do_HEAD(self) -> None:
        """Answer a question for existence."""
        self._guard(self._answer_get)

    def do_POST(self) -> None:
        """Answer a write."""
        self._guard(self._answer_post)

    def _guard(self, answer: Any) -> None:
        path = urlsplit(self.path).path
        self._body = self._read_body()
        problem = self.coordinator.refuse.get(path)
        try:
            if problem is not None:
                self._send_json(dict(problem), int(problem.get("status", 409)))
            else:
                answer(path, parse_qs(urlsplit(self.path).query))
        except GpuMarketError as error:
            body = {"code": error.code, "detail": error.message, "why": error.why}
            self._send_json(body, find_http_status(error))

    def _answer_get(self, path: str, query: Mapping[str, list[str]]) -> None:
        fake = self.coordinator
        if path == "/v1/info":
            self._send_json(fake.describe_self())
        elif path == "/v1/offers":
            self._send_json({"data": fake.offers, "next": None})
        elif path == "/v1/verifiers":
            self._send_json({"data": fake.verifiers, "next": None})
        elif path == "/v1/canaries":
            self._send_json(fake.canaries)
        elif path == "/v1/jobs":
            self._send_json({"data": list(fake.jobs.values()), "next": None})
        elif path.startswith("/v1/jobs/"):
            self._answer_job(path.split("/")[3:], query)
        elif path.startswith("/ipfs/"):
            self._answer_content(path.removeprefix("/ipfs/"), query)
        else:
            raise InvalidInput(f"there is nothing at {path}", code="GM-8005")

    def _answer_job(self, parts: list[str], query: Mapping[str, list[str]]) -> None:
        fake = self.coordinator
        job = fake.find_job(parts[0])
        match parts[1:]:
            case []:
                self._send_json(job)
            case ["tasks"]:
                row = {"task": 0, "state": "accepted", "attempts": 1, "provider": PROVIDER}
                self._send_json({"data": [{**row, "price": make_amount(1000)}]})
            case ["why"]:
                self._send_json({"state": job["state"], "text": "all tasks are accepted"})
            case ["outputs"]:
                self._send_json({"data": fake.outputs})
            case ["logs"]:
                row = {"task": 0, "last_lines": ["second line"], "failure_tails": ["first line\n"]}
                self._send_json({"data": [row]})
            case ["receipt"]:
                fake.receipt_queries.append(dict(query))
                self._send(fake.proof, "application/vnd.ipld.dag-cbor")
            case ["events"] if "text/event-stream" in self.headers.get("Accept", ""):
                self._stream_events()
            case ["events"]:
                after = int(query.get("after", ["0"])[0])
                self._send_json({"data": [each for each in fake.events if each["id"] > after]})
            case _:
                raise InvalidInput("there is nothing here", code="GM-8005")

    def _stream_events(self) -> None:
        fake = self.coordinator
        fake.connections += 1
        after = int(self.headers.get("Last-Event-ID", "0"))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        for event in fake.events:
            if event["id"] < after:
                continue  # the last one is told again: a client must not count on `exactly once`
            if fake.cut_stream_after and sent == fake.cut_stream_after:
                break
            line = f"id: {event['id']}\ndata: {json.dumps(event)}\n\n"
            self.wfile.write(line.encode())
            sent += 1
        self.close_connection = True

    def _answer_content(self, cid_text: str, query: Mapping[str, list[str]]) -> None:
        fake = self.coordinator
        cid = parse_cid(cid_text)
        data = fake.get_block(cid)
        if query.get("format") == ["car"]:
            walk = walk_blocks(cid, fake.get_block)
            blocks = (Block(each, fake.get_block(each)) for each in walk)
            data = b"".join(encode_car((cid,), blocks))
        self._send(data, "application/octet-stream")

    def _answer_post(self, path: str, query: Mapping[str, list[str]]) -> None:
        fake = self.coordinator
        if path == "/v1/quotes":
            self._send_json(fake.describe_quote())
        elif path == "/v1/content":
            last = ""
            for block in decode_car_untrusted((self._body,), bytes_max=BODY_BYTES_MAX):
                fake.blocks[block.cid.digest] = block
                last = format_cid(block.cid)
            fake.uploads.append(last)
            self._send_json({"roots": [last]})
        elif path == "/v1/jobs":
            key = self.headers.get("Idempotency-Key", "")
            self._send_json({"job": fake.accept_order(json.loads(self._body), key)}, 201)
        elif path.endswith("/cancel"):
            job = fake.find_job(path.split("/")[3])
            body = json.loads(self._body)["cancel"]
            signed = from_dag_json_untrusted(json.dumps(body), Signed[CancelOrder])
            verify(signed, fake.domain)
            job["state"] = "cancelled"
            self._send_json({"job": job})
        elif path.endswith("/acceptances"):
            job_id = fake.find_job(path.split("/")[3])["id"]
            self._send_json(fake.take_acceptances(job_id, json.loads(self._body)["acceptances"]))
        else:
            raise InvalidInput(f"there is nothing at {path}", code="GM-8005")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if len(body) > BODY_BYTES_MAX:
                    raise ContentError("the body is too large", code="GM-6013")
            self.rfile.readline()
            return body
        return self.rfile.read(min(int(self.headers.get("Content-Length", "0")), BODY_BYTES_MAX))

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, data: bytes, content_type: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
