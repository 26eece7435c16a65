"""The one reader of template files: YAML 1.2 scalars, `!include`, bounded in size, depth and expansion.

Listing, import and provisioning read with it, so what is listed can be loaded. Source:
docs/reference/templates.md, The loader.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from templates.folders import UnsafePath, resolve_inside_root

FILE_BYTES = 1024 * 1024
TOTAL_BYTES = 8 * 1024 * 1024
INCLUDE_DEPTH = 16
MAX_NODES = 200_000  # after aliases are expanded
MAX_NESTING = 100
INT_DIGITS = 100
PLACE_CHARS = 200
_MERGE = "<<"
_TAG = "tag:yaml.org,2002:"


class Kind(StrEnum):
    """What clients are told of a template that cannot be used."""

    HALF_CHECKOUT = "half_checkout"
    INCLUDE = "include_expansion_failed"
    YAML = "yaml_invalid"
    INVALID = "template_invalid"


class TemplateError(Exception):
    """A template that cannot be read; `file` is relative to its folder, `place` says where in it."""

    def __init__(self, kind: Kind, file: str, place: str, message: str) -> None:
        super().__init__(f"{file}{': ' + place if place else ''}: {message}")
        self.kind = kind
        self.file = file
        self.place = place
        self.message = message


def load_file(root: Path, relative: str) -> Any:
    """The value of the YAML file `relative` below the template folder `root`, includes in place.

    Raises TemplateError.
    """
    return _Reading(root=root).file(relative)


def load_text(text: str | bytes, name: str) -> Any:
    """The value of one YAML text; it belongs to no folder, so it includes nothing. Raises TemplateError."""
    return _Reading(root=None).text(text.encode() if isinstance(text, str) else text, name, base=None)


class _Composer(yaml.CSafeLoader):
    """Nodes with their tags by the core schema of YAML 1.2; values are made of them below."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _name, _pattern, _first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", _MERGE, ["<"]),
]:
    _Composer.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass
class _Reading:
    """One load: its folder, what it has used of its bounds, and the files that are open now."""

    root: Path | None
    nodes: int = 0
    size: int = 0
    stack: list[Path] = field(default_factory=list)  # include by include

    def file(self, relative: str, *, base: Path | None = None, cause: _Place | None = None) -> Any:
        assert self.root is not None
        shown = cause or _Place(Path(relative).name)
        try:
            path = resolve_inside_root(self.root, relative, base=base)
        except UnsafePath as error:
            raise shown.include_error(f"the path {error}") from None
        if path in self.stack:
            raise shown.include_error("the file includes itself")
        if len(self.stack) > INCLUDE_DEPTH:
            raise shown.include_error(f"more than {INCLUDE_DEPTH} files include each other")
        content = self._content(path, shown)
        self.stack.append(path)
        try:
            return self.text(content, os.path.relpath(path, os.path.realpath(self.root)), base=path.parent)
        finally:
            self.stack.pop()

    def text(self, content: bytes, name: str, *, base: Path | None) -> Any:
        place = _Place(name)
        if len(content) > FILE_BYTES:
            raise place.error(f"is larger than {FILE_BYTES} bytes")
        try:
            node = yaml.compose(content.decode("utf-8-sig"), Loader=_Composer)
        except UnicodeDecodeError:
            raise place.error("is no UTF-8 text") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise _syntax_error(name, error) from None
        return None if node is None else _Values(self, name, base).value(node, place, 0)

    def _content(self, path: Path, shown: _Place) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as stored:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError("no regular file")
                content = stored.read(FILE_BYTES + 1)
        except OSError:
            raise shown.include_error("the file is missing or cannot be read") from None
        self.size += len(content)
        if self.size > TOTAL_BYTES:
            raise shown.include_error(f"the files together are larger than {TOTAL_BYTES} bytes")
        return content


@dataclass(frozen=True)
class _Place:
    """Where in a file: the keys down to a node."""

    file: str
    keys: str = ""
    line: int = 0

    def below(self, key: str | int, node: yaml.Node) -> _Place:
        keys = f"{self.keys}[{key}]" if isinstance(key, int) else f"{self.keys}.{key}".lstrip(".")
        return _Place(self.file, keys, node.start_mark.line + 1)

    def error(self, message: str, kind: Kind = Kind.YAML) -> TemplateError:
        where = [self.keys[:PLACE_CHARS]] if self.keys else []
        where += [f"line {self.line}"] if self.line else []
        return TemplateError(kind, self.file, ", ".join(where), message)

    def include_error(self, message: str) -> TemplateError:
        return self.error(message, Kind.INCLUDE)


@dataclass
class _Values:
    """Makes values of the nodes of one file."""

    reading: _Reading
    name: str
    base: Path | None
    open: set[int] = field(default_factory=set)  # nodes being made: an alias to one of them has no end

    def value(self, node: yaml.Node, place: _Place, depth: int) -> Any:
        self.reading.nodes += 1
        if self.reading.nodes > MAX_NODES:
            raise place.error(f"has more than {MAX_NODES} nodes once its aliases are expanded")
        if depth > MAX_NESTING:
            raise place.error(f"is nested deeper than {MAX_NESTING} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if id(node) in self.open:
            raise place.error("an alias contains itself")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [
                    self.value(one, place.below(index, one), depth + 1)
                    for index, one in enumerate(node.value)
                ]
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, place, depth)
        finally:
            self.open.discard(id(node))
        raise place.error("has a tag that is not allowed")

    def _mapping(self, node: yaml.MappingNode, place: _Place, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.startswith(_TAG):
                raise place.error("has a key that is no text")
            key = key_node.value
            here = place.below(key, value_node)
            _refuse_nul(key, here)
            if key_node.tag == f"{_TAG}merge":
                for source in self._merged(value_node, here, depth):
                    merged = {**source, **merged}
            elif key in own:
                raise here.error("the key is there twice")
            else:
                own[key] = self.value(value_node, here, depth + 1)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, place: _Place, depth: int) -> list[dict[str, Any]]:
        value = self.value(node, place, depth + 1)
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise place.error("only a mapping can be merged")
        return sources

    def _scalar(self, node: yaml.ScalarNode, place: _Place) -> Any:
        text: str = node.value
        _refuse_nul(text, place)
        if node.tag == "!include":
            return self._included(text, place)
        match node.tag.removeprefix(_TAG):
            case "str" | "merge":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return _integer(text, place)
            case "float":
                return _number(text, place)
        raise place.error("has a tag that is not allowed")

    def _included(self, relative: str, place: _Place) -> Any:
        if self.base is None:
            raise place.include_error("a template that belongs to no folder cannot include files")
        return self.reading.file(relative, base=self.base, cause=place)


def _refuse_nul(text: str, place: _Place) -> None:
    if "\x00" in text:
        raise place.error("holds a NUL character")


def _integer(text: str, place: _Place) -> int:
    if len(text) > INT_DIGITS:
        raise place.error("the number has too many digits")
    try:
        return int(text, 8) if text.startswith("0o") else int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        raise place.error("is no number") from None


def _number(text: str, place: _Place) -> float:
    plain = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    try:
        return float(plain)
    except ValueError:
        raise place.error("is no number") from None


def _syntax_error(name: str, error: Exception) -> TemplateError:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}" if mark else ""
    return TemplateError(Kind.YAML, name, place, str(getattr(error, "problem", None) or "cannot be parsed"))
