"""Finds every place that creates workspace rows, and whether it stands in a loop without protection.

An importer that inserts in a loop and is run twice duplicates whole teams. The analysis is by source spans:
what counts is
whether the creation lies inside the lines and columns of a loop, a comprehension, a mapped lambda, or of a
function
that recurses or is called from such a body in its module.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODEL = "Workspace"
MODEL_MODULE = "workspaces.models"
REVERSE_MANAGERS = frozenset({"children"})
PREFLIGHT_HELPERS = frozenset({"get_or_create_workspaces"})
ANNOTATION = "# class1-gate: idempotent-by-design"
INSERT = re.compile(r'(?im)^\s*INSERT\s+INTO\s+"?workspaces"?\s*\(')
BY_NAME = re.compile(r"(?is)ON\s+CONFLICT\s*\(\s*(coalesce\([^)]*\)|parent_id)\s*,\s*name\s*\)")
BY_ID = re.compile(r"(?is)ON\s+CONFLICT\s*\(\s*id\s*\)")
_SQL_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_VERBS = ("create", "bulk_create", "get_or_create", "update_or_create")
CREATORS = frozenset({*_VERBS, *(f"a{verb}" for verb in _VERBS)})
_EXECUTES = frozenset({"execute", "executemany", "raw", "RunSQL"})
_LOOPS = (
    ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip
_MAPS = (ast.ListComp, ast.SetComp, ast.GeneratorExp)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Creation:
    """One creating expression; `loop_line` is the innermost repeating construct around it, 0 for none."""

    file: str
    line: int
    function: str
    loop_line: int
    protected_by: str  # "preflight", "upsert", "annotation" or ""

    @property
    def is_violation(self) -> bool:
        return bool(self.loop_line) and not self.protected_by

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line} in {self.function} creates workspaces "
            f"inside the loop of line {self.loop_line}: "
            f"call {'/'.join(sorted(PREFLIGHT_HELPERS))} before it, make it an upsert on (parent_id, name), "
            f"or annotate the function with `{ANNOTATION}` and name its test in the allowlist"
        )


def analyse(source: str, file: str) -> list[Creation]:
    """Every creation in one module, sorted by line."""
    return _Module(source, file).creations()


def scan(root: Path, rooms: list[str]) -> tuple[int, list[Creation]]:
    """(files read, creations) over every module of the rooms, migrations and commands included."""
    files = sorted(path for room in rooms for path in (root / room).rglob("*.py"))
    found = [one for path in files for one in analyse(path.read_text(), str(path.relative_to(root)))]
    return len(files), sorted(found)


class _Module:
    def __init__(self, source: str, file: str) -> None:
        self.file = file
        self.tree = ast.parse(source)
        self.comments = {
            token.start[0]: token.string
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        self.constants = self._constants()
        self.aliases = self._aliases()
        self.saving_classes = self._classes_of_the_model()
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def creations(self) -> list[Creation]:
        found = {(node.lineno, node.col_offset): node for node in ast.walk(self.tree) if self._creates(node)}
        return sorted(self._judged(node) for node in found.values())

    def _judged(self, node: ast.AST) -> Creation:
        owner = self._innermost(self.functions, node)
        loop = self._innermost(list(self._repeating()), node) or self._mapped(node)
        return Creation(
            self.file,
            node.lineno,  # type: ignore[attr-defined]
            self._qualname(owner),
            loop.lineno if loop is not None else 0,  # type: ignore[attr-defined]
            self._protection(node, owner),
        )

    def _mapped(self, node: ast.AST) -> ast.AST | None:
        """The comprehension that makes the rows of a `bulk_create`: as many as there are, in one call."""
        if not isinstance(node, ast.Call) or _called(node) not in {"bulk_create", "abulk_create"}:
            return None
        inner = (one for argument in node.args for one in ast.walk(argument) if isinstance(one, _MAPS))
        return next(inner, None)

    # --- what creates ---------------------------------------------------------------------------

    def _creates(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        name = _called(node)
        if name in CREATORS and isinstance(node.func, ast.Attribute):
            return self._is_manager(node.func.value)
        if name in {"save", "asave"} and isinstance(node.func, ast.Attribute):
            return self._saves_the_model(node, node.func.value)
        return name in _EXECUTES and any(INSERT.search(text) for text in self._texts(node))

    def _is_manager(self, node: ast.expr) -> bool:
        """`Workspace.objects`, `.using("x")`, `_base_manager`, or a reverse manager such as `x.children`."""
        while isinstance(node, ast.Call | ast.Attribute):
            if self._is_model(node):
                return True
            if isinstance(node, ast.Attribute) and node.attr in REVERSE_MANAGERS:
                return True
            node = node.func if isinstance(node, ast.Call) else node.value
        return self._is_model(node)

    def _is_model(self, node: ast.expr) -> bool:
        return ast.unparse(node) in self.aliases

    def _saves_the_model(self, node: ast.Call, target: ast.expr) -> bool:
        if any(keyword.arg == "force_insert" for keyword in node.keywords) and self.aliases:
            return True
        if isinstance(target, ast.Call):
            return self._is_model(target.func) or ast.unparse(target.func) in self.saving_classes
        built = {
            name.id
            for assign in ast.walk(self._innermost(self.functions, node) or self.tree)
            if isinstance(assign, ast.Assign)
            and isinstance(assign.value, ast.Call)
            and (self._is_model(assign.value.func) or ast.unparse(assign.value.func) in self.saving_classes)
            for name in assign.targets
            if isinstance(name, ast.Name)
        }
        return isinstance(target, ast.Name) and target.id in built

    def _texts(self, call: ast.Call) -> Iterator[str]:
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
            for node in ast.walk(argument):
                text = self.constants.get(node.id, "") if isinstance(node, ast.Name) else _text(node)
                if text:
                    yield _SQL_COMMENT.sub("", text)

    # --- what repeats and what protects -----------------------------------------------------------

    def _repeating(self) -> Iterator[ast.AST]:
        bodies = list(self._loops())
        yield from bodies
        for function in self.functions:
            calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
            mine = [
                call for call in calls if isinstance(call.func, ast.Name) and call.func.id == function.name
            ]
            if any(_inside(call, function) or any(_inside(call, body) for body in bodies) for call in mine):
                yield function

    def _loops(self) -> Iterator[ast.AST]:
        for node in ast.walk(self.tree):
            if isinstance(node, _LOOPS):
                yield node
            elif isinstance(node, ast.Call) and _called(node) == "map":
                yield from (argument for argument in node.args if isinstance(argument, ast.Lambda))

    def _protection(self, node: ast.AST, owner: Function | None) -> str:
        if owner is None:
            return ""
        for call in ast.walk(owner):
            if isinstance(call, ast.Call) and _called(call) in PREFLIGHT_HELPERS and _before(call, node):
                return "preflight"
        texts = " ".join(self._texts(node)) if isinstance(node, ast.Call) else ""
        makes_ids = "uuid4" in ast.unparse(owner)
        if BY_NAME.search(texts) or (BY_ID.search(texts) and not makes_ids):
            return "upsert"
        lines = range(owner.lineno, (owner.end_lineno or owner.lineno) + 1)
        return "annotation" if any(ANNOTATION in self.comments.get(line, "") for line in lines) else ""

    # --- names --------------------------------------------------------------------------------------

    def _aliases(self) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module == MODEL_MODULE:
                found |= {one.asname or one.name for one in node.names if one.name == MODEL}
            elif isinstance(node, ast.ImportFrom) and node.module == "workspaces":
                found |= {f"{one.asname or one.name}.{MODEL}" for one in node.names if one.name == "models"}
            elif isinstance(node, ast.Import):
                found |= {
                    f"{one.asname or one.name}.{MODEL}" for one in node.names if one.name == MODEL_MODULE
                }
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                if _called(node.value) == "get_model" and f"'{MODEL}'" in ast.unparse(node.value):
                    found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif (
                isinstance(node, ast.ClassDef)
                and node.name == MODEL
                and self.file.endswith("workspaces/models.py")
            ):
                found.add(MODEL)
        return found

    def _constants(self) -> dict[str, str]:
        return {
            target.id: text
            for node in self.tree.body
            if isinstance(node, ast.Assign) and (text := _text(node.value))
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def _classes_of_the_model(self) -> set[str]:
        return {
            outer.name
            for outer in ast.walk(self.tree)
            if isinstance(outer, ast.ClassDef)
            for meta in outer.body
            if isinstance(meta, ast.ClassDef) and meta.name == "Meta"
            for line in meta.body
            if isinstance(line, ast.Assign)
            and ast.unparse(line) in {f"model = {alias}" for alias in self.aliases}
        }

    def _innermost(self, candidates: list[ast.AST] | list[Function], node: ast.AST) -> Function | None:
        around = [one for one in candidates if _inside(node, one)]
        return max(around, key=lambda one: (one.lineno, one.col_offset), default=None)  # type: ignore[union-attr, return-value]

    def _qualname(self, owner: Function | None) -> str:
        if owner is None:
            return "<module>"
        classes = [
            node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef) and _inside(owner, node)
        ]
        return ".".join([*(one.name for one in classes), owner.name])


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "?" for part in node.values)
    return ""


def _inside(node: ast.AST, outer: ast.AST) -> bool:
    """Whether `node` lies within the span of `outer` and is not `outer` itself."""
    start, end = _span(outer)
    inner_start, inner_end = _span(node)
    return node is not outer and start <= inner_start and inner_end <= end


def _before(one: ast.AST, other: ast.AST) -> bool:
    return _span(one)[0] < _span(other)[0]


def _span(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)  # type: ignore[attr-defined]
