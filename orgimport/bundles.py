"""A bundle is a tree of workspaces in one JSON document: judged whole before anything of it is created.

Source: docs/reference/bundles.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.errors import BadRequest, TooLarge
from orgimport.nodes import node_name
from templates.configs import CONFIG_FILE, PROMPT_FILE, text_of
from templates.copying import BUNDLE_BYTES
from templates.loader import TemplateError, load_text
from templates.services import checked_files
from workspaces.defaults import MAX_TIER, MIN_TIER, default_runtime, known_runtimes
from workspaces.models import EXTERNAL
from workspaces.slugs import ROLE_CHARS, problem

SCHEMA = "1.0"
MAX_DEPTH, MAX_NODES, MODEL_CHARS = 12, 500, 100
MAX_FILES = 2000  # of one workspace: what has grown by several uploads of 200 must come in again
INVALID = "invalid bundle"
NAMELESS = "bundle name is required"


@dataclass(frozen=True)
class Bundle:
    """One workspace to be. `tier` None: the default; `config` is what its config.yaml said."""

    id: str
    name: str
    role: str | None
    tier: int | None
    runtime: str
    model: str | None
    files: Mapping[str, bytes] = field(repr=False)
    config: Mapping[str, Any] | None = field(repr=False)
    children: tuple[Bundle, ...] = ()

    def every(self) -> Iterator[Bundle]:
        yield self
        for child in self.children:
            yield from child.every()


def read_bundle(given: Any) -> Bundle:
    """Raises BadRequest, TooLarge: nothing of a bundle with a fault anywhere is created."""
    bundle = _read(given, depth=1)
    if sum(1 for _ in bundle.every()) > MAX_NODES:
        raise BadRequest(INVALID, reason=f"more than {MAX_NODES} workspaces")
    return bundle


def _read(given: Any, *, depth: int) -> Bundle:
    if not isinstance(given, Mapping):
        raise BadRequest(INVALID, reason="a bundle is an object")
    if depth > MAX_DEPTH:
        raise BadRequest(INVALID, reason=f"deeper than {MAX_DEPTH} levels")
    _check_rest(given)
    name = _name(given)
    role = _text(given, "description").strip()
    if len(role) > ROLE_CHARS:
        raise BadRequest(INVALID, reason=f"description must be at most {ROLE_CHARS} characters")
    files = _files(given)
    config = _config(files.pop(CONFIG_FILE, None))
    children = _typed(given, "sub_workspaces", list) or []
    return Bundle(
        id=_text(given, "id"),
        name=name,
        role=role or None,
        tier=_tier(given.get("tier")),
        runtime=_runtime(config or {}),
        model=_model(given, config or {}),
        files=files,
        config=config,
        children=tuple(_read(child, depth=depth + 1) for child in children),
    )


def _name(given: Mapping[str, Any]) -> str:
    """A name that a template or a person may have given; what was exported must come in again."""
    text = _text(given, "name")
    if not text.strip():
        raise BadRequest(NAMELESS)
    name = node_name(text)
    if not name:
        raise BadRequest(INVALID, reason="name is too long or holds characters no name may have")
    return name


def _check_rest(given: Mapping[str, Any]) -> None:
    """What is no part of a new workspace, and must not be nonsense either."""
    if given.get("schema") not in (None, SCHEMA):
        raise BadRequest(INVALID, reason=f"schema must be {SCHEMA}")
    if not all(isinstance(one, Mapping) for one in _typed(given, "tools", list) or []):
        raise BadRequest(INVALID, reason="tools must be objects")
    _typed(given, "agent_card", Mapping)


def _files(given: Mapping[str, Any]) -> dict[str, bytes]:
    texts = dict(_texts(_typed(given, "prompts", Mapping) or {}))
    if prompt := _text(given, "system_prompt"):
        texts[PROMPT_FILE] = prompt
    for skill in _typed(given, "skills", list) or []:
        skill_id = skill.get("id") if isinstance(skill, Mapping) else None
        if not isinstance(skill_id, str) or not _is_one_step(skill_id):
            raise BadRequest(INVALID, reason="skills need an id that is a plain name")
        for path, text in _texts(_typed(skill, "files", Mapping) or {}).items():
            if not path or path.startswith("/"):
                raise BadRequest(INVALID, reason="invalid path")
            texts[f"skills/{skill_id}/{path}"] = text
    try:
        files = checked_files(texts, most=MAX_FILES) if texts else {}
    except TooLarge:
        raise
    except BadRequest as refusal:
        raise BadRequest(INVALID, reason=refusal.text) from None
    if any(path.startswith(f"{CONFIG_FILE}/") for path in files):
        raise BadRequest(INVALID, reason=f"{CONFIG_FILE} is a file")
    if sum(map(len, files.values())) > BUNDLE_BYTES:
        raise TooLarge(f"files of one workspace together larger than {BUNDLE_BYTES} bytes")
    return files


def _is_one_step(name: str) -> bool:
    """The name of one folder, whatever it is called; what no path may hold is judged with the path."""
    return bool(name) and name not in (".", "..") and "/" not in name


def _config(content: bytes | None) -> Mapping[str, Any] | None:
    if content is None:
        return None
    try:
        found = load_text(content, CONFIG_FILE)
    except TemplateError as error:
        raise BadRequest(INVALID, reason=str(error)) from None
    if not isinstance(found, Mapping):
        raise BadRequest(INVALID, reason=f"{CONFIG_FILE} is no mapping")
    return found


def _runtime(config: Mapping[str, Any]) -> str:
    named = config.get("runtime")
    if named is not None and not isinstance(named, str):
        raise BadRequest(INVALID, reason="unsupported workspace runtime")
    runtime = (named or "").strip().replace("_", "-") or default_runtime()
    if runtime != EXTERNAL and runtime not in known_runtimes():
        raise BadRequest(INVALID, reason="unsupported workspace runtime")
    return runtime


def _model(given: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    model = _text(given, "model").strip() or text_of(config.get("model"))
    if wrong := problem(model, "model", MODEL_CHARS):
        raise BadRequest(INVALID, reason=wrong)
    return model or None


def _tier(given: Any) -> int | None:
    if given in (None, 0) and not isinstance(given, bool):
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not MIN_TIER <= given <= MAX_TIER:
        raise BadRequest(INVALID, reason=f"tier must be {MIN_TIER} to {MAX_TIER}")
    return given


def _text(given: Mapping[str, Any], key: str) -> str:
    text: str = _typed(given, key, str) or ""
    if "\x00" in text:
        raise BadRequest(INVALID, reason=f"{key} holds characters no text may have")
    return text


def _texts(given: Mapping[str, Any]) -> Mapping[str, str]:
    if not all(isinstance(text, str) for text in given.values()):
        raise BadRequest(INVALID, reason="files must be texts")
    return given


def _typed(given: Mapping[str, Any], key: str, kind: type) -> Any:
    value = given.get(key)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(INVALID, reason=f"{key} has a wrong type")
    return value
