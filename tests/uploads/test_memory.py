"""The budgets of memory and streaming, in the process that serves bodies."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from config.settings import env
from tests.clients import agent_of
from tests.conftest import ADMIN_TOKEN
from tests.uploads.factories import row, staged
from tests.uploads.files_process import MIB, FilesProcess
from tests.uploads.requests import BOUNDARY, CONTENT_TYPE, END, Part, body, inbox
from tests.uploads.stub_agent import StubAgent, stub_agent
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from uploads.limits import MAX_FILE_BYTES, MAX_REQUEST_BYTES
from uploads.models import PendingUpload
from workspaces.models import Workspace
from workspaces.services import inbound_secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]
STORED_AS = {"postgres": "inline", "s3": "s3"}
NEARLY = MAX_FILE_BYTES - 1024  # two of them and their framing are one request


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[FilesProcess]:
    if "storage" in request.fixturenames:
        request.getfixturevalue("storage")  # says where
    names = [name for name in env.declared if name.startswith("PENDING_UPLOADS_")]
    more = {name: str(getattr(settings, name)) for name in names}
    process = FilesProcess(tmp_path, MOLECULE_ENV="development", **more)
    yield process
    process.end()


def path(workspace: Workspace, what: str = "chat/uploads") -> str:
    return f"/workspaces/{workspace.pk}/{what}"


def staged_by(served: FilesProcess, workspace: Workspace, raw: Any, **headers: str) -> list[dict[str, Any]]:
    status, answer = served.ask("POST", path(workspace), raw, **headers)
    assert status == 200, answer
    files: list[dict[str, Any]] = json.loads(answer)["files"]
    return files


@pytest.mark.parametrize(("storage", "bound"), [("postgres", 96), ("s3", 24)], indirect=["storage"])
def test_staging_takes_the_memory_of_no_file(
    storage: str, bound: int, served: FilesProcess, polling: Workspace
) -> None:
    two = body([Part("a.bin", os.urandom(NEARLY)), Part("b.bin", os.urandom(NEARLY))])
    assert len(two) <= MAX_REQUEST_BYTES
    staged_by(served, polling, body([Part("warm.txt", b"x")]))
    with served.growth() as growth:
        staged_by(served, polling, two)
    assert growth[0] <= bound, f"{growth[0]:.0f} MiB"
    with served.growth() as growth, ThreadPoolExecutor(4) as four:
        done = list(four.map(lambda _: staged_by(served, polling, two), range(20)))
    assert [len(files) for files in done] == [2] * 20
    assert set(PendingUpload.objects.values_list("storage", flat=True)) == {STORED_AS[storage]}
    assert growth[0] <= 96, f"{growth[0]:.0f} MiB"  # what one of them might take


def test_a_fetch_takes_the_memory_of_no_file(storage: str, served: FilesProcess, polling: Workspace) -> None:
    data = os.urandom(MAX_FILE_BYTES)
    large, small = staged(polling.pk, data), staged(polling.pk)
    assert served.ask("GET", path(polling, f"pending-uploads/{small}/content"))[1] == b"some bytes"
    with served.growth() as growth:
        assert served.ask("GET", path(polling, f"pending-uploads/{large}/content"))[1] == data
    assert growth[0] <= 8, f"{growth[0]:.0f} MiB"


def test_looking_acknowledging_and_listing_cost_nothing(
    storage: str, served: FilesProcess, polling: Workspace
) -> None:
    large = [staged(polling.pk, bytes(MAX_FILE_BYTES)) for _ in range(3)]
    for warm in ("pending-uploads", f"pending-uploads/{large[0]}/ack"):
        served.ask("POST" if warm.endswith("ack") else "GET", path(polling, warm))
    with served.growth() as growth:
        assert len(json.loads(served.ask("GET", path(polling, "pending-uploads"))[1])["files"]) == 2
        for one in large:
            assert served.ask("POST", path(polling, f"pending-uploads/{one}/ack"))[0] == 200
    assert growth[0] <= 1, f"{growth[0]:.1f} MiB"


@pytest.fixture
def stub() -> Iterator[StubAgent]:
    with stub_agent() as agent:
        yield agent


@pytest.fixture
def pushed(stub: StubAgent) -> Workspace:
    row = WorkspaceFactory(delivery_mode="push", url=stub.url)
    inbound_secret(row.pk)
    return row


def test_a_relayed_upload_is_not_kept(served: FilesProcess, pushed: Workspace, stub: StubAgent) -> None:
    raw = body([Part("a.bin", os.urandom(NEARLY)), Part("b.bin", os.urandom(NEARLY))])
    served.ask("POST", path(pushed), body([Part("warm.txt", b"x")]))
    with served.growth() as growth:
        assert served.ask("POST", path(pushed), raw)[0] == 200
    assert stub.seen[-1].body == raw
    assert growth[0] <= 8, f"{growth[0]:.0f} MiB"


def test_a_large_artefact_passes_through(served: FilesProcess, pushed: Workspace, stub: StubAgent) -> None:
    served.ask("GET", path(pushed, "chat/download?path=/workspace/warm"))
    size, piece = 1024 * MIB, os.urandom(MIB)
    stub.length, stub.pieces = size, iter([piece] * 1024)
    connection = served.connection()
    with served.growth() as growth:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        connection.request("GET", path(pushed, "chat/download?path=/workspace/big"), headers=headers)
        answer = connection.getresponse()
        assert answer.getheader("Content-Length") == str(size)
        seen = 0
        while got := answer.read(MIB):
            assert got == piece[: len(got)]
            seen += len(got)
    assert seen == size
    assert growth[0] <= 8, f"{growth[0]:.0f} MiB"
    connection.close()


# --- Bodies of unknown length, and clients that leave
# -----------------------------------------------------------------------


def pieces(raw: bytes, size: int = 100_000) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, len(raw), size))


def test_a_body_in_chunks_is_staged(served: FilesProcess, polling: Workspace) -> None:
    raw = body([Part("a.bin", os.urandom(1_000_000)), Part("b.txt", b"second")])
    files = staged_by(served, polling, pieces(raw))
    assert [one["size"] for one in files] == [1_000_000, 6]
    assert len(inbox(polling.pk)) == 2


def test_a_body_in_chunks_is_relayed(served: FilesProcess, pushed: Workspace, stub: StubAgent) -> None:
    raw = body([Part("a.bin", os.urandom(1_000_000))])
    assert served.ask("POST", path(pushed), pieces(raw))[0] == 200
    assert stub.seen[-1].body == raw
    assert stub.seen[-1].headers["transfer-encoding"] == "chunked"


def endless() -> Iterator[bytes]:
    yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="other"\r\n\r\n'.encode()
    for _ in range(MAX_REQUEST_BYTES // MIB + 1):
        yield bytes(MIB)
    yield b"\r\n" + END


@pytest.mark.parametrize("way", ["polling", "pushed"])
def test_chunks_beyond_the_limit_are_a_413(
    way: str, served: FilesProcess, request: pytest.FixtureRequest
) -> None:
    status, answer = served.ask("POST", path(request.getfixturevalue(way)), endless())
    assert (status, json.loads(answer)["max"]) == (413, MAX_REQUEST_BYTES)
    assert not PendingUpload.objects.exists()


def test_a_length_beyond_the_limit_is_refused_at_once(served: FilesProcess, polling: Workspace) -> None:
    connection = served.connection()
    connection.putrequest("POST", path(polling))
    connection.putheader("Authorization", f"Bearer {ADMIN_TOKEN}")
    connection.putheader("Content-Length", str(60 * MIB))
    connection.endheaders()  # and not a byte of it
    began = time.monotonic()
    assert connection.getresponse().status == 413
    assert time.monotonic() - began < 5
    connection.close()


@pytest.mark.parametrize("way", ["polling", "pushed"])
def test_a_sender_who_leaves_halfway_leaves_nothing(
    way: str, served: FilesProcess, stub: StubAgent, request: pytest.FixtureRequest
) -> None:
    raw = body([Part("a.txt", b"whole"), Part("b.bin", bytes(MIB))])
    connection = served.connection()
    connection.putrequest("POST", path(request.getfixturevalue(way)))
    connection.putheader("Authorization", f"Bearer {ADMIN_TOKEN}")
    connection.putheader("Content-Type", CONTENT_TYPE)
    connection.putheader("Content-Length", str(len(raw)))
    connection.endheaders()
    connection.send(raw[:-200_000])
    connection.close()
    eventually(lambda: "pending_upload.rejected" in served.log.read_text() or way == "pushed")
    assert not PendingUpload.objects.exists()
    assert all(len(seen.body) < len(raw) for seen in stub.seen)


def test_an_agent_that_leaves_halfway_has_fetched_nothing(served: FilesProcess, polling: Workspace) -> None:
    one = staged(polling.pk, bytes(MAX_FILE_BYTES))
    token = agent_of(polling.pk)._client.defaults["HTTP_AUTHORIZATION"]
    connection = served.connection()
    connection.request(
        "GET", path(polling, f"pending-uploads/{one}/content"), headers={"Authorization": token}
    )
    assert len(connection.getresponse().read(1000)) == 1000
    connection.close()
    eventually(lambda: "pending_upload.fetch_aborted" in served.log.read_text())
    assert row(one).fetched_at is None
    status, data = served.ask(
        "GET", path(polling, f"pending-uploads/{one}/content"), Authorization=str(token)
    )
    assert (status, len(data)) == (200, MAX_FILE_BYTES)
    eventually(lambda: row(one).fetched_at is not None, within_s=5)


def test_slow_readers_hold_no_database_connection(tmp_path: Path, polling: Workspace) -> None:
    one = staged(polling.pk, bytes(MAX_FILE_BYTES))
    served = FilesProcess(tmp_path, DATABASE_POOL_SIZE="2")
    try:
        slow: list[http.client.HTTPResponse] = []
        for _ in range(8):
            connection = served.connection()
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            connection.request("GET", path(polling, f"pending-uploads/{one}/content"), headers=headers)
            answer = connection.getresponse()
            assert answer.read(1000)
            slow.append(answer)
        began = time.monotonic()
        assert served.ask("GET", path(polling, "pending-uploads"))[0] == 200
        assert served.ask("GET", "/health/ready")[0] in {200, 503}
        assert time.monotonic() - began < 5
        for answer in slow:
            assert len(answer.read()) == MAX_FILE_BYTES - 1000
    finally:
        served.end()
