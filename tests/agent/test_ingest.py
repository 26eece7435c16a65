"""Files relayed to an agent that can be called, and its own files on their way to the user."""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import names as agent_names
from agent.ingest import FIELDS_LIMIT, FILE_LIMIT_BYTES, FILES_LIMIT, REQUEST_LIMIT_BYTES
from agent.multipart import Malformed, boundary_of, parts
from tests.agent.conftest import StartAgent
from tests.agent.fake_platform import SECRET
from tests.agent.processes import call
from tests.uploads.cases import NAMES
from tests.uploads.requests import BOUNDARY, CONTENT_TYPE, END, Part, body, field
from tests.uploads.requests import part as encoded
from uploads import limits
from uploads.receiving import received_files

INGEST = "/internal/chat/uploads/ingest"
FOLDER = "workspace/.molecule/chat-uploads"


def post(port: int, raw: bytes, *, secret: str | None = SECRET, kind: str = CONTENT_TYPE) -> tuple[int, Any]:
    return call(port, "POST", INGEST, raw, token=secret, headers={"Content-Type": kind})


def test_files_are_written_and_told(serve: StartAgent, tmp_path: Path) -> None:
    port = serve(secret=SECRET).port()
    data = os.urandom(300_000)
    status, answer = post(
        port, body([Part("a b.bin", data), Part("notes.txt", b"n"), Part("x", b"y", "Text/HTML")])
    )
    assert status == 200
    files = answer["files"]
    assert [(one["name"], one["mimeType"], one["size"]) for one in files] == [
        ("a_b.bin", "application/octet-stream", 300_000),
        ("notes.txt", "text/plain", 1),
        ("x", "text/html", 1),
    ]
    stored = tmp_path / FOLDER / files[0]["uri"].rpartition("/")[2]
    assert files[0]["uri"].startswith("workspace:/workspace/.molecule/chat-uploads/")
    assert stored.read_bytes() == data
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600


def test_chunks_are_taken_as_well(serve: StartAgent, tmp_path: Path) -> None:
    port = serve(secret=SECRET).port()
    raw = body([Part("a.txt", b"x" * 100_000)])
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        head = [f"POST {INGEST} HTTP/1.1", "Host: x", f"Content-Type: {CONTENT_TYPE}"]
        head += [f"Authorization: Bearer {SECRET}", "Transfer-Encoding: chunked", "Connection: close", "", ""]
        connection.sendall("\r\n".join(head).encode())
        for start in range(0, len(raw), 7_000):
            piece = raw[start : start + 7_000]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b" 200 " in answer.splitlines()[0]
    (stored,) = (tmp_path / FOLDER).iterdir()
    assert stored.read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("secret", [None, "", SECRET[:-1]])
def test_the_secret_is_needed(serve: StartAgent, secret: str | None, tmp_path: Path) -> None:
    assert post(serve(secret=SECRET).port(), body([Part("a", b"x")]), secret=secret)[0] == 401
    assert not (tmp_path / FOLDER).exists()


def test_without_a_secret_nobody_may(serve: StartAgent) -> None:
    port = serve().port()
    assert post(port, body([Part("a", b"x")]), secret=None)[0] == 401
    assert call(port, "GET", "/internal/file/read?path=/workspace/a")[0] == 401


@pytest.mark.parametrize(
    ("raw", "status", "text"),
    [
        (b"garbage", 400, "malformed multipart"),
        (encoded(Part("a.txt", b"x")), 400, "malformed multipart"),
        (encoded(Part("a.txt", b"x")) + encoded(Part("b.txt", b"x"))[:-4], 400, "malformed multipart"),
        (END, 400, "no files field"),
        (field("a", "b") + END, 400, "no files field"),
        (body([Part("a.txt", b"x", field="file")]), 400, "no files field"),
        (body([Part(f"{n}", b"x") for n in range(FILES_LIMIT + 1)]), 400, "too many files"),
        (b"".join(field(f"{n}", "x") for n in range(FIELDS_LIMIT + 1)) + END, 400, "too many files"),
        (
            body([Part("ok", b"x"), Part("big", bytes(FILE_LIMIT_BYTES + 1))]),
            413,
            "big exceeds per-file limit",
        ),
        (bytes(REQUEST_LIMIT_BYTES + 1), 413, "too large"),
    ],
    ids=["garbage", "cut", "cut late", "no part", "no file", "other", "files", "fields", "file", "request"],
)
def test_what_is_refused_leaves_nothing(
    serve: StartAgent, raw: bytes, status: int, text: str, tmp_path: Path
) -> None:
    answered, answer = post(serve(secret=SECRET).port(), raw)
    assert answered == status, answer
    assert text in answer["error"]
    if "malformed" in text:
        assert answer["exception"]
        assert answer["detail"]
    assert not (tmp_path / FOLDER).exists() or not list((tmp_path / FOLDER).iterdir())


