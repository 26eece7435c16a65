"""Files for a polling agent: fetched beside each other, before their message, once, whatever fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import inbox as inbox_module
from agent import uploads as uploads_module
from agent.client import Platform
from agent.cursor import InboxCursor
from agent.folder import DRAFT_KEPT_S, KEPT_S, UploadFolder
from agent.inbox import Inbox
from agent.replies import Script
from agent.rpc import Answering
from agent.tasks import TaskBoard
from agent.transfers import FILE_LIMIT_BYTES
from agent.uploads import Uploads
from tests.agent.conftest import StartAgent
from tests.agent.fake_platform import TOKEN, WORKSPACE, FakePlatform, Scripted, until

FILES = "workspace/.molecule/chat-uploads"
OWN = f"/workspaces/{WORKSPACE}"
LOCAL = "workspace:/workspace/.molecule/chat-uploads"


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / FILES).glob("*"))}


def hexed(file_id: str) -> str:
    return file_id.replace("-", "")


def with_files(text: str, *file_ids: str) -> dict[str, Any]:
    parts: list[Any] = [{"kind": "text", "text": text}]
    for one in file_ids:
        file = {"name": "a.txt", "uri": f"platform-pending:{WORKSPACE}/{one}"}
        parts.append({"kind": "file", "file": file})
    return {"parts": parts}


def test_files_are_here_before_their_message_is_answered(
    connect: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    first = platform.add_file(os.urandom(100_000), "alpha 1.txt")
    second = platform.add_file(b"second", "beta.txt")
    platform.add_message("look", message=with_files("look", first, second))
    agent = connect()
    platform.wait_for_calls("/notify")
    here = f"{LOCAL}/{hexed(first)}-alpha_1.txt", f"{LOCAL}/{hexed(second)}-beta.txt"
    assert platform.notified() == ["\n".join(["echo: look", *here])]
    assert stored(tmp_path / "state") == {
        f"{hexed(first)}-alpha_1.txt": platform.files[first],
        f"{hexed(second)}-beta.txt": b"second",
    }
    assert sorted(platform.acked) == sorted([first, second])
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "state" / FILES).iterdir()}
    assert modes == {0o600}
    assert f'inbox: file "alpha 1.txt" is at {here[0]}' in agent.output()
    order = [seen.path for seen in platform.seen]
    acknowledged = [order.index(f"{OWN}/pending-uploads/{one}/ack") for one in (first, second)]
    assert max(acknowledged) < order.index(f"{OWN}/notify")


def test_an_agent_killed_between_fetch_and_acknowledgement_keeps_one_copy(
    connect: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    one = platform.add_file(b"once", "a.txt")
    platform.delays_s["/ack"] = 3.0
    agent = connect()
    until(lambda: stored(tmp_path / "state").get(f"{hexed(one)}-a.txt") == b"once", "the file is here")
    agent.kill()
    platform.delays_s.clear()
    platform.acked.clear()
    fetched = len(platform.calls("/content"))
    connect()
    until(lambda: one in platform.acked, "the file is acknowledged")
    assert stored(tmp_path / "state") == {f"{hexed(one)}-a.txt": b"once"}
    assert len(platform.calls("/content")) == fetched  # known by its id, not fetched again
    platform.add_message("late", message=with_files("late", one))
    platform.wait_for_calls("/notify")
    assert platform.notified()[-1] == f"echo: late\n{LOCAL}/{hexed(one)}-a.txt"


# --- Inside one process, with shorter waits
# -----------------------------------------------------------------------------------


class Running:
    def __init__(self, platform: FakePlatform, folder: Path) -> None:
        (folder / "state").mkdir(exist_ok=True)
        self.folder = folder
        self.platform = Platform(platform.url, WORKSPACE, lambda: TOKEN)
        self.uploads = Uploads(self.platform, UploadFolder(folder / "workspace"), lambda line: None)
        answering = Answering(Script(), TaskBoard(lambda state: None), threading.Event())
        cursor = InboxCursor(folder / "state/cursor.json", WORKSPACE)
        self.inbox = Inbox(self.platform, answering, cursor, self.uploads, 0.05, lambda line: None)

    def stored(self) -> dict[str, bytes]:
        return stored(self.folder)


@pytest.fixture
def running(platform: FakePlatform, tmp_path: Path) -> Running:
    return Running(platform, tmp_path)


def test_files_of_one_page_come_beside_each_other_over_one_client(
    platform: FakePlatform, running: Running
) -> None:
    files = [platform.add_file(b"x" * number, f"{number}.txt") for number in range(1, 5)]
    platform.add_message("then")
    platform.delays_s["/content"] = 1.0
    running.inbox.poll()
    assert platform.most_at_once == 4
    assert len(platform.connections) <= 4  # each fetch and its acknowledgement share one
    assert sorted(platform.acked) == sorted(files)
    assert platform.notified() == ["echo: then"]


def test_without_files_there_is_no_thread(platform: FakePlatform, running: Running) -> None:
    platform.add_message("hi")
    before = threading.active_count()
    running.inbox.poll()
    assert platform.connections == set()
    assert not [one for one in threading.enumerate() if one.name.startswith("upload")]
    assert threading.active_count() <= before + 2  # the fake's own


def test_a_fetch_that_hangs_holds_the_inbox_for_a_bounded_time(
    platform: FakePlatform, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "WAIT_S", 0.5)
    hung, fine = platform.add_file(b"slow", "slow.txt"), platform.add_file(b"fine", "fine.txt")
    platform.add_message("hi")
    platform.delays_s[f"{hung}/content"] = 4.0
    began = time.monotonic()
    running.inbox.poll()
    assert time.monotonic() - began < 3.0
    assert platform.notified() == ["echo: hi"]
    assert running.stored()[f"{hexed(fine)}-fine.txt"] == b"fine"
    until(lambda: hung in platform.acked, "the abandoned fetch ends by itself")


@pytest.mark.parametrize(
    "failure",
    [Scripted(500, {"error": "x"}), Scripted(401, {"error": "x"}), Scripted(302, None, {"Location": "/"})],
    ids=str,
)
def test_a_file_that_failed_once_is_had_through_the_list(
    platform: FakePlatform, running: Running, failure: Scripted
) -> None:
    one = platform.add_file(b"late", "late.txt")
    platform.script(f"{OWN}/pending-uploads/{one}/content", failure)
    platform.add_message("hi")
    running.inbox.poll()
    assert platform.notified() == ["echo: hi"]  # a dead file must not hold the chat
    assert (running.stored(), platform.acked) == ({}, [])
    assert running.uploads.reconcile()
    assert platform.acked == [one]
    assert list(running.stored().values()) == [b"late"]


def test_the_inbox_waits_for_a_file_that_is_being_fetched_through_the_list(
    platform: FakePlatform, running: Running
) -> None:
    one = platform.add_file(b"once", "a.txt")
    platform.delays_s["/content"] = 1.0
    reconciling = threading.Thread(target=running.uploads.reconcile)
    reconciling.start()
    until(lambda: platform.at_once == 1, "the file is being fetched")
    platform.add_message("look", message=with_files("look", one))
    running.inbox.poll()
    assert platform.notified() == [f"echo: look\n{LOCAL}/{hexed(one)}-a.txt"]
    reconciling.join()
    assert (len(platform.calls("/content")), set(platform.acked)) == (1, {one})


def test_a_file_that_is_gone_is_not_acknowledged(platform: FakePlatform, running: Running) -> None:
    one = platform.add_file(b"x")
    del platform.files[one]
    running.inbox.poll()
    assert platform.calls(f"{one}/ack") == []


def test_a_file_above_the_limit_is_not_kept(platform: FakePlatform, running: Running) -> None:
    platform.add_file(bytes(FILE_LIMIT_BYTES + 1))
    running.inbox.poll()
    assert (running.stored(), platform.acked) == ({}, [])


def test_a_disk_that_cannot_be_written_leaves_the_file_to_be_fetched_again(
    platform: FakePlatform, running: Running, tmp_path: Path
) -> None:
    (tmp_path / "workspace").write_text("a file where the folder should be")
    one = platform.add_file(b"x")
    platform.add_message("hi")
    running.inbox.poll()
    assert (platform.acked, platform.notified()) == ([], ["echo: hi"])
    (tmp_path / "workspace").unlink()
    running.uploads.reconcile()
    assert platform.acked == [one]


def test_an_older_control_plane_without_a_list_is_left_alone(
    platform: FakePlatform, running: Running
) -> None:
    platform.always[f"{OWN}/pending-uploads"] = Scripted(404, {"error": "not found"})
    assert not running.uploads.reconcile()


def test_many_pages_and_another_writer_skip_and_double_nothing(
    platform: FakePlatform, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "PAGE_LIMIT", 10)
    monkeypatch.setattr(inbox_module, "BACKLOG_LIMIT", 10)
    platform.add_message("first")
    running.inbox.poll()
    writer = threading.Thread(target=lambda: [platform.add_message(f"m{n}") for n in range(20)])
    writer.start()
    files = [platform.add_file(str(number).encode(), f"{number}.txt") for number in range(64)]
    writer.join()
    for _ in range(15):
        running.inbox.poll()
    assert sorted(platform.acked) == sorted(files)
    assert len(running.stored()) == 64
    assert len(platform.notified()) == 21


@pytest.mark.parametrize("place", ["message", "params", "top"])
def test_parts_are_rewritten_wherever_they_stand(place: str) -> None:
    from agent.messages import with_local_files

    def envelope(uri: str) -> Any:
        parts = [
            {"kind": "file", "file": {"uri": uri}},
            {"kind": "text", "text": "t"},
            "junk",
            {"file": "junk"},
        ]
        params: Any = {"message": {"parts": parts}} if place == "message" else {"parts": parts}
        return {"parts": parts} if place == "top" else {"params": params}

    known: Callable[[str], str] = {"platform-pending:a/b": "workspace:/c"}.get  # type: ignore[assignment]
    rewritten = with_local_files(envelope("platform-pending:a/b"), lambda uri: known(uri) or uri)
    assert rewritten == envelope("workspace:/c")
    for junk in (None, [], "x", {"params": 1}, {"params": {"message": []}}):
        assert with_local_files(junk, str) == junk


def test_a_hostile_row_reaches_no_path_outside(platform: FakePlatform, running: Running) -> None:
    platform.add_file(b"x", name="../../evil")
    platform.add_file(b"x", file_id="../../etc/passwd")
    running.inbox.poll()
    (name,) = running.stored()
    assert name.endswith("-evil")


def test_old_files_and_broken_drafts_are_removed(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path)
    with folder.new_file("0" * 32, "old.txt", limit=10) as draft:
        draft.write(b"x")
    with folder.new_file("1" * 32, "new.txt", limit=10) as draft:
        draft.write(b"x")
    foreign = folder.path / "notes.txt"
    broken = folder.path / ".2.part"
    for path in (foreign, broken):
        path.write_text("x")
    for path, age in (
        (folder.path / f"{'0' * 32}-old.txt", KEPT_S),
        (foreign, KEPT_S),
        (broken, DRAFT_KEPT_S),
    ):
        os.utime(path, (time.time() - age - 60,) * 2)
    assert folder.prune() == 2
    assert sorted(path.name for path in folder.path.iterdir()) == [f"{'1' * 32}-new.txt", "notes.txt"]


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path)
    folder.path.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("untouched")
    (folder.path / f"{'0' * 32}-a.txt").symlink_to(target)
    assert folder.find("0" * 32) is None
    with folder.new_file("0" * 32, "a.txt", limit=10) as draft:
        draft.write(b"x")
    assert target.read_text() == "untouched"
    assert (folder.path / f"{'0' * 32}-a.txt").read_bytes() == b"x"
