"""A running stack whose workspaces are containers of a real engine, used through HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import NotFound

from provisioning.backends.base import ComputeState
from stack import ports
from tests.e2e.conftest import Operator
from tests.provisioning.docker_engine import LIMITS, DockerHarness, engine, forget, inspected_limits
from tests.provisioning.harness import spec
from tests.stack.conftest import reachable_folder
from tests.stack.running import Running, eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

ONLINE_S = 90
NETWORK = "workspace-server-tests-stack"
CHANGES_WITH_EACH_START = {"HOSTNAME"}


class Containers(Operator):
    """The operator who also looks at the engine."""

    @property
    def instance(self) -> str:
        return (self.stack.folder / "instance-id").read_text().strip()

    def container(self, workspace_id: str) -> dict[str, Any] | None:
        try:
            return dict(engine().inspect_container(f"ws-{workspace_id}"))
        except NotFound:
            return None

    def generation(self, workspace_id: str) -> int:
        found = self.container(workspace_id)
        return int(found["Config"]["Labels"]["molecule.workspace.generation"]) if found else 0

    def environment(self, workspace_id: str) -> dict[str, str]:
        found = self.container(workspace_id)
        assert found
        pairs = dict(line.split("=", 1) for line in found["Config"]["Env"])
        return {name: value for name, value in pairs.items() if name not in CHANGES_WITH_EACH_START}

    def volumes(self, workspace_id: str) -> list[str]:
        mine = {"label": [f"molecule.workspace.id={workspace_id}"]}
        return sorted(one["Name"] for one in engine().volumes(filters=mine)["Volumes"] or [])

    def run(self, workspace_id: str, *words: str) -> str:
        """What a command in the container printed; it must succeed."""
        made = engine().exec_create(f"ws-{workspace_id}", list(words))
        printed = engine().exec_start(made["Id"])
        assert engine().exec_inspect(made["Id"])["ExitCode"] == 0, printed
        return str(printed.decode())

    def started(self, name: str, **more: Any) -> str:
        workspace_id = self.create(name, **more)
        self.until(workspace_id, "online", ONLINE_S)
        return workspace_id

    def restarted(self, workspace_id: str, body: Any = None) -> None:
        before = self.generation(workspace_id)
        self.post(f"/workspaces/{workspace_id}/restart", body)
        eventually(lambda: self.generation(workspace_id) > before, ONLINE_S)
        self.until(workspace_id, "online", ONLINE_S)


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    engine()
    with reachable_folder() as home:
        stack = Running(
            "stack up",
            home / "data",
            ports.choose(1)[0],
            RATE_LIMIT="100000",
            PROVISIONER="",  # the engine that answers decides
            MOLECULE_DOCKER_NETWORK=NETWORK,
        )
        try:
            yield Containers(stack.until_up())
        finally:
            stack.kill_whatever_is_left()
            if (home / "data" / "instance-id").exists():
                forget((home / "data" / "instance-id").read_text().strip())


@pytest.mark.parametrize("tier", [1, 2, 3])
def test_a_created_workspace_is_a_container_with_its_tiers_limits(containers, tier):
    workspace_id = containers.started(f"tier {tier}", tier=tier)
    found = inspected_limits(containers.container(workspace_id))
    assert found == {**LIMITS[tier], "network": NETWORK}
    answer = containers.post(
        f"/workspaces/{workspace_id}/a2a",
        {"method": "message/send", "params": {"message": {"parts": [{"kind": "text", "text": "hello"}]}}},
    )
    assert "echo: hello" in str(answer)
    containers.call("DELETE", f"/workspaces/{workspace_id}?confirm=true")


def test_the_host_is_not_given_to_anybody_unasked(containers):
    workspace_id = containers.create("wants the host", tier=4)
    containers.until(workspace_id, "failed", ONLINE_S)
    (run,) = containers.get(f"/workspaces/{workspace_id}/provision-runs")
    assert "DOCKER_HOST_ACCESS_TIERS" in run["error_safe"]
    assert containers.container(workspace_id) is None


def test_agents_find_each_other_by_name(containers):
    one, other = containers.started("one"), containers.started("other")
    script = f"import urllib.request as r; r.urlopen('http://ws-{other}:8000/.well-known/agent-card.json')"
    containers.run(one, "python3", "-c", script)


def test_a_restart_keeps_role_parent_model_and_files(containers):
    parent = containers.started("lead")
    workspace_id = containers.started("worker", role="Reads: everything", parent_id=parent)
    containers.call("PUT", f"/workspaces/{workspace_id}/model", {"model": "anthropic:some-model"})
    containers.restarted(workspace_id)
    before = containers.environment(workspace_id)
    assert before["MOLECULE_AGENT_ROLE"] == "Reads: everything"
    assert before["PARENT_ID"] == parent
    assert before["MODEL"] == "anthropic:some-model"
    note = "from pathlib import Path; Path('/{}/note').write_text('kept')"
    for place in ("workspace", "configs"):
        containers.run(workspace_id, "python3", "-c", note.format(place))
    token = containers.run(workspace_id, "cat", "/configs/.auth_token")
    containers.restarted(workspace_id)
    assert containers.environment(workspace_id) == before
    assert containers.run(workspace_id, "cat", "/workspace/note", "/configs/note") == "keptkept"
    assert containers.run(workspace_id, "cat", "/configs/.auth_token") != token


def test_a_reset_forgets_the_session_only(containers):
    workspace_id = containers.started("with a session", runtime="claude-code")
    assert len(containers.volumes(workspace_id)) == 3
    containers.run(workspace_id, "sh", "-c", "echo kept > /workspace/note")
    made = engine().exec_create(
        f"ws-{workspace_id}", ["sh", "-c", "echo old > /root/.claude/sessions/note"], user="0"
    )
    engine().exec_start(made["Id"])
    assert engine().exec_inspect(made["Id"])["ExitCode"] == 0
    containers.restarted(workspace_id, {"reset": True})
    containers.run(workspace_id, "test", "-e", "/workspace/note")
    with pytest.raises(NotFound):
        engine().get_archive(f"ws-{workspace_id}", "/root/.claude/sessions/note")


def test_pause_stops_the_container_and_resume_brings_it_back(containers):
    workspace_id = containers.started("resting")
    assert containers.post(f"/workspaces/{workspace_id}/pause")["paused_count"] == 1
    assert containers.container(workspace_id) is None
    assert len(containers.volumes(workspace_id)) == 2
    containers.post(f"/workspaces/{workspace_id}/resume")
    containers.until(workspace_id, "online", ONLINE_S)
    assert containers.container(workspace_id)


def test_a_killed_container_is_noticed_and_healed(containers):
    workspace_id = containers.started("unlucky")
    before = containers.generation(workspace_id)
    engine().kill(f"ws-{workspace_id}")
    eventually(lambda: containers.generation(workspace_id) > before, ONLINE_S)
    containers.until(workspace_id, "online", ONLINE_S)


def test_delete_leaves_no_container_and_no_volume(containers):
    parent = containers.started("leaving")
    child = containers.started("leaving too", parent_id=parent)
    answer = containers.call("DELETE", f"/workspaces/{parent}?confirm=true")
    assert answer.status == 200, answer
    for workspace_id in (parent, child):
        assert containers.container(workspace_id) is None
        eventually(lambda: containers.volumes(workspace_id) == [], ONLINE_S)


def test_another_deployment_on_the_same_engine_is_left_alone(containers):
    """Its container is listed beside ours while all our sweeps run and our workspaces come and go."""
    theirs, wanted = DockerHarness(), spec()
    try:
        theirs.backend().start(wanted)
        before = theirs.inspected(wanted.workspace_id)["State"]["StartedAt"]
        workspace_id = containers.started("neighbour")
        containers.restarted(workspace_id)
        containers.call("DELETE", f"/workspaces/{workspace_id}?confirm=true")
        assert theirs.backend().status(wanted.workspace_id) == ComputeState.RUNNING
        assert theirs.inspected(wanted.workspace_id)["State"]["StartedAt"] == before
        assert len(theirs.backend().list_storage()) == 2
        assert theirs.backend().list_managed()[0].workspace_id == wanted.workspace_id
    finally:
        theirs.end()


def test_agents_end_with_the_stack_and_come_back_with_it(containers):
    """The last one: it restarts the stack."""
    workspace_id = containers.started("there again")
    stack = containers.stack
    stack.stop()
    mine = {"label": [f"molecule.platform.instance={containers.instance}"]}
    assert engine().containers(all=True, filters=mine) == []
    again = Running(
        "stack up",
        stack.folder,
        stack.port,
        RATE_LIMIT="100000",
        PROVISIONER="docker",
        MOLECULE_DOCKER_NETWORK=NETWORK,
    )
    try:
        operator = Containers(again.until_up())
        eventually(lambda: operator.container(workspace_id) is not None, ONLINE_S)
        operator.until(workspace_id, "online", ONLINE_S)
    finally:
        again.kill_whatever_is_left()
