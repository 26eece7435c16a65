"""Uploads relayed to an agent that can be called, and its files on their way back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from access import url_policy
from stack import ports
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.uploads.requests import CONTENT_TYPE, Part, body, nothing_is_stored, upload
from tests.uploads.stub_agent import StubAgent, stub_agent
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace
from workspaces.services import inbound_secret

pytestmark = pytest.mark.django_db
PARTS = [Part("a.txt", b"first"), Part("b.txt", bytes(range(256)) * 4000)]


@pytest.fixture
def stub() -> Iterator[StubAgent]:
    with stub_agent() as agent:
        yield agent


@pytest.fixture
def pushed(stub: StubAgent, settings: Any) -> Workspace:
    """A workspace whose agent gave its own url and knows its secret."""
    settings.MOLECULE_ENV = "development"  # the policy admits loopback
    row = WorkspaceFactory(delivery_mode="push", url=f"{stub.url}/")
    inbound_secret(row.pk)
    return row


def test_the_body_passes_through_untouched(pushed: Workspace, stub: StubAgent) -> None:
    answer = upload(
        agent_of(pushed.pk), pushed.pk, PARTS, HTTP_COOKIE="session=x", HTTP_X_MOLECULE_ORG_ID="x"
    )
    assert (answer.status_code, answer.getvalue()) == (200, stub.body)
    assert answer.headers["Content-Type"] == "application/json"
    (seen,) = stub.seen
    assert (seen.method, seen.path) == ("POST", "/internal/chat/uploads/ingest")
    assert seen.body == body(PARTS)
    assert seen.headers == {
        "host": stub.url.removeprefix("http://"),
        "authorization": f"Bearer {inbound_secret(pushed.pk)}",
        "content-type": CONTENT_TYPE,
        "content-length": str(len(body(PARTS))),
    }
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("status", "text"), [(413, "a.txt exceeds per-file limit (25 MB)"), (500, "disk full")]
)
def test_the_agents_refusal_passes_through(
    pushed: Workspace, stub: StubAgent, status: int, text: str
) -> None:
    stub.status, stub.body = status, f'{{"error":"{text}"}}'.encode()
    answer = upload(admin(), pushed.pk, PARTS)
    assert (answer.status_code, answer.getvalue()) == (status, stub.body)


def test_a_refusal_given_before_the_body_was_read_passes_through(pushed: Workspace, stub: StubAgent) -> None:
    stub.is_deaf, stub.status, stub.body = True, 413, b'{"error":"too large"}'
    answer = upload(admin(), pushed.pk, [Part("a.bin", bytes(20_000_000))])
    assert answer.status_code in {413, 502}  # a reset may overtake the answer


def test_a_redirect_is_followed_by_nobody(pushed: Workspace, stub: StubAgent) -> None:
    with stub_agent() as elsewhere:
        stub.status, stub.headers = 302, {"Location": elsewhere.url}
        assert upload(admin(), pushed.pk, PARTS).status_code == 502
        assert elsewhere.seen == []


def test_an_agent_with_another_secret_is_waited_for(pushed: Workspace, stub: StubAgent) -> None:
    stub.status = 401
    answer = upload(admin(), pushed.pk, PARTS)
    assert (answer.status_code, answer.json()["retry_after_seconds"]) == (503, 30)
    assert answer.headers["Retry-After"] == "30"


def test_nobody_there_is_a_502(pushed: Workspace) -> None:
    Workspace.objects.filter(pk=pushed.pk).update(url=f"http://127.0.0.1:{ports.choose(1)[0]}")
    answer = upload(admin(), pushed.pk, PARTS)
    assert (answer.status_code, answer.json()) == (502, {"error": "workspace unreachable"})


def test_a_name_without_an_address_is_a_502(pushed: Workspace) -> None:
    Workspace.objects.filter(pk=pushed.pk).update(url="http://nowhere.invalid")
    assert upload(admin(), pushed.pk, PARTS).json() == {"error": "workspace unreachable"}


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "file:///etc/passwd", "http://u:p@127.0.0.1/", "x"]
)
def test_an_address_that_the_policy_refuses_is_not_dialled(pushed: Workspace, url: str) -> None:
    Workspace.objects.filter(pk=pushed.pk).update(url=url)
    answer = upload(admin(), pushed.pk, PARTS)
    assert (answer.status_code, answer.json()) == (400, {"error": "workspace URL not allowed"})


def test_loopback_is_refused_where_nobody_develops(pushed: Workspace, stub: StubAgent, settings: Any) -> None:
    settings.MOLECULE_ENV = "production"
    assert upload(admin(), pushed.pk, PARTS).status_code == 400
    assert stub.seen == []
    Workspace.objects.filter(pk=pushed.pk).update(url_source="platform")  # written by the server itself
    assert upload(admin(), pushed.pk, PARTS).status_code == 200


def test_a_name_that_turns_elsewhere_when_it_is_dialled_reaches_nobody(
    pushed: Workspace, stub: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = stub.url.rpartition(":")[2]
    Workspace.objects.filter(pk=pushed.pk).update(url=f"http://turning.example:{port}")
    answers = iter(["127.0.0.1", "169.254.169.254"])
    asked = []

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 0))]

    monkeypatch.setattr(url_policy.socket, "getaddrinfo", resolve)
    answer = upload(admin(), pushed.pk, PARTS)
    assert (answer.status_code, answer.json()) == (400, {"error": "workspace URL not allowed"})
    assert asked == ["turning.example"] * 2
    assert stub.seen == []


def test_the_name_reaches_the_agent_at_the_address_that_was_vetted(
    pushed: Workspace, stub: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = stub.url.rpartition(":")[2]
    Workspace.objects.filter(pk=pushed.pk).update(url=f"http://named.example:{port}")
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == "named.example" else host, *args, **kwargs)

    monkeypatch.setattr(url_policy.socket, "getaddrinfo", resolve)
    assert upload(admin(), pushed.pk, PARTS).status_code == 200
    assert stub.seen[0].headers["host"] == f"named.example:{port}"


@pytest.mark.django_db(transaction=True)
def test_a_secret_that_had_to_be_made_is_made_once_and_waited_for(pushed: Workspace, stub: StubAgent) -> None:
    Workspace.objects.filter(pk=pushed.pk).update(platform_inbound_secret=None)
    answers = at_once(*[lambda: upload(admin(), pushed.pk, PARTS)] * 4)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert {(one.json()["retry_after_seconds"], one.headers["Retry-After"]) for one in refused} == {
        (30, "30")
    }
    assert all("detail" in one.json() for one in refused)
    secret = inbound_secret(pushed.pk)
    assert upload(admin(), pushed.pk, PARTS).status_code == 200
    assert {seen.headers["authorization"] for seen in stub.seen} == {f"Bearer {secret}"}


def test_a_secret_that_cannot_be_had_says_what_helps(pushed: Workspace, stub: StubAgent) -> None:
    with statements_fail("platform_inbound_secret"):
        answer = upload(admin(), pushed.pk, PARTS)
    assert answer.status_code == 503
    assert "reprovision" in answer.json()["detail"]
    assert stub.seen == []


def test_staging_switched_off_changes_nothing_for_those_who_can_be_called(
    pushed: Workspace, stub: StubAgent, settings: Any
) -> None:
    settings.PENDING_UPLOADS_BACKEND = "off"
    assert upload(admin(), pushed.pk, PARTS).status_code == 200
    Workspace.objects.filter(pk=pushed.pk).update(delivery_mode="poll")
    assert upload(admin(), pushed.pk, PARTS).status_code == 200
    assert len(stub.seen) == 2


# --- Download
# ------------------------------------------------------------------------------------------------------------


def download(pushed: Workspace, path: str | None) -> Any:
    query = "" if path is None else f"?{urlencode({'path': path})}"
    return admin().get(f"/workspaces/{pushed.pk}/chat/download{query}")


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (None, 400, "path query required"),
        ("", 400, "path query required"),
        ("workspace/a", 400, "must be absolute"),
        ("workspace:/workspace/a", 400, "must be absolute"),
        ("file:///workspace/a", 400, "must be absolute"),
        ("/etc/passwd", 400, "must be under"),
        ("/workspacex/a", 400, "must be under"),
        ("/workspace//a", 400, "invalid path"),
        ("/workspace/a/", 400, "invalid path"),
        ("/workspace/../etc/passwd", 400, "invalid path"),
        ("/workspace/./a", 400, "invalid path"),
        ("/workspace/a\nb", 400, "invalid path"),
        ("/workspace/a\x00b", 400, "invalid path"),
        ("/configs/.auth_token", 403, "not for download"),
        ("/configs/sub/.platform_inbound_secret", 403, "not for download"),
    ],
)
def test_a_path_is_judged_as_text(
    pushed: Workspace, stub: StubAgent, path: str | None, status: int, text: str
) -> None:
    answer = download(pushed, path)
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert stub.seen == []


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/workspace/a..b.txt", "%2Fworkspace%2Fa..b.txt"),
        (
            "/workspace/.molecule/chat-uploads/0f-a..b.txt",
            "%2Fworkspace%2F.molecule%2Fchat-uploads%2F0f-a..b.txt",
        ),
        ("/home/me/ü &x.pdf", "%2Fhome%2Fme%2F%C3%BC%20%26x.pdf"),
        ("/configs/config.yaml", "%2Fconfigs%2Fconfig.yaml"),
        ("/workspace", "%2Fworkspace"),
    ],
)
def test_a_file_comes_back(pushed: Workspace, stub: StubAgent, path: str, asked: str) -> None:
    stub.body, stub.headers = b"bytes", {"Content-Type": "text/plain; charset=utf-8"}
    answer = download(pushed, path)
    assert (answer.status_code, answer.getvalue()) == (200, b"bytes")
    assert stub.seen[0].path == f"/internal/file/read?path={asked}"
    assert stub.seen[0].headers["authorization"] == f"Bearer {inbound_secret(pushed.pk)}"
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Content-Length"] == "5"


def test_a_hostile_agent_cannot_put_a_page_on_our_address(pushed: Workspace, stub: StubAgent) -> None:
    stub.body = b"<script>"
    stub.headers = {"Content-Type": "text/html", "Content-Disposition": "inline", "Set-Cookie": "a=b"}
    answer = download(pushed, "/workspace/page.html")
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="page.html"')
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers


def test_the_agents_404_passes_through_and_a_long_error_is_cut(pushed: Workspace, stub: StubAgent) -> None:
    stub.status, stub.body = 404, b'{"error":"no such file"}'
    answer = download(pushed, "/workspace/a")
    assert (answer.status_code, answer.content) == (404, stub.body)
    stub.status, stub.body = 500, b"x" * 200_000
    assert len(download(pushed, "/workspace/a").content) == 64 * 1024


def test_who_has_no_url_has_no_downloads(pushed: Workspace) -> None:
    Workspace.objects.filter(pk=pushed.pk).update(url=None)
    assert download(pushed, "/workspace/a").status_code == 503
    Workspace.objects.filter(pk=pushed.pk).update(delivery_mode="poll")
    answer = download(pushed, "/workspace/a")
    assert answer.status_code == 422
    assert "download" in answer.json()["error"]
    assert admin().get(f"/workspaces/{uuid4()}/chat/download?path=/workspace/a").status_code == 404


def test_a_lookup_that_fails_is_a_503(pushed: Workspace) -> None:
    with statements_fail('FROM "workspaces"'):
        assert download(pushed, "/workspace/a").status_code == 503
