"""GET /org/templates: what is listed can be imported; what is broken is counted, never silently absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from access.services import save_global_secret
from tests.clients import admin
from tests.orgimport.conftest import Put, post
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("catalogue")]

ANTHROPIC = {"any_of": ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"]}


def listed(**query: str) -> Any:
    answer = admin().get("/org/templates", **query)
    assert answer.status_code == 200
    return answer


def test_the_shipped_templates_are_listed_by_folder_with_what_will_be_there():
    small, twelve = (one for one in listed().json() if one["dir"] in {"small", "twelve"})
    assert [one["dir"] for one in listed().json()] == ["big", "small", "twelve"]
    assert (small["name"], small["workspaces"], small["required_env"]) == (
        "Bakery Back Office",
        3,
        [ANTHROPIC],
    )
    assert (twelve["workspaces"], twelve["workspaces_total"]) == (12, 13)
    assert listed()["X-Org-Templates-Broken"] == "0"


@pytest.mark.usefixtures("keys")
def test_every_listed_template_can_be_imported_with_as_many_workspaces():
    for one in listed().json():
        Workspace.objects.all().delete()
        answer = post(dir=one["dir"])
        assert (answer.status_code, answer.json()["count"]) == (201, one["workspaces"])


def test_what_the_templates_own_env_files_hold_is_not_asked_for(put: Put):
    put("mine/org.yaml", "name: x\nrequired_env: [A_KEY, B_KEY]\nworkspaces: [{name: A}]\n")
    put("mine/.env", "A_KEY=1\n")
    (mine,) = [one for one in listed().json() if one["dir"] == "mine"]
    assert mine["required_env"] == ["B_KEY"]
    assert post(dir="mine").json()["missing_env"] == ["B_KEY"]
    save_global_secret(key="B_KEY", value="1")
    assert post(dir="mine").status_code == 201


def test_broken_templates_are_counted_and_shown_when_asked_for(put: Put, catalogue: Path):
    put("include/org.yaml", "name: x\nworkspaces:\n  - !include gone.yaml\n")
    put("syntax/org.yaml", "name: [x\n")
    put("invalid/org.yml", "name: x\nworkspaces: [{name: A, tier: 9}]\n")
    put("checkout/.git/HEAD", "ref")
    put("no-template/readme.md", "nothing of ours")
    plain = listed()
    assert plain["X-Org-Templates-Broken"] == "4"
    assert [one["dir"] for one in plain.json()] == ["big", "small", "twelve"]
    broken = {one["dir"]: one for one in listed(include_broken="1").json() if "reason" in one}
    assert {name: one["reason"] for name, one in broken.items()} == {
        "include": "include_expansion_failed",
        "syntax": "yaml_invalid",
        "invalid": "template_invalid",
        "checkout": "half_checkout",
    }
    for one in broken.values():
        assert (one["workspaces"], one["required_env"], one["name"]) == (0, [], "")
        assert str(catalogue) not in one["error"]
    for name in ("include", "syntax", "invalid"):
        assert post(dir=name).status_code == 400
    assert post(dir="checkout").status_code == 404


def test_a_missing_folder_is_an_empty_list(settings: Any, tmp_path: Path):
    settings.ORG_TEMPLATES_DIR = str(tmp_path / "none")
    assert listed().json() == []
