"""Geometry, requirements and variables, without a database."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orgimport.env_files import expand, parse
from orgimport.layout import LEAF, size, slots
from orgimport.planner import plan
from orgimport.reading import InvalidTemplate, read_template
from orgimport.requirements import all_requirements, collected, missing
from orgimport.template import OrgTemplate
from tests.orgimport.conftest import tree


def read(**value: Any) -> OrgTemplate:
    return read_template({"name": "Org", **value}, key="", root=None)


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [(0, (240, 130)), (1, (272, 276)), (2, (526, 276)), (3, (526, 420)), (4, (526, 420)), (5, (526, 564))],
)
def test_a_parent_of_leaves_is_as_large_as_they_need(leaves: int, expected: tuple[float, float]):
    assert size([LEAF] * leaves) == expected


def test_rows_are_as_high_as_their_highest_child():
    three = size([LEAF] * 3)
    assert size([LEAF, three, LEAF]) == (1098, 710)
    assert slots([LEAF, three, LEAF]) == [(16, 130), (556, 130), (16, 564)]
    assert slots([]) == []


@given(st.lists(st.tuples(st.floats(240, 5000), st.floats(130, 5000)), max_size=30))
def test_children_lie_within_their_parent_and_beside_each_other(children: list[tuple[float, float]]):
    width, height = size(children)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(slots(children), children, strict=True)]
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 16
        assert top >= 130
        assert right <= width
        assert bottom <= height
        for other in boxes[:index]:
            assert other[2] <= left or right <= other[0] or other[3] <= top or bottom <= other[1]


def test_levels_hold_parents_before_children_in_the_order_of_the_template():
    levels = plan(read_template(tree(31, width=5), key="", root=None))
    assert [len(level) for level in levels] == [1, 5, 25]
    assert [place.index for level in levels for place in level][:3] == [0, 1, 7]
    known = {0}
    for level in levels[1:]:
        assert {place.parent for place in level} <= known
        known |= {place.index for place in level}


def test_a_node_that_is_not_spawned_takes_no_slot_and_nothing_below_it_is_made():
    template = read(
        workspaces=[
            {
                "name": "Lead",
                "children": [
                    {"name": "A"},
                    {"name": "B", "spawning": False, "children": [{"name": "C"}]},
                    {"name": "D"},
                ],
            }
        ]
    )
    (_, children) = plan(template)
    assert [(place.node.name, place.slot) for place in children] == [("A", (16, 130)), ("D", (270, 130))]
    assert [node.name for node in template.every()] == ["Lead", "A", "B", "C", "D"]


# --- Requirements and variables


def shown(given: list[Any]) -> list[Any]:
    return [one.shown() for one in collected(given)]


def test_requirements_are_sorted_deduplicated_and_stripped_of_what_is_no_name():
    group = {"any_of": ["B_KEY", "A_KEY"]}
    assert shown(["Z", "bad-name", group, "Z", {"any_of": ["A_KEY", "B_KEY", "x"]}, {"any_of": ["no"]}]) == [
        "Z",
        {"any_of": ["A_KEY", "B_KEY"]},
    ]
    assert shown(["A_KEY", group]) == ["A_KEY"]


def test_recommendations_that_are_required_anyway_are_left_out():
    template = read(
        required_env=["A", {"any_of": ["B", "C"]}],
        recommended_env=["A", {"any_of": ["C", "B"]}, {"any_of": ["A", "D"]}, "E"],
        workspaces=[{"name": "x", "recommended_env": ["F"]}],
    )
    required, advised = all_requirements(template)
    assert [one.shown() for one in required] == ["A", {"any_of": ["B", "C"]}]
    assert [one.shown() for one in advised] == ["E", "F"]


def test_one_member_of_a_group_is_enough_and_the_answer_names_the_node():
    template = read(
        required_env=[{"any_of": ["B", "C"]}],
        workspaces=[{"name": "x", "children": [{"name": "y", "required_env": ["D"]}]}],
    )
    assert missing(template, {"C", "D"}) == {}
    assert missing(template, {"C"})["missing_workspace_env"] == [
        {"workspace": "y", "path": "x/y", "unsatisfied_env": ["D"]}
    ]
    assert missing(template, {"D"})["missing_env"] == [{"any_of": ["B", "C"]}]
    assert "missing_workspace_env" not in missing(template, {"D"})


def test_an_env_file_is_read_line_by_line_and_complaints_name_no_value():
    text = "# note\n\n A = 1=2 \nB='quoted'\nC=\"half\nD=\n=x\nno line\nPATH=/tmp\nbad-key=hidden\n"
    pairs, problems = parse(text)
    assert pairs == {"A": "1=2", "B": "quoted", "C": '"half'}
    assert problems == [
        "line 9 sets the reserved variable PATH",
        "line 10 has a key that is no variable name",
    ]


@pytest.mark.parametrize(
    ("text", "expected", "names"),
    [
        ("${A}/x-$A", "1/x-1", []),
        ("$5 $$ ${A:-b} $", "$5 $$ ${A:-b} $", []),
        ("${NOPE}$A", "${NOPE}1", ["NOPE"]),
    ],
)
def test_variables_are_expanded_and_what_has_no_value_stays(text: str, expected: str, names: list[str]):
    assert expand(text, {"A": "1"}) == (expected, names)


def test_variables_of_the_server_are_not_for_templates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("WORKSPACE_DIR", "/srv/team")
    node = {"name": "x", "workspace_dir": "${WORKSPACE_DIR}"}
    assert next(read(workspaces=[node]).every()).workspace_dir == "/srv/team"
    with pytest.raises(InvalidTemplate, match=r"variables without a value: \$\{DATABASE_URL\}"):
        read(workspaces=[{"name": "x", "workspace_dir": "/srv/${DATABASE_URL}"}])
