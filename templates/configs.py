"""`config.yaml` as this server writes it. Source: docs/reference/templates.md, config.yaml."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from templates.folders import CONFIG_FILE
from templates.writer import dumped
from workspaces.defaults import clamped_tier, default_model, default_runtime

PROMPT_FILE = "system-prompt.md"
VERSION = "1.0.0"
IMPORTED_MODEL = "anthropic:claude-haiku-4-5-20251001"
_OF_THE_WORKSPACE = frozenset({"name", "model", "provider"})  # a template's own are not its workspaces'


def imported_config(
    *, name: str, files: Collection[str], tier: int, runtime: str = "", model: str = ""
) -> str:
    """The config of a template, or of a workspace, that came without one; `files` are its other paths.

    A workspace has a runtime and a model of its own, a template the defaults.
    """
    prompts = sorted(path for path in files if "/" not in path and path.endswith(".md"))
    skills = sorted(
        parts[1]
        for path in files
        if len(parts := path.split("/")) == 3 and parts[::2] == ["skills", "SKILL.md"]
    )
    return dumped(
        {
            "name": name,
            "description": "Imported agent",
            "version": VERSION,
            "tier": clamped_tier(tier),
            "runtime": runtime or default_runtime(),
            "model": model or IMPORTED_MODEL,
            "prompt_files": prompts or [PROMPT_FILE],
            "skills": skills,
            "tools": [],
            "a2a": {"port": 8000, "streaming": True, "push_notifications": True},
            "env": {"required": ["ANTHROPIC_API_KEY"], "optional": []},
        }
    )


def workspace_config(
    base: Mapping[str, Any],
    *,
    name: str,
    role: str | None,
    tier: int,
    runtime: str,
    model: str | None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a workspace as one mapping: its template's, overlaid by what the workspace is.

    `model` is the chosen one; without it the template's counts, else the runtime's default. An empty text
    erases nothing.
    """
    given = base.get("runtime_config")
    of_runtime = given if isinstance(given, Mapping) else {}
    chosen = model or text_of(base.get("model")) or text_of(of_runtime.get("model")) or default_model(runtime)
    overlay = {
        "name": name,
        "description": role,
        "role": role,
        "version": VERSION,
        "tier": clamped_tier(tier),
        "runtime": runtime,
        "model": chosen,
    }
    kept = {key: value for key, value in base.items() if key not in _OF_THE_WORKSPACE}
    document = {**overlay, **kept, **{key: value for key, value in overlay.items() if value}}
    document = {key: value for key, value in document.items() if value is not None}
    return {**document, "runtime_config": {"timeout": 0, **of_runtime}, **(extra or {})}


def text_of(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


__all__ = ["CONFIG_FILE", "PROMPT_FILE", "dumped", "imported_config", "text_of", "workspace_config"]
