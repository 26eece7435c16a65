"""Files on this machine's disk: no name leads out of its folder, whatever is exchanged meanwhile."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from provisioning.backends import files as disk
from provisioning.backends.base import BackendError, File, FileError, FileProblem


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (folder / "way-out").symlink_to(outside)
    (folder / "link").symlink_to(outside / "secret")
    return folder


def test_links_are_neither_listed_nor_read_nor_walked_through(base: Path):
    (base / "file").write_text("x")
    assert [one.path for one in disk.listed(base, "", 5)] == ["file"]
    for path in ("link", "way-out/secret", "way-out"):
        with pytest.raises(FileError):
            disk.read(base, path, 100)
    with pytest.raises(FileError):
        disk.listed(base, "way-out", 1)


def test_a_write_and_a_delete_touch_nothing_outside(base: Path, tmp_path: Path):
    with pytest.raises(FileError):
        disk.write_files(base, {"way-out/new": File(b"x")})
    disk.delete(base, "way-out/secret", recursive=False)  # there is nothing of this name
    disk.write_files(base, {"link": File(b"mine")})
    assert (base / "link").read_bytes() == b"mine"
    assert not (base / "link").is_symlink()
    disk.delete(base, "way-out", recursive=True)
    assert not os.path.lexists(base / "way-out")
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert os.listdir(tmp_path / "outside") == ["secret"]


@pytest.mark.parametrize("path", ["../outside/secret", "/etc/passwd", "a/../../outside/secret", ""])
def test_a_path_that_leads_out_is_refused(base: Path, path: str):
    for call in (
        lambda: disk.read(base, path, 100),
        lambda: disk.write_files(base, {path: File(b"x")}),
        lambda: disk.delete(base, path, recursive=True),
    ):
        with pytest.raises(BackendError):
            call()


def test_what_is_no_file_is_not_waited_for(base: Path):
    os.mkfifo(base / "pipe")
    with pytest.raises(FileError) as raised:
        disk.read(base, "pipe", 100)
    assert raised.value.problem == FileProblem.MISSING
    assert disk.listed(base, "", 1) == []


def test_a_seed_never_replaces_and_no_temporary_file_is_left(base: Path):
    disk.write_files(base, {"a/b": File(b"first", mode=0o600)})
    disk.write_files(base, {"a/b": File(b"second", seed=True), "a/c": File(b"seed", seed=True)})
    assert (disk.read(base, "a/b", 10), disk.read(base, "a/c", 10)) == (b"first", b"seed")
    assert sorted(os.listdir(base / "a")) == ["b", "c"]
    assert (base / "a" / "b").stat().st_mode & 0o777 == 0o600


def test_a_folder_exchanged_for_a_link_again_and_again_leads_nowhere(base: Path, tmp_path: Path):
    """The agent swaps `sub` between a folder and a link to the outside while the server reads and writes."""
    inside = base / "real"
    inside.mkdir()
    (inside / "secret").write_text("inside")
    ended = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not ended.is_set():
            for one in (inside, base / "way-out"):
                with suppress(OSError):  # the server may make a folder of this name in between
                    os.rename(one, base / "sub")
                    swaps += 1
                    os.rename(base / "sub", one)
            with suppress(OSError):
                os.rename(base / "sub", base / f"junk{swaps}")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: set[bytes] = set()
    try:
        for number in range(3000):
            for call in (
                lambda: seen.add(disk.read(base, "sub/secret", 100)),
                lambda n=number: disk.write_files(base, {f"sub/w{n}": File(b"x")}),
                lambda: disk.delete(base, "sub/secret-not", recursive=True),
            ):
                try:
                    call()
                except (FileError, OSError):
                    continue
    finally:
        ended.set()
        swapping.join(30)
    assert (seen, swaps > 100) == ({b"inside"}, True)
    assert os.listdir(tmp_path / "outside") == ["secret"]
