"""The one reader of template files: what it understands, and that nothing it refuses gets through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from templates import loader
from templates.folders import UnsafePath, plain_path, resolve_inside_root
from templates.loader import Kind, TemplateError, load_file, load_text
from templates.writer import dumped


def refused(text: str | bytes) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        load_text(text, "org.yaml")
    return caught.value


def files(root: Path, **texts: str) -> Path:
    """`org__sub_x` would be no help: names are given as keyword `a` -> `a.yaml`."""
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("'3'", "3"),
        ("!!str 3", "3"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any):
    assert load_text(f"key: {text}", "t") == {"key": value}


def test_anchors_and_merge_keys_work_within_a_file():
    text = "base: &b {a: 1, b: 2}\none: {<<: *b, b: 3}\ntwo:\n  <<: [{c: 4}, *b]\n"
    assert load_text(text, "t")["one"] == {"a": 1, "b": 3}
    assert load_text(text, "t")["two"] == {"c": 4, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "b.c, line 2", "twice"),
        ("workspaces:\n- name: A\n  name: B", "workspaces[0].name, line 3", "twice"),
        ("a: !!python/object/apply:os.system [ls]", "a, line 1", "tag"),
        ("a: !!binary aGk=", "a, line 1", "tag"),
        ("a: !custom x", "a, line 1", "tag"),
        ("a: &x [*x]", "a[0], line 1", "alias"),
        ("a: [1 b: ]x", "line 1", "expected"),
        ("a: 1\n---\nb: 2", "line 2", "document"),
        ("? [x]\n: y", "", "key"),
        ('a: "x\\0y"', "a, line 1", "NUL"),
        ("a: " + "9" * 200, "a, line 1", "digits"),
        ("a: *nowhere", "line 1", "alias"),
        ("<<: 7", "<<, line 1", "merged"),
    ],
)
def test_an_error_names_file_place_and_reason(text: str, place: str, message: str):
    error = refused(text)
    assert (error.kind, error.file, error.place) == (Kind.YAML, "org.yaml", place)
    assert message in error.message


def test_bombs_are_refused_before_they_grow():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    assert "aliases" in refused("\n".join(lines)).message
    assert "nested" in refused("[" * 200 + "]" * 200).message
    assert "depth" in refused("[" * 100_000).message
    assert "larger" in refused("a: " + "x" * loader.FILE_BYTES).message
    assert "UTF-8" in refused(b"a: \xff").message


def test_including_flat_nested_beside_and_twice(tmp_path: Path):
    (tmp_path / "teams").mkdir()
    (tmp_path / "roles").mkdir()
    (tmp_path / "org.yaml").write_text("x: !include teams/a.yaml\ny: !include teams/a.yaml\n")
    (tmp_path / "teams/a.yaml").write_text("list: [!include ../roles/r.yaml, !include ../roles/r.yaml]\n")
    (tmp_path / "roles/r.yaml").write_text("{name: R}")
    team = {"list": [{"name": "R"}, {"name": "R"}]}
    assert load_file(tmp_path, "org.yaml") == {"x": team, "y": team}


def test_an_included_list_stays_one_value(tmp_path: Path):
    assert load_file(files(tmp_path, org="l: [!include b.yaml]", b="[1, 2]"), "org.yaml") == {"l": [[1, 2]]}


@pytest.mark.parametrize(
    "path",
    ["", "missing.yaml", "../out.yaml", "/etc/passwd", "link.yaml", "C:\\x.yaml", ".", "folder", "pipe"],
)
def test_an_include_that_leads_nowhere_or_out_is_fatal(tmp_path: Path, path: str):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "out.yaml").write_text("secret: 1")
    (root / "link.yaml").symlink_to(tmp_path / "out.yaml")
    os.mkfifo(root / "pipe")
    (root / "org.yaml").write_text(f"a:\n  b: !include '{path}'\n")
    with pytest.raises(TemplateError) as caught:
        load_file(root, "org.yaml")
    assert (caught.value.kind, caught.value.file, caught.value.place) == (
        Kind.INCLUDE,
        "org.yaml",
        "a.b, line 2",
    )
    assert str(tmp_path) not in str(caught.value)


def test_a_cycle_and_seventeen_levels_are_fatal(tmp_path: Path):
    files(tmp_path, a="!include b.yaml", b="!include a.yaml")
    with pytest.raises(TemplateError, match="includes itself"):
        load_file(tmp_path, "a.yaml")
    for number in range(18):
        (tmp_path / f"{number}.yaml").write_text(f"!include {number + 1}.yaml")
    (tmp_path / "16.yaml").write_text("deep enough")
    assert load_file(tmp_path, "0.yaml") == "deep enough"
    (tmp_path / "16.yaml").write_text("!include 17.yaml")
    (tmp_path / "17.yaml").write_text("too deep")
    with pytest.raises(TemplateError, match="include each other") as caught:
        load_file(tmp_path, "0.yaml")
    assert caught.value.kind == Kind.INCLUDE


def test_all_files_together_are_bounded(tmp_path: Path):
    files(tmp_path, big="'" + "x" * 1_000_000 + "'", org="[" + ", ".join(["!include big.yaml"] * 9) + "]")
    with pytest.raises(TemplateError, match="together"):
        load_file(tmp_path, "org.yaml")


def test_a_text_of_no_folder_includes_nothing():
    assert refused("a: !include b.yaml").kind == Kind.INCLUDE


def test_the_tag_is_known_to_this_loader_only():
    load_text("a: 1", "t")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load("a: !include b.yaml")


@pytest.mark.parametrize(
    "relative", ["", "/x", "../root-two/x", "a/../..", ".", "a/..", "x\x00", "a\\b", "C:x", "link", "link/x"]
)
def test_a_path_stays_inside_its_root(tmp_path: Path, relative: str):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "root-two").mkdir()
    (root / "link").symlink_to(tmp_path / "root-two")
    with pytest.raises(UnsafePath):
        resolve_inside_root(root, relative)
    assert resolve_inside_root(root, "a/../a/x") == Path(os.path.realpath(root)) / "a/x"


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a/../b", "/a", "a\\b", "a\nb", "a\x00", "x" * 256, "a/" * 300]
)
def test_a_path_from_outside_is_plain_or_refused(path: str):
    with pytest.raises(UnsafePath):
        plain_path(path)
    assert plain_path("a//b/./c.md") == "a/b/c.md"


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=5))
@effort(deadline=None, derandomize=True)
def test_what_is_written_is_read_back_by_old_and_new_readers(document: dict[str, Any]):
    """Whatever a name, a role or a prompt holds, it stays a text and stays in its place."""
    text = dumped(document)
    assert load_text(text, "t") == document
    assert yaml.safe_load(text) == document


def file_named_by_the_error(content: bytes) -> str | None:
    try:
        load_text(content, "org.yaml")
    except TemplateError as error:
        return error.file
    return None


@given(st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=200))
@effort(deadline=None, derandomize=True, max_examples=300)
def test_whatever_a_file_holds_it_is_a_value_or_an_error_with_the_files_name(content: bytes):
    assert file_named_by_the_error(content) in {None, "org.yaml"}


PIECES = [
    "- name: 'A'",
    ": ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!include x",
    "<<",
    '"',
    "#",
    "? ",
    "\t",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
@effort(deadline=None, derandomize=True, max_examples=300)
def test_mangled_templates_are_values_or_errors_too(text: str):
    assert file_named_by_the_error(text.encode()) in {None, "org.yaml"}
