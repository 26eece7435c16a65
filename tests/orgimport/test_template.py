"""What a template may say: every key, its default, and an answer that names file, node and key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orgimport.reading import InvalidTemplate, read_template
from orgimport.template import Node
from tests.orgimport.conftest import Put, post, tree
from workspaces.models import Workspace


def node(given: dict[str, Any], **top: Any) -> Node:
    value = {"name": "Org", **top, "workspaces": [{"name": "Lead", **given}]}
    return next(read_template(value, key="", root=None).every())


def problems(given: dict[str, Any], root: Path | None = None, **top: Any) -> list[tuple[str, str]]:
    value = {"name": "Org", "workspaces": [{"name": "Lead", **given}], **top}
    with pytest.raises(InvalidTemplate) as caught:
        read_template(value, key="", root=root)
    return [(one.path, one.field) for one in caught.value.problems]


def test_a_node_that_says_nothing_gets_the_defaults_of_the_deployment():
    found = node({})
    assert (found.runtime, found.tier, found.model) == ("langgraph", 3, "anthropic:claude-opus-4-7")
    assert (found.role, found.workspace_access, found.max_concurrent_tasks) == (None, "none", 1)
    assert found.is_spawned
    assert found.children == ()


@pytest.mark.parametrize(("org", "tier"), [("", 3), ("acme", 4)])
def test_the_default_tier_is_the_deployments(settings: Any, org: str, tier: int):
    settings.MOLECULE_ORG_ID = org
    assert [node(given).tier for given in ({}, {"tier": 0}, {"tier": 2})] == [tier, tier, 2]


def test_what_a_node_says_wins_over_the_defaults_of_the_org():
    defaults = {
        "runtime": "claude_code",
        "tier": 2,
        "model": "sonnet",
        "plugins": ["a", "b"],
        "idle_prompt": " look \n",
        "category_routing": {"security": ["x"], "bug": ["y"]},
    }
    found = node(
        {
            "runtime": "codex",
            "tier": 0,
            "plugins": ["c", "!a", "b"],
            "role": "one\ntwo",
            "max_concurrent_tasks": -3,
            "category_routing": {"security": []},
            "idle_interval_seconds": -1,
        },
        defaults=defaults,
    )
    assert (found.runtime, found.tier, found.model) == ("codex", 2, "sonnet")
    assert found.plugins == ("b", "c")
    assert found.role == "one two"
    assert found.max_concurrent_tasks == 1
    assert found.category_routing == {"bug": ["y"]}
    assert (found.idle_prompt, found.idle_interval_s) == ("look", 600)


def test_an_external_node_has_the_external_runtime_whatever_it_says():
    found = node({"external": True, "runtime": "codex", "url": "http://localhost:9000/a2a"})
    assert (found.runtime, found.url) == ("external", "http://localhost:9000/a2a")


def test_names_are_stripped_normalised_and_may_hold_what_the_create_route_refuses():
    assert node({"name": "  Cafe\u0301 & [Bar] "}).name == "Café & [Bar]"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\x07b"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": 5}, "name"),
        ({"tier": 5}, "tier"),
        ({"tier": "3"}, "tier"),
        ({"tier": True}, "tier"),
        ({"runtime": "no-such"}, "runtime"),
        ({"template": "/etc"}, "template"),
        ({"template": "no-such"}, "template"),
        ({"model": "m" * 101}, "model"),
        ({"role": "r" * 1001}, "role"),
        ({"workspace_access": "read_write"}, "workspace_access"),
        ({"workspace_access": "all", "workspace_dir": "/srv/x"}, "workspace_access"),
        ({"workspace_dir": "/etc/x"}, "workspace_dir"),
        ({"workspace_dir": "/srv/../etc"}, "workspace_dir"),
        ({"workspace_dir": "relative"}, "workspace_dir"),
        ({"plugins": ["../../etc"]}, "plugins"),
        ({"external": True, "url": "http://169.254.169.254/latest"}, "url"),
        ({"external": True, "url": "ftp://example.org"}, "url"),
        ({"canvas": {"x": 1}}, "canvas"),
        ({"children": {"name": "x"}}, "children"),
        ({"children": ["x"]}, "children[0]"),
        ({"schedules": ["x"]}, "schedules[0]"),
        ({"required_env": [{"any_of": []}]}, "required_env[0]"),
        ({"files_dir": "x"}, "files_dir"),
        ({"initial_prompt_file": "x.md"}, "initial_prompt_file"),
        ({"spawning": "no"}, "spawning"),
    ],
)
def test_a_key_that_cannot_be_meant_is_named(given: dict[str, Any], field: str):
    assert [found for _, found in problems(given)] == [field]


def test_all_problems_of_all_nodes_are_named_with_their_paths():
    children = [{"name": "A", "tier": 9}, {"name": "B"}, {"name": "B", "runtime": "?"}]
    assert sorted(problems({"children": children}, required_env="X")) == [
        ("", "required_env"),
        ("Lead/A", "tier"),
        ("Lead/B", "name"),
        ("Lead/B", "runtime"),
    ]


def test_a_template_has_bounds(settings: Any):
    settings.ORG_IMPORT_MAX_WORKSPACES, settings.ORG_IMPORT_MAX_DEPTH = 3, 3
    read_template(tree(3, width=1), key="", root=None)
    for too_much in (tree(4, width=3), tree(4, width=1)):
        with pytest.raises(InvalidTemplate):
            read_template(too_much, key="", root=None)


def test_unknown_keys_are_warned_of():
    value = {"name": "Org", "colour": 1, "workspaces": [{"name": "x"}]}
    found = read_template(value, key="", root=None)
    assert list(found.warnings) == [{"path": "", "key": "colour"}]


@pytest.mark.parametrize("value", [None, [], "text", {"name": "x"}, {"name": "x", "workspaces": []}])
def test_a_template_without_workspaces_is_none(value: Any):
    with pytest.raises(InvalidTemplate):
        read_template(value, key="", root=None)


# --- Files


def test_pointers_that_leave_the_template_are_refused_and_nothing_is_read(put: Put, catalogue: Path):
    put("mine/org.yaml", "name: x")
    put("mine/team/boot.md", "boot")
    secret = put("other/secret.md", "secret")
    (catalogue / "mine-too").mkdir()
    os.symlink(secret, catalogue / "mine" / "link.md")
    root = catalogue / "mine"
    for escape in ("../../etc", "/etc", "../mine-too", "team/../../other", "."):
        assert problems({"files_dir": escape}, root) == [("Lead", "files_dir")]
    for escape in ("../other/secret.md", "link.md", "/etc/passwd", "team", "missing.md"):
        assert problems({"initial_prompt_file": escape}, root) == [("Lead", "initial_prompt_file")]


def test_a_prompt_file_lies_in_the_nodes_folder_and_an_inline_prompt_wins(put: Put, catalogue: Path):
    put("mine/team/boot.md", "  from the team \r\n")
    put("mine/boot.md", "from the org")
    root = catalogue / "mine"
    value = {
        "name": "Org",
        "defaults": {"initial_prompt_file": "boot.md"},
        "workspaces": [
            {"name": "A", "files_dir": "team", "initial_prompt_file": "boot.md"},
            {"name": "B"},
            {"name": "C", "initial_prompt": "mine", "initial_prompt_file": "boot.md"},
        ],
    }
    found = [one.initial_prompt for one in read_template(value, key="", root=root).every()]
    assert found == ["from the team", "from the org", "mine"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "file", "place", "message"),
    [
        ("name: x\nworkspaces:\n  - !include ../other.yaml\n", "org.yaml", "workspaces[0]", "leads out"),
        ("name: x\nworkspaces:\n  - !include gone.yaml\n", "org.yaml", "workspaces[0]", "missing"),
        ("name: x\nname: y\n", "org.yaml", "name", "twice"),
        ("name: [x\n", "org.yaml", "line", ""),
        ("name: !!python/object:os.system {}\n", "org.yaml", "name", "tag"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_place(
    put: Put, text: str, file: str, place: str, message: str
):
    put("mine/org.yaml", text)
    put("other.yaml", "name: other")
    answer = post(dir="mine")
    body = answer.json()
    assert (answer.status_code, body["error"]) == (400, "org template expansion failed")
    assert body["file"] == file
    assert place in body["place"]
    assert message in body["message"]
    assert not Workspace.objects.exists()


@pytest.mark.django_db
def test_the_last_leaf_that_is_wrong_keeps_every_row_from_being_written(put: Put):
    put(
        "mine/org.yml",
        "name: x\nworkspaces:\n- name: A\n  children:\n  - name: B\n    children: [{name: C, tier: 7}]\n",
    )
    answer = post(dir="mine")
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid org template"
    assert answer.json()["errors"] == [{"path": "A/B/C", "field": "tier", "message": "must be 1 to 4"}]
    assert not Workspace.objects.exists()
