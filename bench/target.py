"""The stack that is measured: its address, the operator's token and its folder."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.errors import BenchError


@dataclass(frozen=True)
class Target:
    """One running stack. `folder` is its data folder, None when only an address was given."""

    address: str
    port: int
    token: str
    folder: Path | None = None

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


def find(data_dir: str, url: str | None, token: str | None) -> Target:
    """The stack of `data_dir`, or the one at `url`.

    Raises BenchError when it is not there or not ours to load.
    """
    folder = Path(data_dir).absolute()
    url = url or _read(folder / "url")
    if not url:
        raise BenchError(f"No stack runs for {folder}; start one with `make up`, or name it with --url.")
    token = token or _read(folder / "admin-token")
    if not token:
        raise BenchError(f"There is no {folder / 'admin-token'}; give the operator's token with --token.")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BenchError(f"{url} is no address of the form http://127.0.0.1:8080.")
    is_of_folder = _read(folder / "url") == url
    return Target(_loopback(parts.hostname), parts.port or 80, token, folder if is_of_folder else None)


def _loopback(host: str) -> str:
    """An address of `host`, all of whose addresses are this machine's own: load is for nobody else.

    Raises BenchError."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise BenchError(f"{host} cannot be resolved: {error}.") from error
    if not all(ipaddress.ip_address(one).is_loopback for one in found):
        raise BenchError(f"{host} is not this machine; only a loopback address is put under load.")
    return "127.0.0.1" if "127.0.0.1" in found else found[0]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
