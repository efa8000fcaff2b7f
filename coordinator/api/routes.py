"""The routes: aiohttp on one side, the desk on the trio side, nothing decided in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from coordinator.api.answers import answer_json, answer_problem
from coordinator.api.desk import Desk
from gpumarket.adapters.http import TrioSide
from gpumarket.adapters.logs import Log
from gpumarket.protocol.car import CarDecoder, encode_car
from gpumarket.protocol.cids import ContentId, decode_cid_untrusted
from gpumarket.protocol.codec import from_dag_json_untrusted
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import GpuMarketError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.order import CancelOrder, Order
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.unixfs import Block

BODY_BYTES_MAX = 2 * 2**20
UPLOAD_BYTES_MAX = 20 * 10**9
UPLOAD_CHUNK_BYTES = 2**20
CAR_TYPE = "application/vnd.ipld.car"
RAW_TYPE = "application/vnd.ipld.raw"
DAG_CBOR_TYPE = "application/vnd.ipld.dag-cbor"
EVENT_STREAM = "text/event-stream"
KEEPALIVE_SECONDS = 15.0
STREAM_WAITS_MAX = 10_000
"""A stream ends after so many; the client takes it up again where it was."""
DESK: web.AppKey[Desk] = web.AppKey("desk", Desk)
TRIO: web.AppKey[TrioSide] = web.AppKey("trio", TrioSide)

log = Log("api")
_HTTP_CODES = {404: "GM-8005", 405: "GM-1001", 413: "GM-6013"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(trio_side: TrioSide, desk: Desk) -> web.Application:
    """Build the application; every handler asks the desk through `trio_side`."""
    app = web.Application(middlewares=[_answer_errors], client_max_size=BODY_BYTES_MAX)
    app[DESK], app[TRIO] = desk, trio_side
    app.add_routes(
        [
            web.get("/healthz", _show_health),
            web.get("/metrics", _show_metrics),
            web.get("/v1/info", _show_info),
            web.get("/v1/offers", _list_offers),
            web.get("/v1/providers", _list_offers),
            web.get("/v1/providers/{address}", _show_provider),
            web.get("/v1/verifiers", _list_verifiers),
            web.get("/v1/canaries", _show_canaries),
            web.get("/v1/epochs", _list_epochs),
            web.post("/v1/quotes", _make_quote),
            web.post("/v1/content", _take_content),
            web.get("/ipfs/{cid}", _give_content),
            web.post("/v1/jobs", _submit_job),
            web.get("/v1/jobs", _list_jobs),
            web.get("/v1/jobs/{job}", _show_job),
            web.get("/v1/jobs/{job}/tasks", _list_tasks),
            web.get("/v1/jobs/{job}/why", _explain_job),
            web.get("/v1/jobs/{job}/events", _list_events),
            web.get("/v1/jobs/{job}/logs", _show_logs),
            web.get("/v1/jobs/{job}/outputs", _list_outputs),
            web.get("/v1/jobs/{job}/receipt", _give_receipt),
            web.post("/v1/jobs/{job}/cancel", _cancel_job),
            web.post("/v1/jobs/{job}/acceptances", _accept_work),
        ]
    )
    return app


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GpuMarketError as error:
        log.info("request refused", path=request.path, code=error.code, reason=error.message)
        return answer_problem(error, request.path)
    except web.HTTPException as error:
        # What aiohttp refuses by itself: a body too large, no such path, no such method.
        if error.status < web.HTTPBadRequest.status_code:
            raise
        code = _HTTP_CODES.get(error.status, "GM-1001")
        refused = InvalidInput(f"{request.method} {request.path[:200]}: {error.reason}", code=code)
        return answer_problem(refused, request.path)


async def _ask(request: web.Request, method: Callable[..., Any], *args: object) -> Any:
    async def call() -> Any:
        return method(*args)

    return await request.app[TRIO](call)


# ---- the market --------------------------------------------------------------------------------


async def _show_health(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _show_metrics(request: web.Request) -> web.Response:
    text = await _ask(request, request.app[DESK].render_metrics)
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})


async def _show_info(request: web.Request) -> web.Response:
    return answer_json(await _ask(request, request.app[DESK].show_info))


async def _list_offers(request: web.Request) -> web.Response:
    return answer_json({"data": await _ask(request, request.app[DESK].list_offers), "next": None})


async def _show_provider(request: web.Request) -> web.Response:
    address = request.match_info["address"]
    return answer_json(await _ask(request, request.app[DESK].show_provider, address))


async def _list_verifiers(request: web.Request) -> web.Response:
    rows = await _ask(request, request.app[DESK].list_verifiers)
    return answer_json({"data": rows, "next": None})


async def _show_canaries(request: web.Request) -> web.Response:
    return answer_json(await _ask(request, request.app[DESK].show_canaries))


async def _list_epochs(request: web.Request) -> web.Response:
    return answer_json({"data": await _ask(request, request.app[DESK].list_epochs), "next": None})


async def _make_quote(request: web.Request) -> web.Response:
    body = await _read_body(request, {"spec"})
    spec = from_dag_json_untrusted(json.dumps(body["spec"]), JobSpec)
    return answer_json(await _ask(request, request.app[DESK].make_quote, spec))


# ---- content -----------------------------------------------------------------------------------


async def _take_content(request: web.Request) -> web.Response:
    """Take a CAR as it comes; only blocks that hash to their name are kept."""
    decoder = CarDecoder(bytes_max=UPLOAD_BYTES_MAX)
    trio_side, desk = request.app[TRIO], request.app[DESK]
    async for piece in request.content.iter_chunked(UPLOAD_CHUNK_BYTES):
        blocks = list(decoder.feed_untrusted(piece))
        if blocks:
            await trio_side(desk.keep_blocks, blocks)
    decoder.finish_untrusted()
    roots = [str(cid) for cid in await trio_side(desk.pin_roots, decoder.roots or ())]
    return answer_json({"roots": roots}, status=201)


async def _give_content(request: web.Request) -> web.StreamResponse:
    """Answer as a trustless gateway does: one raw block, or a CAR of all below it."""
    cid = decode_cid_untrusted(request.match_info["cid"])
    wanted = str(request.query.get("format") or request.headers.get("Accept", ""))
    headers = {
        "Etag": f'"{request.match_info["cid"]}"',
        "Cache-Control": "public, max-age=29030400, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    trio_side, desk = request.app[TRIO], request.app[DESK]
    if request.method == "HEAD":
        is_here = await trio_side(desk.has, cid)
        return web.Response(status=200 if is_here else 404, headers=headers)
    if wanted in ("raw", RAW_TYPE):
        data = await trio_side(desk.read_block, cid)
        return web.Response(body=data, headers=headers | {"Content-Type": RAW_TYPE})
    if wanted != "car" and not wanted.startswith(CAR_TYPE):
        raise InvalidInput("ask for format=raw or format=car", code="GM-1001")
    names = await trio_side(desk.list_blocks, cid)
    headers |= {"Content-Type": f"{CAR_TYPE}; version=1; order=dfs; dups=n"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for piece in encode_car([cid], ()):
        await response.write(piece)
    async for block in _read_blocks(trio_side, desk, names):
        await response.write(_encode_section(block))
    await response.write_eof()
    return response


async def _read_blocks(
    trio_side: TrioSide, desk: Desk, names: list[ContentId]
) -> AsyncIterator[Block]:
    for name in names:
        yield Block(name, await trio_side(desk.read_block, name))


def _encode_section(block: Block) -> bytes:
    header_length = len(next(encode_car([block.cid], ())))
    return b"".join(encode_car([block.cid], [block]))[header_length:]


# ---- jobs --------------------------------------------------------------------------------------


async def _submit_job(request: web.Request) -> web.Response:
    body = await _read_body(request, {"spec", "order"}, {"wait_for_capacity_s"})
    key = request.headers.get("Idempotency-Key", "")
    if not 8 <= len(key) <= 128:
        raise InvalidInput("an Idempotency-Key header of 8 to 128 characters is needed")
    spec = from_dag_json_untrusted(json.dumps(body["spec"]), JobSpec)
    order = from_dag_json_untrusted(json.dumps(body["order"]), Signed[Order])
    wait = body.get("wait_for_capacity_s", 0)
    if type(wait) is not int or not 0 <= wait <= 7 * 86_400:
        raise InvalidInput("wait_for_capacity_s is a number of seconds up to a week")
    submit = partial(request.app[DESK].submit, order, spec, key=key, wait_seconds=wait)
    view = await request.app[TRIO](submit)
    location = {"Location": f"/v1/jobs/{view['id']}"}
    answer = answer_json({"job": view}, status=201)
    answer.headers.update(location)
    return answer


async def _list_jobs(request: web.Request) -> web.Response:
    wanted = request.query.get("state", "")
    jobs = await _ask(request, request.app[DESK].list_jobs, wanted)
    return answer_json({"data": jobs, "next": None})


async def _show_job(request: web.Request) -> web.Response:
    return answer_json(await _ask(request, request.app[DESK].show_job, request.match_info["job"]))


async def _list_tasks(request: web.Request) -> web.Response:
    tasks = await _ask(request, request.app[DESK].list_tasks, request.match_info["job"])
    return answer_json({"data": tasks, "next": None})


async def _explain_job(request: web.Request) -> web.Response:
    return answer_json(
        await _ask(request, request.app[DESK].explain_job, request.match_info["job"])
    )


async def _list_events(request: web.Request) -> web.StreamResponse:
    after = _read_number(request.query.get("after", "0"), "after")
    job = request.match_info["job"]
    if EVENT_STREAM not in request.headers.get("Accept", ""):
        entries, _ = await _ask(request, request.app[DESK].list_events, job, after)
        return answer_json({"data": entries, "next": None})
    resumed = request.headers.get("Last-Event-ID")
    return await _stream_events(request, job, _read_number(resumed, "id") if resumed else after)


async def _stream_events(request: web.Request, job: str, after: int) -> web.StreamResponse:
    desk = request.app[DESK]
    entries, is_over = await _ask(request, desk.list_events, job, after)
    response = web.StreamResponse(
        headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    for _ in range(STREAM_WAITS_MAX):
        for entry in entries:
            after = entry["id"]
            data = json.dumps(entry, ensure_ascii=False)
            await response.write(f"id: {after}\ndata: {data}\n\n".encode())
        if is_over and not entries:
            break
        wait = partial(desk.await_events, job, after, seconds=KEEPALIVE_SECONDS)
        entries, is_over = await request.app[TRIO](wait)
        if not entries and not is_over:
            await response.write(b": still here\n\n")
    await response.write_eof()
    return response


async def _show_logs(request: web.Request) -> web.Response:
    task = request.query.get("task")
    number = None if task is None else _read_number(task, "task")
    lines = await _ask(request, request.app[DESK].show_logs, request.match_info["job"], number)
    return answer_json({"data": lines, "next": None})


async def _list_outputs(request: web.Request) -> web.Response:
    outputs = await _ask(request, request.app[DESK].list_outputs, request.match_info["job"])
    return answer_json({"data": outputs, "next": None})


async def _give_receipt(request: web.Request) -> web.Response:
    job, desk = request.match_info["job"], request.app[DESK]
    is_compact = request.query.get("form") == "compact"
    must_anchor = request.query.get("anchors") == "require"
    data = await request.app[TRIO](desk.give_proof, job, is_compact, must_anchor)
    if "json" in request.headers.get("Accept", ""):
        text = await request.app[TRIO](desk.spell_proof, data)
        return web.Response(text=text, content_type="application/json")
    return web.Response(body=data, content_type=DAG_CBOR_TYPE)


async def _cancel_job(request: web.Request) -> web.Response:
    body = await _read_body(request, {"cancel"})
    signed = from_dag_json_untrusted(json.dumps(body["cancel"]), Signed[CancelOrder])
    job = request.match_info["job"]
    return answer_json(await request.app[TRIO](request.app[DESK].cancel, job, signed))


async def _accept_work(request: web.Request) -> web.Response:
    body = await _read_body(request, {"acceptances"})
    signed = from_dag_json_untrusted(
        json.dumps(body["acceptances"]), tuple[Signed[Acceptance], ...]
    )
    job = request.match_info["job"]
    return answer_json(await request.app[TRIO](request.app[DESK].accept, job, signed))


# ---- reading requests --------------------------------------------------------------------------


async def _read_body(
    request: web.Request, required: set[str], optional: set[str] | None = None
) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the body is not JSON: {error}") from error
    known = required | (optional or set())
    if not isinstance(body, dict) or not required <= body.keys() <= known:
        raise InvalidInput(f"the body needs the fields {', '.join(sorted(known))} and no others")
    return body


def _read_number(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise InvalidInput(f"{name} is a whole number, not {text[:20]!r}")
    return int(text)
