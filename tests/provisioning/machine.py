"""Stands in for an instance: reads its user-data from the account and does what a machine would do with it.

`Machine` runs the real script, with a stand-in for Docker that writes down what it is told to run and can run
the reference agent. `light_boot` does the same over HTTP by itself, for many machines at once.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings

from tests.provisioning.ec2_cloud import Cloud

DOCKER = """#!{python}
import json, os, subprocess, sys

root, words = os.environ["ROOT"], sys.argv[1:]
with open(f"{{root}}/docker.log", "a") as log:
    log.write(json.dumps(words) + "\\n")
failures = os.environ.get("DOCKER_FAILS", "").split()
if words[0] in failures:
    sys.exit(f"{{words[0]}} failed, as the test asked")
if words[0] == "run":
    passed = {{words[i + 1] for i, word in enumerate(words) if word == "--env"}}
    environment = {{key: os.environ[key] for key in passed}}
    configs = f"{{root}}/configs"
    seen = {{"arguments": words, "environment": environment,
             "files": {{name: open(f"{{configs}}/{{name}}").read() for name in sorted(os.listdir(configs))}}}}
    open(f"{{root}}/seen.json", "w").write(json.dumps(seen))
    if "reference-agent" in os.environ.get("DOCKER_RUNS", ""):
        agent = [sys.executable, "-m", "agent", "serve", "--config-dir", configs, "--port", "0"]
        own = {{**environment, "PATH": os.environ["PATH"], "WORKSPACE_CONFIG_PATH": configs}}
        own.pop("PYTHONPATH", None)
        with open(f"{{root}}/agent.log", "ab") as log:
            child = subprocess.Popen(agent, cwd=os.environ["PROJECT"], env=own, stdout=log, stderr=log,
                                     stdin=subprocess.DEVNULL, start_new_session=True)
        open(f"{{root}}/agent.pid", "w").write(str(child.pid))
    print("container")
elif words[0] == "inspect":
    print(os.environ.get("DOCKER_STATE", "running 0"))
elif words[0] == "logs":
    print("the last words of the agent")
"""
NOTED = '#!/bin/bash\necho "$(basename "$0") $*" >>"$ROOT/commands.log"\n'


class Machine:
    """One instance of `cloud`, whose disk is `folder`."""

    def __init__(self, cloud: Cloud, instance_id: str, folder: Path, **environment: str) -> None:
        self.root = folder / instance_id
        self.user_data = cloud.user_data_of(instance_id)
        self._tools = self.root / "tools"
        self._tools.mkdir(parents=True)
        self._tool("docker", DOCKER.format(python=sys.executable))
        for name in ("iptables", "ip6tables", "shutdown"):
            self._tool(name, NOTED)
        self._environment = {
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "ROOT": str(self.root),
            "METADATA": "http://127.0.0.1:9",
            "PAUSE_S": "0.1",
            "WATCHES": "3",
            "PROJECT": str(settings.BASE_DIR),
            **environment,
        }

    def boot(self, within_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Run the user-data to its end, as cloud-init does: as a file of its own."""
        script = self.root / "user-data"
        script.write_text(self.user_data)
        script.chmod(0o700)
        return subprocess.run(
            [str(script)],
            env=self._environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    @property
    def seen(self) -> dict[str, Any]:
        """What the container was given."""
        seen: dict[str, Any] = json.loads((self.root / "seen.json").read_text())
        return seen

    @property
    def commands(self) -> list[str]:
        noted = self.root / "commands.log"
        return noted.read_text().splitlines() if noted.exists() else []

    def docker_calls(self, verb: str) -> list[list[str]]:
        calls = [json.loads(line) for line in (self.root / "docker.log").read_text().splitlines()]
        return [words for words in calls if words[0] == verb]

    def configs(self) -> Mapping[str, tuple[int, int]]:
        """Owner and mode of each config file."""
        found = {path.name: path.stat() for path in (self.root / "configs").iterdir()}
        return {name: (one.st_uid, stat.S_IMODE(one.st_mode)) for name, one in found.items()}

    def end(self) -> None:
        pid = self.root / "agent.pid"
        if pid.exists():
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _tool(self, name: str, text: str) -> None:
        tool = self._tools / name
        tool.write_text(text)
        tool.chmod(0o755)


def light_boot(user_data: str, address: str) -> httpx.Response:
    """Fetch the start with the token in `user_data`, and register and beat with the one it delivers.

    Returns the last answer.
    """
    found = dict(re.findall(r"^(PLATFORM_URL|ORG_ID|BOOT_TOKEN|WORKSPACE_ID)=(.*)$", user_data, re.MULTILINE))
    given = {name: value.strip("'") for name, value in found.items()}
    headers = {"Authorization": f"Bearer {given['BOOT_TOKEN']}", "X-Molecule-Org-Id": given["ORG_ID"]}
    with httpx.Client(base_url=given["PLATFORM_URL"], timeout=60) as client:
        answer = client.get("/internal/workspaces/boot-config", headers=headers)
        if answer.status_code != 200:
            return answer
        start = answer.json()
        token = base64.b64decode(start["files"][".auth_token"]["content_b64"]).decode()
        bearer = {"Authorization": f"Bearer {token}"}
        card = {"name": "machine"}
        body = {"id": given["WORKSPACE_ID"], "url": f"http://{address}:8000", "agent_card": card}
        answer = client.post("/registry/register", json=body, headers=bearer)
        if answer.status_code != 200:
            return answer
        beat = {
            "workspace_id": given["WORKSPACE_ID"],
            "error_rate": 0,
            "active_tasks": 0,
            "uptime_seconds": 1,
        }
        return client.post("/registry/heartbeat", json=beat, headers=bearer)
