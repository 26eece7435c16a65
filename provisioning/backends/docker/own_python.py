"""A base image without any registry: this server's own Python, its libraries and a few plain tools.

Enough for the reference agent, which needs the standard library and nothing else; an engine that reaches no
registry can run it all the same. Linux, and an engine of the same architecture. Source:
docs/reference/docker.md, The default image.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = "workspace-agent-base"
TOOLS = (
    *(
        "sh",
        "bash",
        "cat",
        "chmod",
        "chown",
        "cp",
        "date",
        "df",
        "du",
        "env",
        "find",
        "grep",
        "head",
        "id",
        "ls",
    ),
    *(
        "mkdir",
        "mv",
        "ps",
        "pwd",
        "rm",
        "sed",
        "sleep",
        "sort",
        "tail",
        "test",
        "touch",
        "true",
        "uname",
        "wc",
    ),
)
LEFT_OUT = frozenset(
    ["__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip"]
)
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")
# Loaded by name when it is needed, so no list of dependencies names them.
ALSO = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")


def tag() -> str:
    """Changes with the Python it is made of, and with this file."""
    made_of = f"{sys.version}{os.path.realpath(sys.executable)}".encode() + Path(__file__).read_bytes()
    return f"{REPOSITORY}:{hashlib.sha256(made_of).hexdigest()[:12]}"


def packed() -> bytes:
    """The root file system as a tar."""
    packet = io.BytesIO()
    with tarfile.open(fileobj=packet, mode="w") as archive:
        root = _Root(archive)
        for link in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{link}"):
                root.link(f"/{link}", os.readlink(f"/{link}"))
        for folder, mode in (("/tmp", 0o1777), ("/etc", 0o755), ("/root", 0o755)):  # noqa: S108
            root.folder(folder, mode)
        root.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        root.text("/etc/group", "root:x:0:\n")
        root.text("/etc/nsswitch.conf", "hosts: files dns\n")
        python = os.path.realpath(sys.executable)
        root.program(python)
        for path in _standard_library():
            root.file(str(path))
            if path.suffix == ".so":
                root.libraries(str(path))
        for tool in TOOLS:
            if found := shutil.which(tool, path="/usr/bin:/bin"):
                root.program(os.path.realpath(found), at=f"/usr/bin/{tool}")
        for name in ("/usr/bin/python3", "/bin/sh"):
            root.link(name, python if name.endswith("python3") else "/usr/bin/sh")
        for bundle in CERTIFICATES:
            if os.path.exists(bundle):
                root.file(bundle)
    return packet.getvalue()


def _standard_library() -> Iterator[Path]:
    for key in ("stdlib", "platstdlib"):
        top = Path(sysconfig.get_path(key, vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix}))
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not _is_left_out(name)]
            yield from (Path(folder, name) for name in files if not name.endswith((".pyc", ".a")))


def _is_left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith("config-")


class _Root:
    """Adds to the tar each path once, folders before what is in them, links resolved."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._known: set[str] = {"/"}
        self._links: dict[str, str] = {}

    def program(self, path: str, at: str | None = None) -> None:
        self.file(path, at)
        self.libraries(path)

    def libraries(self, path: str) -> None:
        """What the loader would load for `path`, itself included."""
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        found = LIBRARY.findall(listed)
        folders = {os.path.dirname(one) for one in found}
        found += [f"{folder}/{name}" for folder in folders for name in ALSO]
        for library in found:
            if os.path.exists(library):
                self.file(os.path.realpath(library), library)

    def file(self, path: str, at: str | None = None) -> None:
        place = self._place(at or path)
        if place in self._known:
            return
        self._known.add(place)
        entry = self._entry(place, 0o755 if os.access(path, os.X_OK) else 0o644)
        with open(path, "rb") as source:
            entry.size = os.fstat(source.fileno()).st_size
            self._archive.addfile(entry, source)

    def text(self, place: str, text: str) -> None:
        self._known.add(place)
        entry = self._entry(place, 0o644)
        entry.size = len(text)
        self._archive.addfile(entry, io.BytesIO(text.encode()))

    def folder(self, place: str, mode: int = 0o755) -> None:
        if place not in self._known:
            self._known.add(place)
            entry = self._entry(place, mode)
            entry.type = tarfile.DIRTYPE
            self._archive.addfile(entry)

    def link(self, place: str, target: str) -> None:
        whole = self._place(place)
        if whole in self._known:
            return
        self._known.add(whole)
        self._links[whole] = os.path.normpath(os.path.join(os.path.dirname(whole), target))
        entry = self._entry(whole, 0o777)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._archive.addfile(entry)

    def _place(self, path: str) -> str:
        """Where `path` is once the links at the top are followed."""
        top = "/" + path.lstrip("/").partition("/")[0]
        if top in self._links and path != top:
            return self._links[top] + path[len(top) :]
        return os.path.normpath(path)

    def _entry(self, place: str, mode: int) -> tarfile.TarInfo:
        parent = os.path.dirname(place)
        if parent not in self._known:
            self.folder(parent)
        entry = tarfile.TarInfo(place.lstrip("/"))
        entry.mode = mode
        return entry
