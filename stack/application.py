"""The product's own processes: how each is started, and the environment they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack import probes
from stack.processes import MARK
from stack.secrets import Secrets
from stack.supervisor import Probe, Service

PROJECT = Path(__file__).resolve().parent.parent
ADMIN = "admin"  # the login of the first operator
QUEUES = "lifecycle,bulk,teardown,images,delegations,default"
WORKER_STOP_GRACE_S = 10.0  # a task may die at any line and be run again
KEEP_ALIVE_S = 75  # longer than nginx keeps an idle connection to us


@dataclass(frozen=True)
class Application:
    """The processes of one stack; ports are loopback."""

    environment: Mapping[str, str]
    api_port: int
    files_port: int
    realtime_port: int

    def steps(self) -> dict[str, list[str]]:
        """What must have succeeded, in this order, before anything of ours runs."""
        manage = [sys.executable, "manage.py"]
        return {
            "settings and database": [*manage, "check", "--database", "default"],
            "migrations": [*manage, "migrate", "--noinput"],
            "admin login": [*manage, "ensure_admin"],
        }

    def services(self) -> list[Service]:
        return [
            self._wsgi("api", self.api_port, threads=16),
            self._wsgi("files", self.files_port, threads=8),
            self._realtime(),
            self._worker("worker", QUEUES, concurrency=4),
            self._worker("sweeps", "sweeps", concurrency=2),
            self._beat(),
        ]

    def _wsgi(self, name: str, port: int, *, threads: int) -> Service:
        command = f"granian --interface wsgi --host 127.0.0.1 --port {port} --workers 1 --no-ws --http 1"
        pools = f"--blocking-threads {threads} --workers-kill-timeout 5 --log-level warning"
        return self._service(name, f"{command} {pools} config.wsgi:application", probe=probes.http(port))

    def _realtime(self) -> Service:
        command = f"uvicorn --host 127.0.0.1 --port {self.realtime_port} --no-access-log --no-proxy-headers"
        limits = f"--timeout-keep-alive {KEEP_ALIVE_S} --timeout-graceful-shutdown 3 --log-level warning"
        probe = probes.http(self.realtime_port)
        return self._service("realtime", f"{command} {limits} config.asgi:application", probe=probe)

    def _worker(self, name: str, queues: str, *, concurrency: int) -> Service:
        command = f"celery -A config worker -n {name}@%h -Q {queues} --concurrency {concurrency}"
        habits = "--prefetch-multiplier 1 -l info --without-gossip --without-mingle"
        return self._service(name, f"{command} {habits}", ready_line=" ready.", grace_s=WORKER_STOP_GRACE_S)

    def _beat(self) -> Service:
        # The schedule lives in memory: every job is a sweep, and one more tick after a start does no harm.
        return self._service("beat", "celery -A config beat -S celery.beat.Scheduler --pidfile= -l warning")

    def _service(
        self,
        name: str,
        words: str,
        *,
        probe: Probe | None = None,
        ready_line: str | None = None,
        grace_s: float = 5.0,
    ) -> Service:
        return Service(
            name=name,
            command=[sys.executable, "-m", *words.split()],
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
    given["PLATFORM_URL"] = given.get("PLATFORM_URL") or f"http://127.0.0.1:{port}"
    given["PROVISIONER"] = given.get("PROVISIONER") or "process"
    if is_open:
        given |= {"MOLECULE_ENV": "development", "MOLECULE_DEV_OPEN": "1", "WS_ANONYMOUS_CANVAS": "1"}
        del given["ADMIN_TOKEN"]
    return given
