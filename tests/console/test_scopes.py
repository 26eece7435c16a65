"""Who is confined to an org sees, counts and changes nothing of another."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from a2a.models import KeptKind, QueueItem
from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token
from chat_channels.models import Channel, ChannelMessage
from config.admin import ReadOnlyAdmin
from console.models import OperatorAction, OrgScope
from delegations.models import Delegation
from memory.models import AgentMemory, KeyValue
from tests.console.conftest import login, text_of
from tests.console.test_home import listed, numbers
from tests.delegations.factories import delegated
from tests.schedules.factories import ScheduleFactory
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db

# Of no one org: what a confined person must not find at all.
EVERYBODYS = {
    "console.operatoraction", "memory.outboxentry", "memory_store.memorynamespace",
    "memory_store.memoryrecord", "uploads.objectgc",
}  # fmt: skip


@pytest.fixture
def orgs() -> dict[str, list[Workspace]]:
    """Two orgs of three: a root, one below it, one below that."""
    made = {}
    for name in ("acme", "globex"):
        root = WorkspaceFactory(name=name, status=Status.ONLINE)
        lead = WorkspaceFactory(name=f"{name} lead", parent=root, status=Status.ONLINE)
        made[name] = [root, lead, WorkspaceFactory(name=f"{name} dev", parent=lead, status=Status.ONLINE)]
    return made


def confined(role: str, *roots: Workspace) -> Client:
    browser = login(role)
    group = Group.objects.create(name="tenants")
    for root in roots:
        OrgScope.objects.create(group=group, root_id=root.pk)
    User.objects.get(username=f"a-{role}").groups.add(group)
    return browser


def rows_of(row: Workspace, other: Workspace) -> list[Any]:
    """One of every table with rows of an org."""
    mint_token(workspace_id=row.pk, kind=TokenKind.API)
    channel = Channel.objects.create(workspace=row, channel_type="telegram")
    return [
        row,
        delegated(row, other, text="task", key=str(row.pk)),
        AgentMemory.objects.create(workspace=row, content="m", scope="TEAM"),
        KeyValue.objects.create(workspace=row, key="k", value={}),
        QueueItem.objects.create(workspace=row, caller_kind=KeptKind.CANVAS, body={}),
        WorkspaceAuthToken.objects.get(workspace=row),
        channel,
        ChannelMessage.objects.create(channel=channel, direction="inbound", status="done", text="t"),
        ScheduleFactory(workspace=row),
    ]


def address(row: Any, page: str = "change") -> str:
    meta = row._meta
    return reverse(
        f"admin:{meta.app_label}_{meta.model_name}_{page}", args=[row.pk] if page == "change" else []
    )


def test_lists_and_pages_hold_the_own_org_alone(orgs: dict[str, list[Workspace]]):
    own, foreign = (rows_of(orgs[name][1], orgs[name][2]) for name in ("acme", "globex"))
    browser = confined("viewer", orgs["acme"][0])
    for mine, theirs in zip(own, foreign, strict=True):
        shown = text_of(browser.get(address(mine, "changelist")))
        assert address(mine) in shown
        assert address(theirs) not in shown
        assert browser.get(address(mine)).status_code == 200
        assert browser.get(address(theirs)).status_code == 302  # "does not exist", back to the start


def test_the_first_page_counts_and_the_tree_draws_the_own_org(orgs: dict[str, list[Workspace]]):
    for name in orgs:
        rows_of(orgs[name][1], orgs[name][2])
    browser = confined("viewer", orgs["acme"][0])
    found = numbers(browser)
    assert (found["Online"][0], found["delegations in flight"][0]) == ("3", "1")
    assert listed(browser, found["Online"][1]) == 3
    html = text_of(browser.get("/console/"))
    assert "delegation-sweeper" not in html
    assert "What operators did last" not in html
    boxes = browser.get("/console/workspaces/workspace/tree/data/").json()["boxes"]
    assert {box[1] for box in boxes} == {"acme", "acme lead", "acme dev"}


def test_nothing_of_another_org_can_be_acted_on(orgs: dict[str, list[Workspace]]):
    foreign, own = orgs["globex"][1], orgs["acme"][1]
    task = delegated(*orgs["globex"][1:], text="task", key="1")
    browser = confined("administrator", orgs["acme"][0])
    for path in (
        f"/console/workspaces/workspace/{foreign.pk}/act/pause/",
        f"/console/delegations/delegation/{task.pk}/act/resolve/",
    ):
        assert browser.get(path).status_code == 404
        assert (
            browser.post(path, {"typed": foreign.name, "reason": "mine now", "seen": ""}).status_code == 404
        )
    assert browser.get(f"/console/workspaces/workspace/{own.pk}/act/pause/").status_code == 200
    assert not OperatorAction.objects.exists()


def test_what_is_of_no_one_org_is_not_there(orgs: dict[str, list[Workspace]]):
    browser = confined("administrator", orgs["acme"][0])
    tables = {model._meta.label_lower: page for model, page in site._registry.items()}
    closed = {
        name for name, page in tables.items() if isinstance(page, ReadOnlyAdmin) and not page.of_workspace
    }
    assert closed == EVERYBODYS
    for name in closed:
        assert browser.get(reverse(f"admin:{name.replace('.', '_')}_changelist")).status_code == 403, name
    assert browser.get("/console/workspaces/workspace/repair/").status_code == 403


def test_a_login_of_two_orgs_sees_both_and_of_none_everything(orgs: dict[str, list[Workspace]]):
    other = WorkspaceFactory(name="initech", status=Status.ONLINE)
    browser = confined("viewer", orgs["acme"][0], orgs["globex"][0])
    assert numbers(browser)["Online"][0] == "6"
    OrgScope.objects.all().delete()
    assert numbers(browser)["Online"][0] == "7"
    assert other.name in text_of(browser.get("/console/workspaces/workspace/"))


def test_a_purged_org_leaves_nothing_and_not_everything(orgs: dict[str, list[Workspace]]):
    browser = confined("viewer", orgs["acme"][0])
    Workspace.objects.filter(pk__in=[row.pk for row in orgs["acme"]]).delete()
    assert numbers(browser)["Online"][0] == "0"


def test_rows_below_a_removed_parent_stay_of_the_org(orgs: dict[str, list[Workspace]]):
    Workspace.objects.filter(pk=orgs["acme"][1].pk).update(status=Status.REMOVED)
    browser = confined("viewer", orgs["acme"][0])
    assert numbers(browser)["below a removed parent"][0] == "1"


def test_a_superuser_confines_a_group_by_a_form(orgs: dict[str, list[Workspace]]):
    User.objects.create_superuser("root", password="a long one")
    group = Group.objects.create(name="acme")
    browser = Client()
    browser.force_login(User.objects.get(username="root"))
    path = f"/console/auth/group/{group.pk}/change/"
    form = {"name": "acme", "org_scopes-TOTAL_FORMS": "1", "org_scopes-INITIAL_FORMS": "0"}
    refused = browser.post(path, form | {"org_scopes-0-root_id": "00000000-0000-4000-8000-000000000000"})
    assert "There is no such workspace." in text_of(refused)
    browser.post(path, form | {"org_scopes-0-root_id": str(orgs["acme"][0].pk)})
    assert OrgScope.objects.get().root_id == orgs["acme"][0].pk
    assert text_of(browser.get("/console/auth/user/"))
    assert login("administrator").get(path).status_code == 403


def test_every_delegation_of_the_org_is_seen_from_either_end(orgs: dict[str, list[Workspace]]):
    crossing = delegated(orgs["acme"][0], orgs["globex"][0], text="over", key="x")
    browser = confined("viewer", orgs["globex"][0])
    assert address(Delegation.objects.get(pk=crossing.pk)) in text_of(
        browser.get("/console/delegations/delegation/")
    )


def test_a_changed_login_is_a_record():
    User.objects.create_superuser("root", password="a long one")
    browser = Client()
    browser.force_login(User.objects.get(username="root"))
    browser.post(
        "/console/auth/group/add/",
        {"name": "acme", "org_scopes-TOTAL_FORMS": "0", "org_scopes-INITIAL_FORMS": "0"},
    )
    group = Group.objects.get(name="acme")
    record = OperatorAction.objects.get()
    assert (record.actor, record.verb, record.object_id, record.object_name) == (
        "root",
        "group.add",
        str(group.pk),
        "acme",
    )
    browser.post(f"/console/auth/group/{group.pk}/delete/", {"post": "yes"})
    assert OperatorAction.objects.filter(verb="group.delete", outcome="done").exists()