def test_a_folder_that_cannot_be_made_is_a_500_that_says_so(serve: StartAgent, tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("a file in the way")
    status, answer = post(serve(secret=SECRET).port(), body([Part("a", b"x")]))
    assert status == 500
    assert {"error", "path", "errno", "detail"} == set(answer)


@pytest.mark.parametrize(("given_name", "stored"), NAMES)
def test_names_are_the_servers(given_name: str, stored: str) -> None:
    assert agent_names.sanitised(given_name) == stored


def test_limits_are_the_servers() -> None:
    assert (FILE_LIMIT_BYTES, REQUEST_LIMIT_BYTES) == (limits.MAX_FILE_BYTES, limits.MAX_REQUEST_BYTES)
    assert (FILES_LIMIT, FIELDS_LIMIT) == (limits.MAX_FILES, limits.MAX_FIELDS)
    assert agent_names.MAX_CHARACTERS == limits.MAX_FILENAME


# --- The two parsers agree
# --------------------------------------------------------------------------------------------------

Found = list[tuple[str, bytes]] | str


def by_the_agent(raw: bytes, step: int) -> Found:
    source = io.BytesIO(raw)
    try:
        found = [
            (agent_names.sanitised(part.filename), b"".join(part.chunks))
            for part in parts(lambda count: source.read(min(count, step)), boundary_of(CONTENT_TYPE))
            if part.filename is not None and part.name == "files"
        ]
    except Malformed:
        return "malformed"
    return found or "malformed"


def by_the_server(raw: bytes, step: int) -> Found:
    from config.errors import DomainError

    source = io.BytesIO(raw)
    try:
        with received_files(lambda count: source.read(min(count, step)), CONTENT_TYPE) as items:
            found = []
            for item in items:
                item.body.seek(0)
                found.append((item.filename, item.body.read()))
            return found
    except DomainError:
        return "malformed"


tricky = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.sampled_from([b"\r\n--" + BOUNDARY.encode()[:-1], b"\r\n", b"--", b"\r", b"\r\n------"]),
)


@given(
    files=st.lists(st.tuples(st.text(max_size=20), tricky), min_size=1, max_size=4),
    step=st.integers(1, 300),
    cut=st.one_of(st.none(), st.integers(1, 400)),
)
def test_both_parsers_read_the_same(files: list[tuple[str, bytes]], step: int, cut: int | None) -> None:
    clean = [
        Part("".join(c for c in name if c.isprintable() and c not in '"\\'), data) for name, data in files
    ]
    raw = body(clean)
    if cut is not None:
        raw = raw[: max(0, len(raw) - 2 - cut)]
    assert by_the_agent(raw, step) == by_the_server(raw, step)


# --- GET /internal/file/read
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def read(serve: StartAgent, tmp_path: Path) -> Callable[[str], tuple[int, Any]]:
    folder = tmp_path / "workspace"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a..b.json").write_text('{"a":1}')
    (folder / "link.json").symlink_to(folder / "sub/a..b.json")
    (folder / "linked").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    port = serve(secret=SECRET).port()
    return lambda path: call(port, "GET", f"/internal/file/read?path={quote(path, safe='')}", token=SECRET)


def test_a_file_of_the_workspace_is_served(read: Callable[[str], tuple[int, Any]]) -> None:
    assert read("/workspace/sub/a..b.json") == (200, {"a": 1})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/workspace/none", 404),
        ("/workspace/none/deeper", 404),
        ("/workspace/sub", 400),
        ("/workspace/link.json", 400),
        ("/workspace/linked/passwd", 400),
        ("/workspace/pipe", 400),
        ("/workspace/../configs/.auth_token", 400),
        ("/configs/.auth_token", 400),
        ("/etc/passwd", 400),
        ("relative", 400),
        ("", 400),
        ("/workspace/a\x00b", 400),
    ],
)
def test_nothing_else_is(read: Callable[[str], tuple[int, Any]], path: str, status: int) -> None:
    answered, answer = read(path)
    assert answered == status
    assert set(answer) == {"error"}
