"""What a stack keeps: its folder, its secrets, its lock, its log."""

from __future__ import annotations

import base64
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stack import folder, log, secrets
from stack.application import CATALOGUE, PROJECT
from stack.errors import StackError
from stack.lock import Lock
from tests.stack.running import eventually


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_only_we_may_read_them(tmp_path: Path) -> None:
    first = secrets.load(tmp_path, {})
    assert secrets.load(tmp_path, {}) == first
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    assert (tmp_path / "admin-token").read_text() == first.admin_token
    assert len(first.admin_token) == 43
    assert len(base64.b64decode(first.secrets_encryption_key)) == 32
    assert len(bytes.fromhex(first.instance_id)) == 8
    assert secrets.load(tmp_path.parent, {}).admin_token != first.admin_token


def test_a_secret_in_the_environment_is_kept_at_the_first_start(tmp_path: Path) -> None:
    assert secrets.load(tmp_path, {"SECRETS_ENCRYPTION_KEY": "theirs"}).secrets_encryption_key == "theirs"
    assert secrets.load(tmp_path, {}).secrets_encryption_key == "theirs"


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    folder.create(made)
    assert mode(made) == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder.create(tmp_path)
    assert mode(tmp_path) == 0o755
    assert list(tmp_path.iterdir()) == []


def test_the_examples_are_copied_once_and_whole(tmp_path: Path) -> None:
    folder.fill(tmp_path / "catalogue", CATALOGUE)
    copied = {path.relative_to(tmp_path / "catalogue") for path in (tmp_path / "catalogue").rglob("*")}
    assert copied == {path.relative_to(CATALOGUE) for path in CATALOGUE.rglob("*")}
    (tmp_path / "catalogue" / "org-templates" / "small" / "org.yaml").write_text("name: Mine")
    folder.fill(tmp_path / "catalogue", CATALOGUE)
    assert (tmp_path / "catalogue/org-templates/small/org.yaml").read_text() == "name: Mine"
    assert os.listdir(tmp_path) == ["catalogue"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("", "has characters that cannot be used"),
        ('/tmp/a"b', "has characters that cannot be used"),
        ("/tmp/a\nb", "has characters that cannot be used"),
        ("/tmp/$HOME", "has characters that cannot be used"),
        ("/", "must be a folder of its own"),
    ],
)
def test_a_strange_path_is_refused(given: str, sentence: str) -> None:
    with pytest.raises(StackError, match=sentence):
        folder.absolute(given)


def test_a_path_that_cannot_hold_anything_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StackError, match=r"is not a folder\."):
        folder.create(file)
    with pytest.raises(StackError, match=r"cannot be written to: .+\."):
        folder.create(Path("/proc/no-such-folder"))


def test_the_lock_is_for_one_and_leaves_no_file(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path, "42")
    assert lock is not None
    assert Lock.take(tmp_path, "43") is None
    assert Lock.holder(tmp_path) == 42
    lock.release()
    assert list(tmp_path.iterdir()) == []
    again = Lock.take(tmp_path, "44")
    assert again is not None
    again.release()


def test_the_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from stack.lock import Lock; "
        "lock = Lock.take(pathlib.Path(sys.argv[1]), 'me'); print('mine', flush=True); time.sleep(3600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mine\n"
        assert Lock.take(tmp_path, "us") is None
        holder.kill()
    lock = eventually(lambda: Lock.take(tmp_path, "us"))
    assert lock is not None
    lock.release()


def test_lines_have_the_name_of_their_process_in_front(tmp_path: Path) -> None:
    terminal = io.StringIO()
    written = log.Log(tmp_path / "stack.log", stream=terminal)
    written.line("api", "before the stack is up: only in the file")
    written.say("[1/2] progress")
    written.show("a secret: only on the terminal")
    written.live = True
    written.line("api", "one")
    written.line("postgres", "two")
    written.close()
    shown = "[1/2] progress\na secret: only on the terminal\napi       | one\npostgres  | two\n"
    assert terminal.getvalue() == shown
    kept = (tmp_path / "stack.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in kept] == [
        "api       | before the stack is up: only in the file",
        "stack     | [1/2] progress",
        "api       | one",
        "postgres  | two",
    ]
    assert mode(tmp_path / "stack.log") == 0o600


def test_names_are_coloured_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    written = log.Log(stream=terminal)
    written.live = True
    written.line("api", "one")
    assert terminal.getvalue().startswith("\x1b[")
    assert terminal.getvalue().endswith("\x1b[0m one\n")


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT_BYTES", 200)
    written = log.Log(tmp_path / "stack.log", stream=io.StringIO())
    for number in range(20):
        written.line("api", f"line {number}")
    written.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stack.log", "stack.log.1"]
    assert all(path.stat().st_size < 300 for path in tmp_path.iterdir())


def test_the_log_survives_the_terminal(tmp_path: Path) -> None:
    terminal = io.StringIO()
    written = log.Log(tmp_path / "stack.log", stream=terminal)
    terminal.close()
    written.say("still here")
    written.close()
    assert "still here" in (tmp_path / "stack.log").read_text()
