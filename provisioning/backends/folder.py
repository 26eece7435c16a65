"""One folder's files, reached by folder descriptors: no name is followed out of it, not even one that is
exchanged for a symbolic link in between. Links, pipes and devices are neither listed nor read nor written
through.

The server calls it for folders of this machine; to a container its text is sent, as a program whose exit code
says what happened: paths and contents arrive as arguments and on standard input. So it needs the standard
library only. Source: docs/reference/files.md, Folders.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

OK, MISSING, IS_FOLDER, IS_FILE, TOO_LARGE, REFUSED, BUSY = 0, 3, 4, 5, 6, 7, 8
AGENT = 1000  # who owns what root writes in a container
DRAFT = ".workspace-draft-"
DRAFT_LIFE_S = 3600
TRIED_S = 5.0  # against others who change the same folder
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_FOLDER = {errno.ELOOP, errno.ENOTDIR}  # a file or a link where a folder is wanted
_CHANGED = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, *_NO_FOLDER}  # by somebody, since it was looked at


class Mistake(Exception):
    """What is wrong with a path; `code` is one of the exit codes."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Written:
    """A file to be written; a seed only where nothing is."""

    path: str
    content: bytes
    mode: int = 0o644
    is_seed: bool = False


Listed = tuple[str, int, bool]  # path, size, whether it is a folder


def listed(base: str, top: str, path: str, depth: int) -> list[Listed]:
    """What lies below the folder `path` of `top`, by name; nothing for a `top` that nobody has made yet.

    Raises Mistake, OSError; so do the three below.
    """
    parts = [*_parts(top), *_parts(path)]
    try:
        with _opened(base, parts) as folder:
            return list(_entries(folder, "", depth))
    except FileNotFoundError:
        if not _parts(path):
            return []
        raise Mistake(MISSING) from None
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
    raise Mistake(IS_FILE if _is_file(base, parts) else MISSING)


def read(base: str, path: str, limit: int) -> bytes:
    *above, name = _parts(path)
    try:
        with _opened(base, above) as folder:
            if stat.S_ISDIR(mode := _mode(folder, name)):
                raise Mistake(IS_FOLDER)
            if not stat.S_ISREG(mode):
                raise Mistake(MISSING)
            descriptor = os.open(name, _FILE, dir_fd=folder)
            with open(descriptor, "rb") as stored:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Mistake(MISSING)
                content = stored.read(limit + 1)
    except FileNotFoundError:
        raise Mistake(MISSING) from None
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        raise Mistake(MISSING) from None
    if len(content) > limit:
        raise Mistake(TOO_LARGE)
    return content


def write(base: str, files: Sequence[Written], owner: int | None = None) -> None:
    """Each in one atomic step, with its folders made; `owner` gets what is made. Of a mistake nothing is
    written: all paths are looked at before the first byte.
    """
    for file in files:
        _check(base, file.path)
    for file in files:
        _write_one(base, file, owner)


def delete(base: str, path: str, *, recursive: bool) -> None:
    """A link goes itself; what lies below one, or below a file, is not there. Missing is a success."""
    *above, name = _parts(path)
    try:
        with _opened(base, above) as folder:
            for _ in _until_it_works():
                is_folder = stat.S_ISDIR(_mode(folder, name))
                if is_folder and not recursive:
                    raise Mistake(IS_FOLDER)
                try:
                    if is_folder:
                        _remove(folder, name)
                    else:
                        os.unlink(name, dir_fd=folder)
                except OSError as error:
                    if error.errno not in _CHANGED:
                        raise
                else:
                    return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise


