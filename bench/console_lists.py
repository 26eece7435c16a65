"""`python -m bench.console_lists`: what the console's pages take when there is much of everything.

It fills a throw-away database (as `python -m stack run` brings one) and asks a server of it for every list,
the first page, the tree's data and the page of the busiest workspace, as a logged-in superuser does.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from stack import ports

LOGIN, PASSWORD = "bench", "a long password"
TEAM = 100  # workspaces: a lead and those below it
FILLED = {
    "workspaces": """
        INSERT INTO workspaces (id, name, tier, status, runtime, url_source, delivery_mode,
            delivery_mode_explicit, workspace_access, last_error_rate, active_tasks, max_concurrent_tasks,
            uptime_seconds, monthly_spend, generation, cleanup_pending, last_sample_error, last_heartbeat_at,
            parent_id)
        SELECT uuid(n), 'agent ' || n, 1 + n % 4, (ARRAY['online','online','online','offline','paused',
                'degraded','failed','provisioning'])[1 + n % 8],
            'langgraph', 'agent', 'push', false, 'none', 0, 0, 1, 0, 0, 1, false, 'an error',
            now() - n % 1000 * interval '1 second', CASE WHEN n % {team} > 0 THEN uuid(n - n % {team}) END
        FROM generate_series(0, {workspaces} - 1) n""",
    "delegations": """
        INSERT INTO delegations (delegation_id, caller_id, callee_id, task_preview, status, deadline,
            result_is_cut, retry_count, source, created_at, finished_at, last_heartbeat)
        SELECT 'd' || n, uuid(n % {workspaces}), uuid((n + 1) % {workspaces}), 'task ' || n, state,
            now() + (n % 600 - 100) * interval '1 minute', false, 0, 'api', now() - n * interval '2 seconds',
            CASE WHEN state IN ('completed', 'failed') THEN now() END, now() - n % 900 * interval '1 second'
        FROM generate_series(0, {delegations} - 1) n,
            LATERAL (SELECT CASE WHEN n % 100 > 2 THEN (ARRAY['completed','failed'])[1 + n % 2]
                ELSE (ARRAY['queued','in_progress','stuck'])[1 + n % 3] END AS state) s""",
    "activity": """
        INSERT INTO activity_logs (id, activity_type, status, created_at, workspace_id, method, summary)
        SELECT uuid(n), (ARRAY['a2a_send','a2a_receive','task_update','error'])[1 + n % 4], 'ok',
            now() - n * interval '0.2 seconds', uuid(CASE WHEN n % 10 = 0 THEN 1 ELSE n % {workspaces} END),
            'message/send', 'activity ' || n
        FROM generate_series(0, {activity} - 1) n""",
}
_ID = """CREATE FUNCTION pg_temp.of_number(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
         AS $$ SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$"""
BUSIEST = "00000000-0000-4000-8000-000000000001"
FILTERS = {
    "/console/workspaces/workspace/": (
        *(f"?trouble={one}" for one in ("stale", "stuck", "orphaned", "cleanup")),
        *("?status=failed", "?status=removed", "?q=agent+99", "?p=150", "?runtime=langgraph"),
    ),
    "/console/delegations/delegation/": (
        *(f"?state={one}" for one in ("stuck", "overdue", "failed", "completed")),
        *(f"?q={BUSIEST}", "?q=d999", "?p=150"),
    ),
}
BESIDE = (
    "/console/",
    "/console/workspaces/workspace/tree/data/",
    f"/console/workspaces/workspace/{BUSIEST}/change/",
    "/console/delegations/delegation/d2/change/",
)


def fill(counts: dict[str, int]) -> None:
    import psycopg

    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        database.execute(_ID)
        database.execute("SET search_path = public, pg_temp")
        for what, statement in FILLED.items():
            began = time.monotonic()
            database.execute(statement.replace("uuid(", "pg_temp.of_number(").format(team=TEAM, **counts))
            print(f"{counts[what]:,} {what} in {time.monotonic() - began:.0f} s", flush=True)
        database.execute("ANALYZE")


@contextmanager
def server() -> Iterator[str]:
    (port,) = ports.choose(1)
    command = [sys.executable, "manage.py", "runserver", "--noreload", "--insecure", f"127.0.0.1:{port}"]
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def logged_in(url: str) -> httpx.Client:
    client = httpx.Client(base_url=url, timeout=120, trust_env=False, follow_redirects=True)
    until = time.monotonic() + 60
    while True:
        try:
            page = client.get("/console/login/")
            break
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token
    form = {"username": LOGIN, "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
    answer = client.post("/console/login/", data=form, headers={"Referer": f"{url}/console/login/"})
    assert "/login/" not in str(answer.url), answer.status_code
    return client


def pages(client: httpx.Client) -> list[str]:
    """Every list that the first page's navigation leads to, and the ones with filters."""
    found = sorted(set(re.findall(r'href="(/console/\w+/\w+/)"', client.get("/console/").text)))
    return [*BESIDE, *found, *(f"{path}{one}" for path, ones in FILTERS.items() for one in ones)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.console_lists", description=__doc__)
    for name, number in (("workspaces", 100_000), ("delegations", 1_000_000), ("activity", 10_000_000)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    made = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD, **os.environ}
    person = ["createsuperuser", "--noinput", "--username", LOGIN, "--email", "bench@example.com"]
    for command in (["migrate", "--noinput"], person):
        subprocess.run([sys.executable, "manage.py", *command], env=made, check=True, capture_output=True)
    fill({name: getattr(options, name) for name in ("workspaces", "delegations", "activity")})
    with server() as url:
        client = logged_in(url)
        print("\n| Page | median ms | max ms |\n|---|---|---|")
        for path in pages(client):
            taken = []
            for _ in range(options.repeat):
                began = time.perf_counter()
                answer = client.get(path)
                taken.append(1000 * (time.perf_counter() - began))
                answer.raise_for_status()
            print(f"| `{path}` | {statistics.median(taken):.0f} | {max(taken):.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
