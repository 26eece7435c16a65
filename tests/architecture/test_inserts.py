"""Who may create workspace rows, and that nobody does so unprotected in a loop."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
from django.conf import settings

from tests.architecture.inserts import Creation, analyse, scan

ROOT = Path(settings.BASE_DIR)
ROOMS = ["config", "access", "activity", "approvals", "workspaces", "templates", "provisioning", "orgimport"]
ROOMS += ["uploads", "a2a", "delegations", "chat_channels", "schedules", "memory", "memory_store", "console"]
# Who creates rows, what makes it safe, and, for an annotated loop, the test that proves it.
ALLOWED = {
    "workspaces/services/crud.py:_insert_with_free_name": (
        "one row; reacts to the name constraint only, in a savepoint per try; "
        "tests/workspaces/test_create.py::test_ten_creations_at_once_give_ten_names"
    ),
    "workspaces/services/creation.py:get_or_create_workspaces": (
        "conflict on the live (parent, name) and a second look; "
        "tests/orgimport/test_races.py::test_five_imports_at_once_make_one_tree"
    ),
    "workspaces/services/registration.py:_create": "one row under its caller's id; a racing twin is as good",
}

HEAD = "from workspaces.models import Workspace\n"


def cases(kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """name -> (expected numbers, source) of one kind in insert_cases.txt."""
    text = (Path(__file__).parent / "insert_cases.txt").read_text()
    blocks = re.findall(r"^### (\w+)([ \d]*): (.+)\n((?:(?!### ).*\n)+)", text, re.MULTILINE)
    return {
        name: (tuple(map(int, numbers.split())), source)
        for found, numbers, name, source in blocks
        if found == kind
    }


FIRES, QUIET, NO_CREATION = cases("fires"), cases("quiet"), cases("none")


def product() -> list[Creation]:
    files, found = scan(ROOT, ROOMS)
    assert files > 60, "the scan has lost its way"
    return found


def unlisted(found: list[Creation]) -> list[str]:
    """Creators without an entry: each needs one that says what makes it safe."""
    return sorted({f"{one.file}:{one.function}" for one in found} - set(ALLOWED))


def stale(found: list[Creation]) -> list[str]:
    """Entries whose function creates no rows (any more): they are to be removed."""
    return sorted(set(ALLOWED) - {f"{one.file}:{one.function}" for one in found})


def test_only_the_listed_functions_create_workspaces():
    assert unlisted(product()) == []
    assert stale(product()) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms as they are, to be spoiled."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_new_importer_is_found_in_whichever_room_it_stands(copy: Path):
    names = [f"{room}/management/commands/planted.py" for room in sorted(ROOMS)]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(HEAD + FIRES["for"][1])
    found = scan(copy, ROOMS)[1]
    assert unlisted(found) == [f"{name}:f" for name in names]
    told = [str(one).partition(" creates")[0] for one in found if one.is_violation]
    assert told == [f"{name}:4 in f" for name in names]


def test_a_listed_creator_that_is_gone_is_a_stale_entry(copy: Path):
    (copy / "workspaces/services/creation.py").unlink()
    assert stale(scan(copy, ROOMS)[1]) == ["workspaces/services/creation.py:get_or_create_workspaces"]


def test_no_workspace_is_created_unprotected_in_a_loop():
    violations = [str(one) for one in product() if one.is_violation]
    assert not violations, "\n".join(violations)


def test_an_annotated_loop_names_a_test_that_exists():
    annotated = [one for one in product() if one.protected_by == "annotation"]
    assert annotated
    for one in annotated:
        path, _, name = ALLOWED[f"{one.file}:{one.function}"].rpartition("; ")[2].partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("name", FIRES)
def test_the_gate_fires(name: str):
    (line, loop), source = FIRES[name]
    (found,) = [one for one in analyse(HEAD + source, "x.py") if one.is_violation]
    assert (found.line, found.loop_line) == (line, loop)
    assert found.function in {"f", "g"}
    assert str(found).startswith(f"x.py:{line} in {found.function}")


@pytest.mark.parametrize("name", QUIET)
def test_the_gate_accepts_what_is_protected(name: str):
    (found,) = analyse(HEAD + QUIET[name][1], "x.py")
    assert not found.is_violation


@pytest.mark.parametrize("name", NO_CREATION)
def test_the_gate_does_not_mistake_its_look_alikes(name: str):
    assert analyse(HEAD + NO_CREATION[name][1], "x.py") == []


def test_the_cases_are_all_read():
    assert (len(FIRES), len(QUIET), len(NO_CREATION)) == (23, 6, 10)


def test_aliases_are_followed_and_an_audit_insert_before_the_real_one_hides_nothing():
    source = dedent("""
        from workspaces.models import Workspace as W
        import workspaces.models as m
        Old = apps.get_model("workspaces", "Workspace")
        def f(c, x):
            for n in x:
                c.execute("INSERT INTO workspaces_audit (a) VALUES (1)")
                W.objects.create(name=n)
                m.Workspace.objects.create(name=n)
                Old.objects.create(name=n)
    """)
    assert [one.line for one in analyse(source, "x.py")] == [8, 9, 10]
