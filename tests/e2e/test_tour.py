"""The README's tour, step by step, against a running stack."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, Request, build_opener

import psutil
from websockets.sync.client import ClientConnection

from stack.application import PROJECT
from tests.e2e.conftest import Operator
from tests.stack.running import eventually


def agents_of(workspace_id: str) -> list[psutil.Process]:
    """The living processes that run the agent of a workspace."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if "serve" in words and workspace_id in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


PASSING = {"WORKSPACE_HEARTBEAT", "WORKSPACE_PROVISION_PROGRESS"}  # as many as it takes


def frames_until(socket: ClientConnection, event: str, workspace_id: str) -> list[str]:
    """The events about the workspace up to and including `event`."""
    seen: list[str] = []
    while not seen or seen[-1] != event:
        frame = json.loads(socket.recv(timeout=15))
        if frame["workspace_id"] == workspace_id and frame["event"] not in PASSING:
            seen.append(frame["event"])
    return seen


@contextmanager
def external_agent(url: str, workspace_id: str, token: str, folder: Path) -> Iterator[Path]:
    """`python -m agent connect` as a second shell would run it; yields the file of its output."""
    output = folder / "agent.log"
    words = [sys.executable, "-m", "agent", "connect", "--url", url, "--workspace", workspace_id]
    words += ["--state-dir", str(folder / "state"), "--poll-seconds", "0.3"]
    with output.open("w") as sink:
        environment = os.environ | {"MOLECULE_WORKSPACE_TOKEN": token}
        process = subprocess.Popen(words, cwd=PROJECT, stdout=sink, stderr=sink, env=environment)
    try:
        yield output
    finally:
        process.terminate()
        process.wait(10)


def test_a_workspace_comes_to_life_and_the_canvas_sees_it(operator: Operator):
    with operator.socket() as canvas:
        one = operator.create("tour")
        operator.until(one, "online", within_s=10)
        assert frames_until(canvas, "WORKSPACE_ONLINE", one) == ["WORKSPACE_PROVISIONING", "WORKSPACE_ONLINE"]
        (agent,) = agents_of(one)
        said = operator.post(
            f"/workspaces/{one}/a2a",
            {"method": "message/send", "params": {"message": {"parts": [{"kind": "text", "text": "hello"}]}}},
        )
        assert said["result"]["parts"][0]["text"] == "echo: hello"
        assert "A2A_RESPONSE" in frames_until(canvas, "A2A_RESPONSE", one)
        assert operator.post(f"/workspaces/{one}/restart")["status"] == "provisioning"
        assert frames_until(canvas, "WORKSPACE_ONLINE", one)[-1] == "WORKSPACE_ONLINE"
        eventually(lambda: not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE, 10)
        assert len(agents_of(one)) == 1
        assert operator.post(f"/workspaces/{one}/pause") == {"status": "paused", "paused_count": 1}
        assert agents_of(one) == []
        assert operator.post(f"/workspaces/{one}/resume") == {"status": "provisioning", "resumed_count": 1}
        operator.until(one, "online")
        assert operator.call("DELETE", f"/workspaces/{one}").json() == {
            "status": "removed",
            "cascade_deleted": 0,
        }
        assert frames_until(canvas, "WORKSPACE_REMOVED", one)[-1] == "WORKSPACE_REMOVED"
        assert agents_of(one) == []


def test_a_killed_agent_is_noticed_and_brought_back(operator: Operator):
    one = operator.create("mortal")
    operator.until(one, "online")
    (agent,) = agents_of(one)
    agent.kill()
    eventually(lambda: agents_of(one) and agents_of(one) != [agent], 40)
    operator.until(one, "online", within_s=20)
    kinds = [run["kind"] for run in operator.get(f"/workspaces/{one}/provision-runs")]
    assert kinds == ["auto_restart", "create"]


