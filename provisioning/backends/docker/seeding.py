"""The config folder of a container that is not started yet: what its first process will find.

Copied before the start, because a fast agent wins every race after it. Source: docs/reference/docker.md,
Starting.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any

import docker
from docker.errors import NotFound
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from provisioning.backends.base import BackendError, ErrorClass, File, StartSpec
from provisioning.backends.docker.archives import owned_folder, packed
from provisioning.backends.docker.shape import shared_folder
from provisioning.backends.tiers import TierLimits

CONFIGS = "/configs"
CONFIG_LIMIT_BYTES = 1024 * 1024


def seed_configs(
    api: docker.APIClient, container_id: str, spec: StartSpec, limits: TierLimits, port: int | None
) -> None:
    """Copy the start's files; a seed only where the volume has none. Raises APIError, BackendError."""
    files = {
        name: file
        for name, file in spec.files.items()
        if not (file.seed and _content(api, container_id, f"{CONFIGS}/{name}") is not None)
    }
    if port is not None:
        files["config.yaml"] = _with_port(api, container_id, files.get("config.yaml"), port)
    if not limits.is_read_only:
        own_folders(api, container_id, spec, limits)
    if files:
        _put(api, container_id, CONFIGS, packed(files))


def own_folders(api: docker.APIClient, container_id: str, spec: StartSpec, limits: TierLimits) -> None:
    """Give fresh volumes and /home to the agent: an image leaves them to root, or has none of them.

    Not as root while it runs: that account has no rights in a container that gains no privileges.
    """
    folders = ["configs", "home"]
    if limits.has_workspace and shared_folder(spec) is None:
        folders.append("workspace")
    for folder in folders:
        entry = _entry(api, container_id, f"/{folder}")
        is_missing = entry is None and folder == "home"  # the volumes are there, or are not wanted
        if is_missing or (entry and entry.isdir() and entry.uid == 0 and entry.mode & 0o777 == 0o755):
            _put(api, container_id, "/", owned_folder(folder, 0o755))


def _with_port(api: docker.APIClient, container_id: str, given: File | None, port: int) -> File:
    """`config.yaml` with the allotted port merged in; what else it says stays as it is."""
    stored = _content(api, container_id, f"{CONFIGS}/config.yaml")
    text = given.content if given else stored or b""
    yaml = YAML()
    yaml.preserve_quotes = True
    try:
        document: Any = yaml.load(text.decode())
    except (YAMLError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict):
        document = {}
    section = document.get("a2a")
    document["a2a"] = {**section, "port": port} if isinstance(section, dict) else {"port": port}
    written = io.StringIO()
    yaml.dump(document, written)
    return File(written.getvalue().encode())


def _entry(api: docker.APIClient, container_id: str, path: str) -> tarfile.TarInfo | None:
    """The first header of what is at `path`, without reading on."""
    try:
        chunks, _ = api.get_archive(container_id, path)
        head = next(iter(chunks), b"")
        chunks.close()
    except NotFound:
        return None
    return tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")


def _content(api: docker.APIClient, container_id: str, path: str) -> bytes | None:
    """The file at `path`, cut at a limit that no config file reaches; b"" for what is no file."""
    try:
        chunks, stat = api.get_archive(container_id, path)
    except NotFound:
        return None
    if stat["size"] > CONFIG_LIMIT_BYTES:
        chunks.close()
        return b""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        first = archive.next()
        stored = archive.extractfile(first) if first and first.isfile() else None
        return stored.read() if stored else b""


def _put(api: docker.APIClient, container_id: str, folder: str, archive: bytes) -> None:
    if not api.put_archive(container_id, folder, archive):
        raise BackendError(ErrorClass.INTERNAL, "workspace start failed", detail=f"copy into {folder}")
