"""Runs inside a workspace's container, never in the server: one file operation per call.

The backend sends this file's text to the container's Python; paths and contents arrive as arguments and on
standard input, never as text of a program. Standard library only. The exit code says what happened. Source:
docs/reference/docker.md, Files.
"""

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress

OK, MISSING, IS_FOLDER, IS_FILE, TOO_LARGE, REFUSED = 0, 3, 4, 5, 6, 7
AGENT = 1000
DRAFT = ".workspace-draft-"
DRAFT_LIFE_S = 3600


def main(operation: str, root: str, *rest: str) -> int:
    try:
        return VERBS[operation](root, *rest)
    except FileNotFoundError:
        return MISSING
    except IsADirectoryError:
        return IS_FOLDER
    except (NotADirectoryError, FileExistsError):
        return IS_FILE
    except OSError as error:  # a read-only file system, a full disk
        sys.stderr.write(str(error))
        return REFUSED


def listed(root: str, path: str, depth: str) -> int:
    top = os.path.join(root, path)
    if not os.path.isdir(top):
        return IS_FILE if os.path.exists(top) else MISSING
    entries = []

    def visit(folder: str, below: str, levels: int) -> None:
        with os.scandir(folder) as found:
            for one in sorted(found, key=lambda entry: entry.name):
                name = os.path.join(below, one.name)
                is_folder = one.is_dir(follow_symlinks=False)
                if not is_folder and not one.is_file(follow_symlinks=False):
                    continue
                size = 0 if is_folder else one.stat(follow_symlinks=False).st_size
                entries.append([name.encode(errors="replace").decode(), size, is_folder])
                if is_folder and levels > 1:
                    visit(one.path, name, levels - 1)

    visit(top, "", int(depth))
    sys.stdout.write(json.dumps(entries))
    return OK


def read(root: str, path: str, limit: str) -> int:
    with open(os.path.join(root, path), "rb") as stored:
        content = stored.read(int(limit) + 1)
    if len(content) > int(limit):
        return TOO_LARGE
    sys.stdout.buffer.write(content)
    return OK


def written(root: str, count: str) -> int:
    """`count` bytes of standard input: a JSON line, [[path, mode, is_seed, size], ...], then the contents."""
    given = sys.stdin.buffer.read(int(count))
    head, _, contents = given.partition(b"\n")
    at = 0
    for path, mode, is_seed, size in json.loads(head):
        content, at = contents[at : at + size], at + size
        target = os.path.join(root, path)
        if os.path.isdir(target):
            return IS_FOLDER
        if not (is_seed and os.path.lexists(target)):
            make_folders(os.path.dirname(target))
            place(target, content, mode)
    return OK


def place(target: str, content: bytes, mode: int) -> None:
    """Whole or not at all, whoever else writes the same file: each has its own draft, the last one stays."""
    folder = os.path.dirname(target)
    forget_drafts(folder)
    draft = os.path.join(folder, f"{DRAFT}{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stored:
            stored.write(content)
        os.chown(draft, AGENT, AGENT)
        os.chmod(draft, mode)
        os.replace(draft, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)


def forget_drafts(folder: str) -> None:
    """Those of writers that died."""
    with os.scandir(folder) as found:
        drafts = [one for one in found if one.name.startswith(DRAFT)]
    for one in drafts:
        with suppress(FileNotFoundError):
            if time.time() - one.stat(follow_symlinks=False).st_mtime > DRAFT_LIFE_S:
                os.unlink(one.path)


def make_folders(folder: str) -> None:
    if not os.path.isdir(folder):
        make_folders(os.path.dirname(folder))
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            if os.path.isdir(folder):
                return  # another writer was faster
            raise
        os.chown(folder, AGENT, AGENT)


def deleted(root: str, path: str, recursive: str) -> int:
    target = os.path.join(root, path)
    if os.path.isdir(target) and not os.path.islink(target):
        if not int(recursive):
            return IS_FOLDER
        shutil.rmtree(target)
    elif os.path.lexists(target):
        os.unlink(target)
    return OK


VERBS: dict[str, Callable[..., int]] = {"list": listed, "read": read, "write": written, "delete": deleted}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
