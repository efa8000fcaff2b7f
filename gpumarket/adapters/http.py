"""HTTP beside trio: aiohttp lives in one thread, and its lifetime is one trio task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import trio
from aiohttp import web
from anyio.from_thread import BlockingPortal

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

T = TypeVar("T")

SHUTDOWN_SECONDS = 2.0


class TrioSide:
    """Call into the trio loop from asyncio: `result = await trio_side(fn, *args)`."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    async def __call__(self, fn: Callable[..., Awaitable[T]], *args: object) -> T:
        return await asyncio.wrap_future(self._portal.start_task_soon(fn, *args))


async def serve_http(
    make_app: Callable[[TrioSide], web.Application],
    host: str,
    port: int,
    *,
    task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `task_status` reports the bound port."""

    async def report_started(bound_port: int) -> None:
        task_status.started(bound_port)

    async def asyncio_main(trio_side: TrioSide) -> None:
        runner = web.AppRunner(
            make_app(trio_side),
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_SECONDS,
            access_log=None,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            await trio_side(report_started, runner.addresses[0][1])
            await trio_side(trio.sleep_forever)  # ends when the trio side is cancelled
        finally:
            await runner.cleanup()

    async with BlockingPortal() as portal:
        try:
            await trio.to_thread.run_sync(lambda: asyncio.run(asyncio_main(TrioSide(portal))))
        except asyncio.CancelledError:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise


def make_pages_app(trio_side: TrioSide, pages: Mapping[str, Callable[[], str]]) -> web.Application:
    """Build an application of read-only pages, each made on the trio side when asked for."""

    def make_handler(make_page: Callable[[], str]) -> Callable[..., Awaitable[web.Response]]:
        async def call() -> str:
            return make_page()

        async def handle(_request: web.Request) -> web.Response:
            text = await trio_side(call)
            kind = "application/json" if text.startswith(("{", "[")) else "text/plain"
            return web.Response(text=text, content_type=kind)

        return handle

    app = web.Application()
    app.add_routes([web.get(path, make_handler(page)) for path, page in pages.items()])
    return app
