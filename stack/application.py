"""The product's own processes: how each is started, and the environment they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import probes
from stack.containers import engine_answers
from stack.processes import MARK
from stack.secrets import Secrets
from stack.supervisor import Probe, Service

PROJECT = Path(__file__).resolve().parent.parent
CATALOGUE = PROJECT / "templates" / "catalogue"  # the examples a new data folder starts with
ADMIN = "admin"  # the login of the first operator
LOOPBACK = "127.0.0.1"
# One interpreter keeps one core busy. Many threads wait for each other, but a pause or a delete holds one.
POOLS = {"api": 2, "files": 1}
THREADS = {"api": 8, "files": 16}  # those of files mostly wait for a client or an agent
QUEUES = {
    "worker": "lifecycle,bulk,teardown,images,default",
    "delegations": "delegations",
    "sweeps": "sweeps",
}
WORKERS = {"worker": 4, "delegations": 100, "sweeps": 2}
CELERY_POOLS = {"delegations": "threads"}  # each waits for an agent, for minutes: a process would be too much
KEEP_ALIVE_S = 75  # longer than nginx keeps an idle connection to us
PROCESSES = ("api", "files", "realtime", "worker", "delegations", "sweeps", "beat")


def manage(*words: str) -> list[str]:
    return [sys.executable, "manage.py", *words]


def command(name: str, *, host: str = LOOPBACK, port: int = 0) -> list[str]:
    """What runs the process `name` of PROCESSES; `host` and `port` are for those that listen."""
    listen = f"--host {host} --port {port} --log-level warning"
    match name:
        case "api" | "files":
            pool = f"--workers {POOLS[name]} --blocking-threads {THREADS[name]} --workers-kill-timeout 5"
            words = f"granian --interface wsgi --http 1 --no-ws {listen} {pool} config.wsgi:application"
        case "realtime":
            # The address of the caller is the product's to find out, from proxies it was told to trust.
            limits = f"--timeout-keep-alive {KEEP_ALIVE_S} --timeout-graceful-shutdown 3"
            # A frame is encoded once for all sockets; compression would be once for each.
            sockets = "--ws-ping-interval 30 --ws-ping-timeout 60 --ws-max-size 65536"
            habits = f"--no-access-log --no-proxy-headers --ws-per-message-deflate false {limits} {sockets}"
            words = f"uvicorn {listen} {habits} config.asgi:application"
        case "worker" | "delegations" | "sweeps":
            habits = "--prefetch-multiplier 1 --without-gossip --without-mingle -l info"
            size = (
                f"-Q {QUEUES[name]} --pool {CELERY_POOLS.get(name, 'prefork')} --concurrency {WORKERS[name]}"
            )
            words = f"celery -A config worker -n {name}@%h {size} {habits}"
        case "beat":
            # The schedule lives in memory: every job is a sweep, one more tick after a start does no harm.
            words = "celery -A config beat -S celery.beat.Scheduler --pidfile= -l warning"
        case _:
            raise ValueError(f"{name} is none of {', '.join(PROCESSES)}")
    return [sys.executable, "-m", *words.split()]


@dataclass(frozen=True)
class Application:
    """The processes of one stack; ports are loopback."""

    environment: Mapping[str, str]
    api_port: int
    files_port: int
    realtime_port: int

    def steps(self) -> dict[str, list[str]]:
        """What must have succeeded, in this order, before anything of ours runs."""
        return {
            "settings and database": manage("check", "--database", "default"),
            "migrations": manage("migrate", "--noinput"),
            **self._vectors(),
            "admin login": manage("ensure_admin"),
        }

    def _vectors(self) -> dict[str, list[str]]:
        wanted = self.environment.get("MEMORY_VECTOR", "").strip().lower() not in {"", "off"}
        return {"vectors": manage("memory_enable_vector")} if wanted else {}

    def services(self) -> list[Service]:
        ports = {"api": self.api_port, "files": self.files_port, "realtime": self.realtime_port}
        return [
            *(self._service(name, port=port, probe=probes.http(port)) for name, port in ports.items()),
            *(self._service(name, ready_line=" ready.", grace_s=10.0) for name in QUEUES),
            self._service("beat"),
        ]

    def memory_question(self) -> list[str]:
        """What tells by its status whether the memory plugin is wanted."""
        return manage("memory_plugin_wanted")

    def memory_plugin(self) -> Service:
        return Service("memory-plugin", manage("memory_plugin"), self.environment, PROJECT)

    def _service(
        self,
        name: str,
        *,
        port: int = 0,
        probe: Probe | None = None,
        ready_line: str | None = None,
        grace_s: float = 5.0,  # a task may die at any line and be run again
    ) -> Service:
        return Service(
            name=name,
            command=command(name, port=port),
            environment=self.environment,
            cwd=PROJECT,
            probe=probe,
            ready_line=ready_line,
            stop_grace_s=grace_s,
        )


def environment(
    *, folder: Path, port: int, secrets: Secrets, database_url: str, redis_url: str, is_open: bool
) -> dict[str, str]:
    """What every Django process of the stack gets, on top of the caller's own environment.

    An open stack asks nobody for a credential: no admin token, and the switches of the development hatch."""
    given = dict(os.environ)
    given |= {
        MARK: str(folder),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DJANGO_SECRET_KEY": secrets.django_secret_key,
        "DJANGO_SUPERUSER_USERNAME": ADMIN,
        "DJANGO_SUPERUSER_PASSWORD": secrets.admin_password,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ADMIN_TOKEN": secrets.admin_token,
        "SECRETS_ENCRYPTION_KEY": secrets.secrets_encryption_key,
        "MOLECULE_INSTANCE_ID": secrets.instance_id,
        "DATA_DIR": str(folder),
        "PORT": str(port),
        "TRUSTED_PROXIES": "127.0.0.0/8,::1/128",
    }
    given["PROVISIONER"] = given.get("PROVISIONER") or ("docker" if engine_answers() else "process")
    # A container's own loopback is not ours; the engine knows this machine by a name.
    host = "host.docker.internal" if given["PROVISIONER"] in {"docker", "auto"} else LOOPBACK
    given["PLATFORM_URL"] = given.get("PLATFORM_URL") or f"http://{host}:{port}"
    given["CONFIGS_DIR"] = given.get("CONFIGS_DIR") or str(
        folder / "catalogue" / "workspace-configs-templates"
    )
    if is_open:
        given |= {"MOLECULE_ENV": "development", "MOLECULE_DEV_OPEN": "1", "WS_ANONYMOUS_CANVAS": "1"}
        del given["ADMIN_TOKEN"]
    return given
