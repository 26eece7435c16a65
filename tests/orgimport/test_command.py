"""`manage.py import_org`: progress, a table, and errors a person can act on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from tests.orgimport.conftest import Put
from tests.outages import statements_fail
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("catalogue")]


def run(path: Path, *options: str) -> tuple[str, str]:
    said, progress = io.StringIO(), io.StringIO()
    call_command("import_org", str(path), *options, stdout=said, stderr=progress)
    return said.getvalue(), progress.getvalue()


def refusal(path: Path, *options: str) -> str:
    with pytest.raises(CommandError) as raised:
        run(path, *options)
    return str(raised.value)


@pytest.mark.usefixtures("keys")
def test_an_import_shows_how_far_it_is_and_what_became_of_each_node(catalogue: Path) -> None:
    said, progress = run(catalogue / "small")
    assert progress.splitlines()[-1].strip().endswith("3/3")
    assert "#" * 30 in progress
    *lines, last = said.strip().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("created")] == ["created"] * 3
    assert all(str(one.pk) in said for one in Workspace.objects.live())
    assert last.endswith("3 created, 0 skipped, 0 failed")
    again, _ = run(catalogue / "small" / "org.yaml")
    assert again.strip().endswith("0 created, 3 skipped, 0 failed")
    assert Workspace.objects.live().count() == 3


@pytest.mark.usefixtures("keys")
def test_a_dry_run_changes_nothing(catalogue: Path) -> None:
    said, progress = run(catalogue / "small", "--dry-run")
    assert said.strip().endswith("3 would be created, 0 skipped. Nothing was changed.")
    assert (progress, Workspace.objects.count()) == ("", 0)


@pytest.mark.usefixtures("keys")
def test_a_tree_hangs_below_the_workspace_that_is_named(catalogue: Path) -> None:
    run(catalogue / "small")
    parent = Workspace.objects.get(parent=None)
    run(catalogue / "twelve", "--parent", str(parent.pk))
    assert Workspace.objects.live().filter(parent=None).count() == 1
    assert "parent workspace not found" in refusal(catalogue / "small", "--parent", str(uuid4()))


def test_what_is_missing_is_named(catalogue: Path) -> None:
    assert "missing: " in refusal(catalogue / "small")
    assert "missing: " in run(catalogue / "small", "--dry-run")[0]
    assert not Workspace.objects.exists()


def test_every_problem_of_a_template_has_a_line(put: Put) -> None:
    workspaces = "[{name: A, tier: 9}, {name: B, runtime: nope}]"
    folder = put("wrong/org.yaml", f"name: W\nworkspaces: {workspaces}\n").parent
    text = refusal(folder)
    assert "A: tier: " in text
    assert "B: runtime: " in text
    torn = put("torn/org.yaml", "name: [").parent
    assert "org.yaml" in refusal(torn)
    assert "holds no org.yaml" in refusal(torn.parent)
    assert not Workspace.objects.exists()


@pytest.mark.usefixtures("keys")
def test_an_import_that_ends_early_fails_and_shows_what_is_there(catalogue: Path, capsys: Any) -> None:
    with statements_fail("canvas_layouts"):
        text = refusal(catalogue / "small")
    assert "import it again" in text
    run(catalogue / "small")
    assert Workspace.objects.live().count() == 3
