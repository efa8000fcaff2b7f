"""
HTTP to a coordinator: JSON both ways, problems as typed errors, streams that resume.

Nothing here knows what a job is. Reads are tried again when nobody answers; writes are not,
unless they carry an idempotency key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final

import aiohttp

from gpumarket.protocol.catalog import find_entry
from gpumarket.protocol.errors import GpuMarketError

ANSWER_BYTES_MAX: Final = 32 * 2**20
"""The longest JSON answer that is read."""
LINE_BYTES_MAX: Final = 2**20
"""The longest line of an event stream."""
REQUEST_SECONDS: Final = 60
CONNECT_SECONDS: Final = 5
SILENCE_SECONDS: Final = 60
"""A stream without a byte for this long is dead; servers send a comment every 15 s."""
RETRY_PAUSES_S: Final = (0.2, 0.6)
JSON_TYPE: Final = "application/json"

Json = dict[str, Any]


class CoordinatorRefused(GpuMarketError):
    """
    The coordinator said no, with its reasons.

    `problem` is its whole answer: `funnel`, `charged`, `retryable` and what else it sent.
    """

    default_code = "GM-8001"

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        code = str(problem.get("code", ""))
        entry = find_entry(code)
        title = str(problem.get("title") or (entry.title if entry else "refused"))
        # The detail is what happened here; the title is the same for every error of its kind.
        message = str(problem.get("detail") or title)
        hints = problem.get("hints") or (entry.remedies if entry else ())
        super().__init__(
            message[:300],
            code=code if entry else _code_of_status(status),
            why=str(problem.get("why") or "")[:2000],
            money=str(problem.get("money") or "")[:500],
            hints=tuple(_read_hint(hint) for hint in hints)[:5],
            fault=str(problem.get("fault") or ""),
        )
        self.problem = dict(problem)
        self.status = status
        self.retryable = bool(problem.get("retryable", entry.retryable if entry else False))


class CoordinatorUnreachable(GpuMarketError):
    """Nobody answered at the coordinator's address; try again later."""

    default_code = "GM-8003"


class AnswerNotUnderstood(GpuMarketError):
    """The coordinator's answer has not the promised form."""

    default_code = "GM-8004"


class Transport:
    """One pool of connections to one coordinator; use as an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Read JSON; tried again where nobody answers."""
        return await self._try_again("GET", path, params=params or {})

    async def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON and read the answer; with an `Idempotency-Key` it is tried again."""
        headers = headers or {}
        if "Idempotency-Key" in headers:
            return await self._try_again("POST", path, json=body, headers=headers)
        return await self._ask("POST", path, json=body, headers=headers)

    async def upload(self, path: str, pieces: AsyncIterator[bytes], *, content_type: str) -> Any:
        """Send a body of unknown length piece by piece; no limit on the whole time."""
        return await self._ask(
            "POST",
            path,
            data=pieces,
            headers={"Content-Type": content_type},
            timeout=_stream_timeout(),
        )

    async def exists(self, path: str) -> bool:
        """Ask whether there is something at `path`, without its body."""
        try:
            async with self._send("HEAD", path) as answer:
                return answer.status < 300
        except CoordinatorRefused:
            return False

    @asynccontextmanager
    async def open(
        self, path: str, *, accept: str = "*/*", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a long answer: an iterator over its bytes as they come."""
        sent = {"Accept": accept, **(headers or {})}
        async with self._send("GET", path, headers=sent, timeout=_stream_timeout()) as answer:
            yield self._read_pieces(answer)

    async def _read_pieces(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for piece in answer.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def _try_again(self, method: str, path: str, **options: Any) -> Any:
        for pause in RETRY_PAUSES_S:
            try:
                return await self._ask(method, path, **options)
            except CoordinatorUnreachable:
                await asyncio.sleep(pause)
        return await self._ask(method, path, **options)

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        async with self._send(method, path, **options) as answer:
            try:
                data = await answer.content.read(ANSWER_BYTES_MAX + 1)
                while len(data) <= ANSWER_BYTES_MAX and not answer.content.at_eof():
                    data += await answer.content.read(ANSWER_BYTES_MAX + 1)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._unreachable(error) from error
        return _parse_json(data, path)

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise GpuMarketError("the client is used outside its `with` block")
        try:
            answer = await self._session.request(method, self.url + path, **options)
        except aiohttp.InvalidURL as error:
            raise CoordinatorUnreachable(
                f"{self.url!r} is not the address of a coordinator",
                hints=("gpumarket config show --origin",),
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        async with answer:
            if answer.status >= 400:
                raise CoordinatorRefused(await _read_problem(answer), answer.status)
            yield answer

    def _unreachable(self, error: BaseException) -> CoordinatorUnreachable:
        reason = str(error) or type(error).__name__
        return CoordinatorUnreachable(
            f"no contact with the coordinator {self.url}",
            why=reason[:200],
            money="unchanged; running jobs are not affected",
            hints=("gpumarket doctor", "gpumarket config show --origin"),
            fault="network",
        )


async def read_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Cut a stream of bytes into lines; a line over the limit is an error."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
        if len(rest) > LINE_BYTES_MAX:
            raise AnswerNotUnderstood(f"a line of more than {LINE_BYTES_MAX} bytes")


def _stream_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
    )


async def _read_problem(answer: aiohttp.ClientResponse) -> Json:
    try:
        data = await answer.content.read(ANSWER_BYTES_MAX)
        problem = json.loads(data)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"title": f"the coordinator answered {answer.status} {answer.reason}"}


def _parse_json(data: bytes, path: str) -> Any:
    if len(data) > ANSWER_BYTES_MAX:
        raise AnswerNotUnderstood(f"{path}: more than {ANSWER_BYTES_MAX} bytes")
    try:
        return json.loads(data)
    except ValueError as error:
        raise AnswerNotUnderstood(f"{path}: the answer is not JSON") from error


def _read_hint(hint: object) -> str:
    if isinstance(hint, Mapping):
        return str(hint.get("command") or hint.get("text") or "")[:300]
    return str(hint)[:300]


def _code_of_status(status: int) -> str:
    return {401: "GM-1204", 404: "GM-8005", 409: "GM-5003", 413: "GM-6013", 429: "GM-8002"}.get(
        status, "GM-8001"
    )
