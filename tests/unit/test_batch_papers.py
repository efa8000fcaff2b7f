"""Papers from strangers: whatever they give, it is right by its hash or it counts as not shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpumarket.adapters.batch_papers import HttpArchive, drop_papers, read_papers
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.objections import Papers, list_attestors
from gpumarket.testing.factories import change, make_address
from tests.watch_scene import make_paid, make_papers, post


@dataclass
class Shelf:
    """Documents in memory; one may be put there under a name that is not its own."""

    documents: dict[Hash32, bytes] = field(default_factory=dict)

    async def get(self, name: Hash32, *, deadline_s: float) -> bytes:
        if name not in self.documents:
            raise ContentError("nobody has it", code="GM-6012")
        return self.documents[name]

    async def drop(self, name: Hash32) -> None:
        self.documents.pop(name, None)


def make_scene() -> tuple[Papers, Shelf]:
    orders = [make_paid("one"), make_paid("two")]
    for paid in orders:
        paid.check(paid.work(0))
    papers = make_papers(*orders)
    shelf = Shelf()
    for document in (papers.document, *papers.bills.values()):
        shelf.documents[compute_content_hash(document)] = encode_document(document)
    return papers, shelf


async def read(papers: Papers, shelf: Shelf) -> tuple[Papers | None, bool]:
    return await read_papers(shelf, post(papers).posted, wanted=[0, 1], deadline_s=5)


async def test_papers_that_are_there_are_read_whole_and_dropped_together() -> None:
    papers, shelf = make_scene()
    assert await read(papers, shelf) == (papers, True)
    await drop_papers(shelf, post(papers).posted)
    assert shelf.documents == {}


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, encode_document({"coordinator": b""})])
async def test_what_is_no_batch_document_counts_as_not_shown(data: bytes) -> None:
    papers, shelf = make_scene()
    shelf.documents[compute_content_hash(papers.document)] = data
    assert await read(papers, shelf) == (None, False)


async def test_another_batch_than_the_posted_one_counts_as_not_shown() -> None:
    papers, shelf = make_scene()
    other = change(papers.document, lanes=papers.document.lanes[:1])
    shelf.documents[compute_content_hash(papers.document)] = encode_document(other)
    assert await read(papers, shelf) == (None, False)


async def test_a_bill_of_another_order_or_none_leaves_its_order_without() -> None:
    papers, shelf = make_scene()
    first, second = papers.bills
    name = compute_content_hash(papers.bills[first])
    for planted in (encode_document(papers.bills[second]), b"no bill"):
        shelf.documents[name] = planted
        found, is_whole = await read(papers, shelf)
        assert found is not None
        assert (set(found.bills), is_whole) == ({second}, False)


def test_only_who_is_paid_for_checks_is_asked_about() -> None:
    papers, _ = make_scene()
    lanes = range(len(papers.document.lanes))
    assert list_attestors(papers, lanes) == {make_address("verifier-1")}
    assert list_attestors(papers, []) == set()


# ---- over HTTP -----------------------------------------------------------------------------


@dataclass
class Server:
    url: str
    answer: bytes = b""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200 if found.answer else 404)
            self.end_headers()
            self.wfile.write(found.answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found = Server(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield found
        http.shutdown()
        thread.join(5)


async def test_an_api_is_asked_once_and_its_answer_is_kept(server: Server, tmp_path: Path) -> None:
    papers, _ = make_scene()
    archive, name = (
        HttpArchive(server.url, tmp_path / "papers"),
        compute_content_hash(papers.document),
    )
    server.answer = encode_document(papers.document)
    for _ in range(2):
        assert await archive.get(name, deadline_s=5) == server.answer
    assert len(server.asked) == 1
    (tmp_path / "papers" / name.hex()).write_bytes(b"half")
    assert await archive.get(name, deadline_s=5) == server.answer
    await archive.drop(name)
    await archive.drop(name)
    assert list_files(tmp_path / "papers") == []


async def test_an_api_that_gives_other_bytes_or_none_gives_nothing(
    server: Server, tmp_path: Path
) -> None:
    papers, _ = make_scene()
    archive, name = HttpArchive(server.url, tmp_path), compute_content_hash(papers.document)
    for answer in (b"", b"other"):
        server.answer = answer
        with pytest.raises(ContentError):
            await archive.get(name, deadline_s=5)
    with pytest.raises(ContentError):
        await HttpArchive("file:///etc", tmp_path).get(name, deadline_s=5)
    assert list_files(tmp_path) == []


def list_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