def test_an_external_agent_consumes_its_inbox(operator: Operator, tmp_path: Path):
    created = operator.post("/workspaces", {"name": "laptop", "runtime": "external"})
    one, token = created["id"], created["connection"]["auth_token"]
    with operator.socket() as canvas, external_agent(operator.url, one, token, tmp_path) as output:
        operator.until(one, "online")
        message = {"role": "user", "parts": [{"kind": "text", "text": "hi there"}]}
        queued = operator.post(
            f"/workspaces/{one}/a2a", {"method": "message/send", "params": {"message": message}}
        )
        assert queued == {"status": "queued", "delivery_mode": "poll", "method": "message/send"}
        assert "AGENT_MESSAGE" in frames_until(canvas, "AGENT_MESSAGE", one)
        eventually(lambda: "replied" in output.read_text(), 10)
        assert 'inbox: message from the canvas user: "hi there"' in output.read_text()
        assert token not in output.read_text()
        rows = operator.get(f"/workspaces/{one}/activity?type=a2a_receive")
        assert [row["method"] for row in rows] == ["notify", "message/send"]
        assert rows[0]["response_body"]["result"] == "echo: hi there"


def test_one_agent_hands_work_to_another_and_everybody_tells_the_same_story(operator: Operator):
    one, other = operator.create("delegator"), operator.create("delegate")
    operator.until(one, "online")
    operator.until(other, "online")
    with operator.socket() as canvas:
        body = {"target_id": other, "task": "count the beans"}
        delegation = operator.post(f"/workspaces/{one}/delegate", body)["delegation_id"]
        seen = frames_until(canvas, "DELEGATION_COMPLETE", one)
        assert [name for name in seen if name.startswith("DELEGATION")] == [
            "DELEGATION_SENT",
            "DELEGATION_STATUS",
            "DELEGATION_COMPLETE",
        ]
    (entry,) = operator.get(f"/workspaces/{one}/delegations")
    assert (entry["delegation_id"], entry["status"]) == (delegation, "completed")
    assert entry["response_preview"] == "echo: count the beans"
    rows = operator.get(f"/workspaces/{one}/activity?type=delegation")
    assert [(row["method"], row["status"]) for row in rows] == [
        ("delegate_result", "completed"),
        ("delegate", "completed"),
    ]
    (told,) = operator.get(f"/workspaces/{one}/activity?type=a2a_receive")
    assert (told["source_id"], told["response_body"]["text"]) == (other, "echo: count the beans")


def test_health_metrics_and_liveness_tell_of_every_process(operator: Operator):
    assert operator.get("/health/ready") == {"status": "ok", "database": "ok", "redis": "ok"}
    text = operator.call("GET", "/metrics").text
    assert "# TYPE molecule_http_requests_total counter" in text

    def ticking() -> bool:
        jobs = operator.get("/admin/liveness")["subsystems"]
        return bool(jobs) and not any(job["stale"] for name, job in jobs.items() if "cleanup" not in name)

    eventually(ticking, 90)
    assert re.search(
        r'molecule_job_runs_total\{job="health-sweep",outcome="ok"\} [1-9]',
        operator.call("GET", "/metrics").text,
    )


def test_the_operator_logs_in_and_sees_the_workspaces(operator: Operator):
    operator.create("listed in the console", runtime="external")
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    page = browser.open(f"{operator.url}/console/login/").read().decode()
    (csrf,) = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    password = (operator.stack.folder / "admin-password").read_text().strip()
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": csrf, "next": "/console/"}
    request = Request(
        f"{operator.url}/console/login/",
        data=urllib.parse.urlencode(form).encode(),
        headers={"Referer": f"{operator.url}/console/login/"},
    )
    assert browser.open(request).status == 200
    rows = browser.open(f"{operator.url}/console/workspaces/workspace/").read().decode()
    assert "listed in the console" in rows
    assert browser.open(f"{operator.url}/static/admin/css/base.css").status == 200
