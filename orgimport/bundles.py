"""A bundle is a tree of workspaces in one JSON document: judged whole before anything of it is created.

Source: docs/reference/bundles.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.errors import BadRequest, TooLarge
from templates.configs import CONFIG_FILE, PROMPT_FILE, text_of
from templates.loader import TemplateError, load_text
from templates.services import checked_files
from workspaces.defaults import MAX_TIER, MIN_TIER, default_runtime, known_runtimes
from workspaces.slugs import NAME_CHARS, ROLE_CHARS, is_template_name, problem

SCHEMA = "1.0"
MAX_DEPTH, MAX_NODES = 12, 500
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
    name = _text(given, "name").strip()
    if not name:
        raise BadRequest(NAMELESS)
    role = _text(given, "description").strip()
    for wrong in (problem(name, "name", NAME_CHARS), problem(role, "description", ROLE_CHARS)):
        if wrong:
            raise BadRequest(INVALID, reason=wrong)
    files = _files(given)
    config = _config(files.pop(CONFIG_FILE, None))
    children = _typed(given, "sub_workspaces", list) or []
    return Bundle(
        id=_text(given, "id"),
        name=name,
        role=role or None,
        tier=_tier(given.get("tier")),
        runtime=_runtime(text_of((config or {}).get("runtime"))),
        model=_text(given, "model").strip() or text_of((config or {}).get("model")) or None,
        files=files,
        config=config,
        children=tuple(_read(child, depth=depth + 1) for child in children),
    )


def _files(given: Mapping[str, Any]) -> dict[str, bytes]:
    texts = dict(_texts(_typed(given, "prompts", Mapping) or {}))
    if prompt := _text(given, "system_prompt"):
        texts[PROMPT_FILE] = prompt
    for skill in _typed(given, "skills", list) or []:
        skill_id = skill.get("id") if isinstance(skill, Mapping) else None
        if not isinstance(skill_id, str) or not is_template_name(skill_id):
            raise BadRequest(INVALID, reason="skills need an id that is a plain name")
        for path, text in _texts(_typed(skill, "files", Mapping) or {}).items():
            if path.startswith("/"):
                raise BadRequest(INVALID, reason="invalid path")
            texts[f"skills/{skill_id}/{path}"] = text
    try:
        return checked_files(texts) if texts else {}
    except TooLarge:
        raise
    except BadRequest as refusal:
        raise BadRequest(INVALID, reason=refusal.text) from None


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


def _runtime(named: str) -> str:
    runtime = named.replace("_", "-") or default_runtime()
    if runtime not in known_runtimes():
        raise BadRequest(INVALID, reason="unsupported workspace runtime")
    return runtime


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
