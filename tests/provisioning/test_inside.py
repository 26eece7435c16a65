"""The program that runs inside a container, as processes of this machine: many writers of one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from provisioning.backends.docker import inside
from tests.conftest import at_once

PROGRAM = Path(inside.__file__)


def writer(root: Path, path: str, content: bytes) -> subprocess.Popen[bytes]:
    given = json.dumps([[path, 0o644, False, len(content)]]).encode() + b"\n" + content
    started = subprocess.Popen(
        [sys.executable, PROGRAM, "write", str(root), str(len(given))], stdin=subprocess.PIPE
    )
    assert started.stdin
    started.stdin.write(given)
    started.stdin.close()
    return started


def test_writers_of_one_file_all_succeed_and_one_is_whole(tmp_path: Path) -> None:
    contents = [str(one).encode() * 200_000 for one in range(8)]
    target = str(tmp_path / "shared")
    for _ in range(20):
        writes = [lambda content=content: inside.place(target, content, 0o644) for content in contents]
        assert at_once(*writes) == [None] * len(contents)
        assert Path(target).read_bytes() in contents
        assert os.listdir(tmp_path) == ["shared"]


def test_writers_make_a_new_folder_together(tmp_path: Path) -> None:
    for round_ in range(20):
        folder = tmp_path / str(round_) / "a" / "b" / "c"
        assert at_once(*[lambda: inside.make_folders(str(folder))] * 8) == [None] * 8


def test_the_draft_of_a_writer_that_died_is_forgotten_after_an_hour(tmp_path: Path) -> None:
    old, young = tmp_path / f"{inside.DRAFT}old", tmp_path / f"{inside.DRAFT}young"
    for one in (old, young):
        one.write_text("half")
    long_ago = time.time() - inside.DRAFT_LIFE_S - 1
    os.utime(old, (long_ago, long_ago))
    assert writer(tmp_path, "file", b"whole").wait(60) == inside.OK
    assert sorted(os.listdir(tmp_path)) == [young.name, "file"]