def _check(base: str, path: str) -> None:
    """Whether a file can be put at `path`, as far as what is there now decides it. Raises Mistake."""
    *above, name = _parts(path)
    try:
        with _opened(base, above) as folder:
            if stat.S_ISDIR(_mode(folder, name)):
                raise Mistake(IS_FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        raise Mistake(IS_FILE) from None


def _write_one(base: str, file: Written, owner: int | None) -> None:
    """A folder that is deleted meanwhile is made again."""
    *above, name = _parts(file.path)
    for _ in _until_it_works():
        try:
            with _opened(base, above, make=True, owner=owner) as folder:
                _place(folder, name, file, owner)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            raise Mistake(IS_FILE) from None
        return


def _until_it_works() -> Iterator[int]:
    """Tries, for as long as others who change the same folder are waited for. Raises Mistake after that."""
    deadline, tries = time.monotonic() + TRIED_S, 0
    while time.monotonic() < deadline:
        yield tries
        tries += 1
    raise Mistake(BUSY)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


@contextmanager
def _opened(
    base: str, parts: Sequence[str], *, make: bool = False, owner: int | None = None
) -> Iterator[int]:
    """A descriptor of the folder `parts` below `base`, one step at a time."""
    folder = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            is_new = make and _made(folder, part)
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
            if is_new and owner is not None:
                os.fchown(folder, owner, owner)
        yield folder
    finally:
        os.close(folder)


def _made(folder: int, name: str) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _mode(folder: int, name: str) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode


def _is_file(base: str, parts: Sequence[str]) -> bool:
    with suppress(OSError), _opened(base, parts[:-1]) as folder:
        return stat.S_ISREG(_mode(folder, parts[-1]))
    return False


def _entries(folder: int, below: str, depth: int) -> Iterator[Listed]:
    for name in sorted(os.listdir(folder)):
        try:
            seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:  # gone meanwhile
            continue
        shown = (below + name).encode(errors="replace").decode()
        if stat.S_ISREG(seen.st_mode):
            yield shown, seen.st_size, False
        elif stat.S_ISDIR(seen.st_mode):
            yield shown, 0, True
            if depth > 1:
                with suppress(FileNotFoundError, NotADirectoryError), _opened_below(folder, name) as inner:
                    yield from _entries(inner, f"{below}{name}/", depth - 1)


@contextmanager
def _opened_below(folder: int, name: str) -> Iterator[int]:
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield inner
    finally:
        os.close(inner)


def _place(folder: int, name: str, file: Written, owner: int | None) -> None:
    """Whole or not at all, whoever else writes the same file: each has its own draft, the last one stays."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(_mode(folder, name)):
            raise Mistake(IS_FOLDER)
    _forget_drafts(folder)
    draft = f"{DRAFT}{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
        with open(descriptor, "wb") as stored:
            stored.write(file.content)
            if owner is not None:
                os.fchown(descriptor, owner, owner)
            os.fchmod(descriptor, file.mode)  # whatever the umask took away
        if file.is_seed:
            with suppress(FileExistsError):
                os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError:  # made in between
        raise Mistake(IS_FOLDER) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)


def _forget_drafts(folder: int) -> None:
    """Those of writers that died."""
    for name in os.listdir(folder):
        if name.startswith(DRAFT):
            with suppress(FileNotFoundError):
                seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if time.time() - seen.st_mtime > DRAFT_LIFE_S and not stat.S_ISDIR(seen.st_mode):
                    os.unlink(name, dir_fd=folder)


def _remove(folder: int, name: str) -> None:
    """A folder with all that is in it."""
    with _opened_below(folder, name) as inner:
        for one in os.listdir(inner):
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(_mode(inner, one)):
                    _remove(inner, one)
                else:
                    os.unlink(one, dir_fd=inner)
        os.rmdir(name, dir_fd=folder)


# --- As a program inside a container


def main(verb: str, base: str, *words: str) -> int:
    try:
        VERBS[verb](base, *words)
    except Mistake as mistake:
        return mistake.code
    except OSError as error:  # a read-only file system, a full disk
        sys.stderr.write(str(error))
        return REFUSED
    return OK


def _list(base: str, top: str, path: str, depth: str) -> None:
    sys.stdout.write(json.dumps(listed(base, top, path, int(depth))))


def _read(base: str, path: str, limit: str) -> None:
    sys.stdout.buffer.write(read(base, path, int(limit)))


def _write(base: str, count: str) -> None:
    """`count` bytes of standard input: a JSON line, [[path, mode, is_seed, size], ...], then the contents."""
    head, _, contents = sys.stdin.buffer.read(int(count)).partition(b"\n")
    files, at = [], 0
    for path, mode, is_seed, size in json.loads(head):
        files.append(Written(path, contents[at : at + size], mode, is_seed))
        at += size
    write(base, files, AGENT if os.geteuid() == 0 else None)


def _delete(base: str, path: str, recursive: str) -> None:
    delete(base, path, recursive=recursive == "1")


VERBS: dict[str, Callable[..., None]] = {"list": _list, "read": _read, "write": _write, "delete": _delete}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
