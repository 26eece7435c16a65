"""The data folder: everything one stack keeps."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from stack.errors import StackError

STRANGE = set('"\\$') | {
    chr(code) for code in (*range(32), 127)
}  # cannot be written into a configuration file


def absolute(given: str) -> Path:
    """The data folder as an absolute path. Raises StackError for one that cannot be used."""
    if not given or STRANGE & set(given):
        raise StackError(
            f"DATA_DIR={given!r} has characters that cannot be used in a path here; choose a plainer one."
        )
    path = Path(given).expanduser().resolve()
    if path == Path(path.anchor):
        raise StackError("DATA_DIR must be a folder of its own, not the root of the file system.")
    return path


def create(path: Path) -> None:
    """Create the data folder unless it is there. Raises StackError unless it can be written to."""
    if path.exists() and not path.is_dir():
        raise StackError(f"DATA_DIR={path} is not a folder.")
    try:
        if not path.exists():
            # Under root, database and nginx have accounts of their own, which pass through but do not look.
            path.mkdir(parents=True, mode=0o700)
            path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StackError(f"DATA_DIR={path} cannot be written to: {error.strerror}.") from error


def fill(path: Path, source: Path) -> None:
    """Copy the folder `source` to `path` unless something is there: whole or not at all."""
    if path.exists():
        return
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        shutil.copytree(source, beside / path.name)
        os.rename(beside / path.name, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only we may read, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
