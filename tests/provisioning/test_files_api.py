"""The routes of a workspace's files, over every backend that keeps files and the ones that do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.test import RequestFactory

from config.wsgi import application
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass, File
from provisioning.services.files import HIDDEN
from templates.loader import load_text
from templates.services import stored_files
from tests.clients import admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.provisioning.conftest import queued, running
from tests.provisioning.harness import Harness, spec
from tests.provisioning.machines import MACHINES, wired
from tests.provisioning.test_conformance import HARNESSES, MARKS
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


@pytest.fixture(
    params=[pytest.param(one, marks=MARKS.get(one, ())) for one in ("memory", "process", "docker")]
)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made = HARNESSES[request.param](request, tmp_path)
    dispatch.wire(made.backend())
    yield made
    dispatch.choose_again()
    made.end()


@pytest.fixture(params=["runs", "stopped"])
def place(request: pytest.FixtureRequest, harness: Harness) -> tuple[Workspace, str]:
    """A workspace with storage, and what the source of its files is called."""
    row = WorkspaceFactory()
    dispatch.start(spec(row.pk))
    if request.param == "stopped":
        dispatch.stop(row.pk)
    return row, "container" if request.param == "runs" else "volume"


CREDENTIAL: dict[str, Any] = {"HTTP_AUTHORIZATION": f"Bearer {ADMIN_TOKEN}"}


def url(row: Workspace, path: str = "", /, **query: str) -> str:
    tail = f"/{quote(path)}" if path else ""
    asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return f"/workspaces/{row.pk}/files{tail}" + (f"?{asked}" if asked else "")


def listed(row: Workspace, **query: str) -> list[str]:
    answer = admin().get(url(row, **query))
    assert answer.status_code == 200, answer.content
    return [one["path"] for one in answer.json()]


def content(row: Workspace, path: str, **query: str) -> Any:
    answer = admin().get(url(row, path, **query))
    return answer.json()["content"] if answer.status_code == 200 else answer.status_code


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


TEXT = "line one\nno newline trimmed \u00e9\u4e16\n\n"


def test_what_is_saved_is_read_back_byte_for_byte(place: tuple[Workspace, str]) -> None:
    row, source = place
    saved = admin().put(url(row, "skills/a b/SKILL.md"), {"content": TEXT})
    assert (saved.status_code, saved.json()) == (200, {"status": "saved", "path": "skills/a b/SKILL.md"})
    answer = admin().get(url(row, "skills/a b/SKILL.md"))
    assert answer.json() == {"path": "skills/a b/SKILL.md", "content": TEXT, "size": len(TEXT.encode())}
    assert answer.headers["X-Molecule-Files-Source"] == source
    assert admin().put(url(row, "empty"), {"content": ""}).status_code == 200
    assert content(row, "empty") == ""
    assert listed(row, path="skills", depth="5") == ["a b", "a b/SKILL.md"]
    assert {"empty", "skills"} <= set(listed(row))
    assert not HIDDEN & set(listed(row))
    for _ in range(2):
        gone = admin().delete(url(row, "empty"))
        assert (gone.status_code, gone.json()) == (200, {"status": "deleted", "path": "empty"})
    assert refusal(admin().get(url(row, "empty"))) == (404, "file not found")
    assert refusal(admin().delete(url(row, "skills"))) == (400, "path is a directory")
    assert admin().delete(url(row, "skills", recursive="true")).status_code == 200
    assert refusal(admin().get(url(row, path="skills"))) == (404, "file not found")


def test_many_files_lie_over_those_that_are_there(place: tuple[Workspace, str]) -> None:
    row, source = place
    admin().put(url(row, "kept.md"), {"content": "kept"})
    answer = admin().put(url(row), {"files": {"a.md": "A", "sub/b.md": "B"}})
    expected = {"status": "replaced", "workspace": str(row.pk), "files": 2, "source": source}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert [content(row, one) for one in ("kept.md", "a.md", "sub/b.md")] == ["kept", "A", "B"]
    assert admin().put(url(row), {"files": {}}).json()["files"] == 0
    assert "name: seed" in content(row, "config.yaml")  # was there
    admin().delete(url(row, "config.yaml"))
    admin().put(url(row), {"files": {"prompt.md": "x"}})
    assert "Imported agent" in content(row, "config.yaml")


def test_of_many_files_with_one_that_cannot_be_none_is_written(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell)
    admin().put(url(row, "taken/x"), {"content": ""})
    before = dict(backend.stored[row.pk]["/configs"])
    for files, text in (
        ({"aa": "x", "taken": "x"}, "path is a directory"),
        ({"aa": "x", "taken/x/y": "x"}, "path is not a directory"),
        ({"aa": "x", "config.yaml/x": "x"}, "path is not a directory"),
    ):
        assert refusal(admin().put(url(row), {"files": files})) == (400, text)
        assert backend.stored[row.pk]["/configs"] == before


def test_nothing_lies_below_the_config_even_where_there_is_none(place: tuple[Workspace, str]) -> None:
    row, _ = place
    admin().delete(url(row, "config.yaml"))
    before = listed(row)
    assert refusal(admin().put(url(row), {"files": {"config.yaml/x": "y"}})) == (
        400, "path is not a directory",
    )  # fmt: skip
    assert listed(row) == before


@pytest.mark.parametrize(("chosen", "model"), [("", "sonnet"), ("opus", "opus")])
def test_a_generated_config_says_what_the_workspace_is(
    backend: Any, doorbell: Any, chosen: str, model: str
) -> None:
    row = running(backend, doorbell, runtime="claude-code")
    if chosen:
        assert admin().put(f"/workspaces/{row.pk}/model", {"model": chosen}).status_code == 200
    del backend.stored[row.pk]["/configs"]["config.yaml"]
    assert admin().put(url(row), {"files": {"prompt.md": "x"}}).status_code == 200
    written = load_text(content(row, "config.yaml"), "config.yaml")
    assert (written["runtime"], written["model"]) == ("claude-code", model)
    assert written["name"] == row.name


def test_plugins_are_a_folder_of_the_configs(place: tuple[Workspace, str]) -> None:
    row, _ = place
    admin().put(url(row, "p/plugin.yaml", root="/plugins"), {"content": "name: p"})
    assert content(row, "plugins/p/plugin.yaml") == "name: p"
    assert listed(row, root="/plugins", depth="2") == ["p", "p/plugin.yaml"]


@pytest.mark.parametrize(
    "path",
    ["%00", "../x", "a/../../x", "%2e%2e/x", "a/%2e%2e/%2e%2e/x", "/etc/passwd", "a%00b", "a%5cb", "a%0ab"],
)
def test_a_path_that_leads_elsewhere_is_refused(backend: Any, doorbell: Any, path: str) -> None:
    row = running(backend, doorbell)
    before = dict(backend.stored[row.pk]["/configs"])
    at = f"/workspaces/{row.pk}/files/{path}"
    for answer in (admin().get(at), admin().put(at, {"content": "x"}), admin().delete(at)):
        assert refusal(answer) == (400, "invalid path")
    assert refusal(admin().put(url(row), {"files": {"fine": "x", "../x": "y"}})) == (400, "invalid path")
    assert refusal(admin().get(url(row, path="../x"))) == (400, "invalid path")
    assert backend.stored[row.pk]["/configs"] == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_bytes_that_are_no_text_are_no_path(backend: Any, doorbell: Any, method: str) -> None:
    """Through the entry point of the server: what Django makes of such a path looks like a name."""
    row = running(backend, doorbell)
    before = dict(backend.stored[row.pk]["/configs"])
    for name, status in ((b"a\xff", "400"), (b"\xc3\xa9", "404" if method == "GET" else "200")):
        sent = RequestFactory().generic(method, url(row, "x"), b'{"content":""}', **CREDENTIAL)
        environ = {**sent.environ, "PATH_INFO": f"/workspaces/{row.pk}/files/{name.decode('latin-1')}"}
        answered: list[str] = []
        body = b"".join(application(environ, lambda line, headers, seen=answered: seen.append(line)))
        assert answered[0].startswith(status), body
        if status == "400":
            assert body == b'{"error":"invalid path"}'
            assert backend.stored[row.pk]["/configs"] == before


def test_bad_input_has_its_own_words(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell)
    for depth in ("0", "6", "x", ""):
        assert refusal(admin().get(url(row, depth=depth))) == (400, "depth must be 1-5")
    text = "root must be one of: /configs, /workspace, /home, /plugins"
    assert refusal(admin().get(url(row, root="/etc"))) == (400, text)
    assert refusal(admin().put(url(row, "x", root="/etc"), {"content": ""})) == (400, text)
    for body in ({}, {"content": None}, {"content": 1}, []):
        assert refusal(admin().put(url(row, "x"), body)) == (400, "invalid request body")
    many = {f"{one}.md": "" for one in range(201)}
    assert refusal(admin().put(url(row), {"files": many})) == (400, "too many files (201), max 200")
    assert refusal(admin().put(url(row), {"files": {"a": 1}})) == (400, "invalid request body")
    assert refusal(admin().put(url(row), {"files": {"a": "", "a/b": ""}})) == (400, "invalid request body")
    assert refusal(admin().put(url(row, root="/home"), {"files": {"a": ""}}))[0] == 400
    assert refusal(admin().put(url(row, "big"), {"content": "x" * (1024 * 1024 + 1)})) == (
        413,
        "file too large",
    )
    backend.stored[row.pk]["/configs"]["large"] = File(bytes(5 * 1024 * 1024 + 1))
    backend.stored[row.pk]["/configs"]["binary"] = File(b"\xff\xfe")
    assert refusal(admin().get(url(row, "large"))) == (413, "file too large")
    assert refusal(admin().get(url(row, "binary"))) == (415, "file is not UTF-8 text")
    assert refusal(admin().get("/workspaces/no-uuid/files")) == (400, "invalid workspace ID")
    assert refusal(admin().get(url(WorkspaceFactory.build()))) == (404, "workspace not found")


def test_only_operators_and_the_workspace_itself_see_its_files(backend: Any, doorbell: Any) -> None:
    row, other = running(backend, doorbell), WorkspaceFactory()
    for path in ("", "config.yaml"):
        assert anonymous().get(url(row, path)).status_code == 401
        assert agent_of(other.pk).get(url(row, path)).status_code == 401
        assert agent_of(row.pk).get(url(row, path)).status_code == 200
    assert agent_of(other.pk).put(url(row, "x"), {"content": ""}).status_code == 401
    assert agent_of(other.pk).put(url(row), {"files": {}}).status_code == 401
    assert agent_of(other.pk).delete(url(row, "x")).status_code == 401


def test_credentials_of_the_agent_are_neither_shown_nor_touched(place: tuple[Workspace, str]) -> None:
    row, _ = place
    assert refusal(admin().get(url(row, ".auth_token"))) == (404, "file not found")
    assert refusal(admin().put(url(row, ".auth_token"), {"content": "x"})) == (404, "file not found")
    assert refusal(admin().delete(url(row, ".auth_token"))) == (404, "file not found")
    assert dispatch.read_file(row.pk, "/configs", ".auth_token", 100)


def test_characters_that_mean_something_to_a_shell_are_only_characters(place: tuple[Workspace, str]) -> None:
    row, _ = place
    for name in ("$(touch pwned)", "a;touch pwned", "`touch pwned`", "-rf", "a'b\"c", "*", "%41"):
        assert admin().put(url(row, name), {"content": name}).status_code == 200
        assert content(row, name) == name
        assert admin().delete(url(row, name)).status_code == 200
    assert "pwned" not in listed(row)


def test_writers_at_the_same_time_leave_one_whole_file(place: tuple[Workspace, str]) -> None:
    row, _ = place
    texts = [str(one) * 50_000 for one in range(4)]
    answers = at_once(
        *[lambda text=text: admin().put(url(row, "shared"), {"content": text}) for text in texts]
    )
    assert [one.status_code for one in answers] == [200] * 4
    assert content(row, "shared") in texts


# --- What a template brought, and a person deleted


@pytest.fixture
def template(settings: Any) -> None:
    folder = Path(settings.CONFIGS_DIR) / "tutor"
    (folder / "guides").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: Tutor\nruntime: langgraph\n")
    for name in ("system-prompt.md", "guides/a.md", "guides/b.md"):
        (folder / name).write_text(f"of the template: {name}")


@pytest.mark.usefixtures("template")
def test_a_deleted_file_does_not_come_back_with_a_restart(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell, template="tutor")
    admin().delete(url(row, "system-prompt.md"))
    admin().delete(url(row, "guides", recursive="1"))
    admin().delete(url(row, "config.yaml"))
    admin().put(url(row, "guides/b.md"), {"content": "mine"})
    backend.stored[row.pk]["/configs"].clear()  # the harder case: storage that was lost
    admin().post(f"/workspaces/{row.pk}/restart")
    doorbell.work()
    brought = set(backend.specs[-1].files)
    assert {"system-prompt.md", "guides/a.md"}.isdisjoint(brought)
    assert {"config.yaml", "guides/b.md"} <= brought


# --- Where there is no storage


@pytest.mark.usefixtures("template")
def test_before_the_first_start_the_files_to_come_are_shown(backend: Any, doorbell: Any) -> None:
    row = queued(template="tutor")
    answer = admin().get(url(row, depth="2"))
    assert answer.headers["X-Molecule-Files-Source"] == "template"
    assert [one["path"] for one in answer.json()] == [
        "config.yaml", "guides", "guides/a.md", "guides/b.md", "system-prompt.md",
    ]  # fmt: skip
    assert content(row, "guides/a.md") == "of the template: guides/a.md"
    assert refusal(admin().get(url(row, path="none"))) == (404, "file not found")
    text = "workspace storage unavailable; retry after it starts"
    for answer in (
        admin().put(url(row, "x"), {"content": ""}),
        admin().delete(url(row, "guides/a.md")),
        admin().get(url(row, root="/workspace")),
    ):
        assert refusal(answer) == (503, text)
    assert content(row, "guides/a.md") == "of the template: guides/a.md"


@pytest.mark.usefixtures("no_backend")
def test_without_a_backend_nothing_is_listed_and_nothing_is_written() -> None:
    row = WorkspaceFactory()
    assert listed(row) == []
    assert refusal(admin().put(url(row, "x"), {"content": ""}))[0] == 503
    assert refusal(admin().delete(url(row, "x")))[0] == 503


def test_files_of_an_external_workspace_are_elsewhere(backend: Any) -> None:
    row = WorkspaceFactory(runtime="external")
    assert listed(row) == []
    assert refusal(admin().get(url(row, "x"))) == (404, "file not found")
    text = "files are not available for external workspaces"
    assert refusal(admin().put(url(row, "x"), {"content": ""})) == (409, text)
    assert refusal(admin().put(url(row), {"files": {"x": ""}})) == (409, text)
    assert refusal(admin().delete(url(row, "x"))) == (409, text)


@pytest.fixture
def machines() -> Iterator[Any]:
    yield wired("cp", MACHINES)
    dispatch.choose_again()


@pytest.mark.usefixtures("template")
def test_an_edit_on_a_machine_is_kept_for_its_next_start(machines: Any, doorbell: Any) -> None:
    row = WorkspaceFactory(template="tutor", instance_id="i-1")
    assert admin().put(url(row, "notes.md"), {"content": "mine"}).status_code == 200
    assert admin().put(url(row), {"files": {"system-prompt.md": "edited"}}).json()["source"] == "volume"
    assert admin().delete(url(row, "guides/a.md")).status_code == 200
    assert refusal(admin().delete(url(row, "guides"))) == (400, "path is a directory")
    assert refusal(admin().put(url(row, "guides"), {"content": ""})) == (400, "path is a directory")
    assert refusal(admin().put(url(row, "notes.md/x"), {"content": ""})) == (400, "path is not a directory")
    assert listed(row, depth="2") == ["config.yaml", "guides", "guides/b.md", "notes.md", "system-prompt.md"]
    assert content(row, "system-prompt.md") == "edited"
    assert stored_files(row.pk) == {"guides/a.md": None, "notes.md": b"mine", "system-prompt.md": b"edited"}
    assert refusal(admin().put(url(row, "x", root="/workspace"), {"content": ""}))[0] == 503


@pytest.mark.parametrize(
    ("error_class", "expected"),
    [
        (ErrorClass.TIMEOUT, (504, "workspace file operation timed out")),
        (ErrorClass.INTERNAL, (500, "failed to write file")),
    ],
)
def test_a_backend_that_fails_says_nothing_of_its_insides(
    backend: Any, doorbell: Any, error_class: ErrorClass, expected: tuple[int, str]
) -> None:
    row = running(backend, doorbell)
    backend.failures["write_files"].append(BackendError(error_class, "inside", detail="/var/lib/secret"))
    assert refusal(admin().put(url(row, "x"), {"content": ""})) == expected
