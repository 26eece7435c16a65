"""The program that runs inside a container, as processes of this machine: many writers of one file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioning.backends import folder
from provisioning.backends.folder import Written
from tests.conftest import at_once

PROGRAM = Path(folder.__file__)


def run(verb: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", PROGRAM, verb, *words],
        input=given,
        capture_output=True,
        timeout=60,
        check=False,
    )


def saved(root: Path, path: str, content: bytes) -> int:
    given = json.dumps([[path, 0o644, False, len(content)]]).encode() + b"\n" + content
    return run("write", str(root), str(len(given)), given=given).returncode


def test_the_exit_code_says_what_happened(tmp_path: Path) -> None:
    assert saved(tmp_path, "a/b", b"\x00exact\n") == folder.OK
    assert saved(tmp_path, "a", b"") == folder.IS_FOLDER
    assert saved(tmp_path, "a/b/c", b"") == folder.IS_FILE
    assert run("read", str(tmp_path), "a/b", "9").stdout == b"\x00exact\n"
    assert run("read", str(tmp_path), "a/b", "6").returncode == folder.TOO_LARGE
    assert run("read", str(tmp_path), "none", "9").returncode == folder.MISSING
    assert json.loads(run("list", str(tmp_path), "", "", "2").stdout) == [["a", 0, True], ["a/b", 7, False]]
    assert run("delete", str(tmp_path), "a", "0").returncode == folder.IS_FOLDER
    assert run("delete", str(tmp_path), "a", "1").returncode == folder.OK
    assert os.listdir(tmp_path) == []
    assert run("delete", "/proc/self/fd", "0", "0").returncode == folder.REFUSED


def test_writers_of_one_file_all_succeed_and_one_is_whole(tmp_path: Path) -> None:
    contents = [str(one).encode() * 200_000 for one in range(8)]
    for _ in range(20):
        writes = [
            lambda content=content: folder.write(str(tmp_path), [Written("shared", content)])
            for content in contents
        ]
        assert at_once(*writes) == [None] * len(contents)
        assert (tmp_path / "shared").read_bytes() in contents
        assert os.listdir(tmp_path) == ["shared"]


def test_writers_make_a_new_folder_together(tmp_path: Path) -> None:
    for round_ in range(20):
        writes = [
            lambda name=name: folder.write(str(tmp_path), [Written(f"{round_}/a/b/{name}", b"")])
            for name in range(8)
        ]
        assert at_once(*writes) == [None] * 8


def test_the_draft_of_a_writer_that_died_is_forgotten_after_an_hour(tmp_path: Path) -> None:
    old, young = tmp_path / f"{folder.DRAFT}old", tmp_path / f"{folder.DRAFT}young"
    for one in (old, young):
        one.write_text("half")
    long_ago = time.time() - folder.DRAFT_LIFE_S - 1
    os.utime(old, (long_ago, long_ago))
    assert saved(tmp_path, "file", b"whole") == folder.OK
    assert sorted(os.listdir(tmp_path)) == [young.name, "file"]


def test_a_folder_that_is_filled_again_and_again_goes_in_the_end(tmp_path: Path) -> None:
    """Eight threads write into a tree that two delete, as fast as they can; nobody fails."""
    ended = threading.Event()

    def writes(name: str) -> None:
        for number in range(300):
            folder.write(str(tmp_path), [Written(f"busy/{number % 3}/{name}", b"x")])

    def deletes() -> int:
        rounds = 0
        while not ended.is_set():
            folder.delete(str(tmp_path), "busy", recursive=True)
            rounds += 1
        return rounds

    with ThreadPoolExecutor() as deleting:
        rounds = [deleting.submit(deletes) for _ in range(2)]
        try:
            written = at_once(*[lambda name=name: writes(name) for name in "abcdefgh"])
        finally:
            ended.set()
        assert (written, all(one.result(60) for one in rounds)) == ([None] * 8, True)
    folder.delete(str(tmp_path), "busy", recursive=True)
    assert os.listdir(tmp_path) == []


def test_nobody_is_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "TRIED_S", 0.05)

    def not_empty(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "not empty")

    (tmp_path / "busy").mkdir()
    monkeypatch.setattr(folder.os, "rmdir", not_empty)
    with pytest.raises(folder.Mistake) as raised:
        folder.delete(str(tmp_path), "busy", recursive=True)
    assert raised.value.code == folder.BUSY
