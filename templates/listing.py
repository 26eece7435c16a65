"""The workspace templates of this deployment, read from their folder whenever it has changed.

Source: docs/reference/templates.md, Workspace templates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from activity.tally import tally
from config.errors import BadRequest
from templates.configs import text_of
from templates.folders import CONFIG_FILE, UnsafePath, configs_root, resolve_inside_root, subfolders
from templates.loader import Kind, TemplateError, load_file
from workspaces.defaults import MAX_TIER, MIN_TIER, default_tier
from workspaces.slugs import is_template_name

log = structlog.get_logger(__name__)

BROKEN = "molecule_template_load_errors_total"
MAX_TIMEOUT_S = 86_400


@dataclass(frozen=True)
class WorkspaceTemplate:
    """One folder of the catalogue; `tier` 0: it names none."""

    id: str
    name: str
    description: str
    tier: int
    runtime: str
    model: str
    skills: list[str]
    models: list[Any] = field(default_factory=list)
    required_env: list[str] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)
    provider_registry: list[Any] = field(default_factory=list)
    provision_timeout_s: int = 0

    def shown(self) -> dict[str, Any]:
        """The entry of `GET /templates`; optional keys only when they say something."""
        optional = {
            "models": self.models,
            "required_env": self.required_env,
            "providers": self.providers,
            "provider_registry": self.provider_registry,
            "provision_timeout_seconds": self.provision_timeout_s,
        }
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "tier": self.tier or default_tier(),
            "runtime": self.runtime,
            "model": self.model,
            "skills": self.skills,
            "skill_count": len(self.skills),
            **{key: value for key, value in optional.items() if value},
        }


@dataclass(frozen=True)
class Catalogue:
    """Every template that can be used, by id, and how many folders hold one that cannot."""

    templates: Mapping[str, WorkspaceTemplate]
    broken: int


def catalogue() -> Catalogue:
    root = configs_root()
    return _read(str(root), _signature(root))


def template_folder(name: str) -> Path | None:
    """The folder of a template that is there. Raises UnsafePath for a name that is no name or leads out."""
    if not is_template_name(name):
        raise UnsafePath("is no template name")
    folder = resolve_inside_root(configs_root(), name)
    return folder if (folder / CONFIG_FILE).is_file() else None


def template_config(folder: Path) -> dict[str, Any]:
    """The mapping of a template folder's config. Raises TemplateError."""
    value = load_file(folder, CONFIG_FILE)
    if not isinstance(value, dict):
        raise TemplateError(Kind.INVALID, CONFIG_FILE, "", "must be a mapping")
    return value


def chosen_by(name: str) -> tuple[str, str]:
    """The runtime and the model a template names, '' for none; both '' when it is not there or unreadable.

    Raises BadRequest for a name that is no template's.
    """
    try:
        folder = template_folder(name)
        found = described(name, template_config(folder)) if folder else None
    except UnsafePath:
        raise BadRequest("invalid template") from None
    except TemplateError as error:
        log.warning("template.broken", template=name, kind=error.kind, error=str(error))
        found = None
    return (found.runtime, found.model) if found else ("", "")


def declared_timeouts() -> dict[str, int]:
    """Seconds a start may take, by runtime: the longest that a template of it declares."""
    longest: dict[str, int] = {}
    for one in catalogue().templates.values():
        if one.runtime and one.provision_timeout_s > 0:
            longest[one.runtime] = max(one.provision_timeout_s, longest.get(one.runtime, 0))
    return longest


def described(template_id: str, config: Mapping[str, Any]) -> WorkspaceTemplate:
    """What the catalogue shows of a config. Raises TemplateError naming a key of a wrong type."""
    of_runtime = _typed(config, "runtime_config", dict) or {}
    timeout = _typed(of_runtime, "provision_timeout_seconds", int) or 0
    return WorkspaceTemplate(
        id=template_id,
        name=_typed(config, "name", str) or template_id,
        description=_typed(config, "description", str) or "",
        tier=_tier(config),
        runtime=(_typed(config, "runtime", str) or "").strip().replace("_", "-"),
        model=text_of(_typed(config, "model", str)) or text_of(_typed(of_runtime, "model", str)),
        skills=_texts(config, "skills"),
        models=_typed(of_runtime, "models", list) or [],
        required_env=_texts(of_runtime, "required_env"),
        providers=_texts(of_runtime, "providers"),
        provider_registry=_typed(config, "providers", list) or [],
        provision_timeout_s=max(0, min(timeout, MAX_TIMEOUT_S)),
    )


def _typed(config: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = config.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TemplateError(Kind.INVALID, CONFIG_FILE, key, f"must be of type {kind.__name__}")
    return value


def _texts(config: Mapping[str, Any], key: str) -> list[str]:
    values = _typed(config, key, list) or []
    if not all(isinstance(value, str) for value in values):
        raise TemplateError(Kind.INVALID, CONFIG_FILE, key, "must be a list of texts")
    return values


def _tier(config: Mapping[str, Any]) -> int:
    given = config.get("tier")
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        given = int(given[:9])
    tier = _typed({"tier": given}, "tier", int) or 0
    if tier and not MIN_TIER <= tier <= MAX_TIER:
        raise TemplateError(Kind.INVALID, CONFIG_FILE, "tier", f"must be {MIN_TIER} to {MAX_TIER}")
    return int(tier)


def _signature(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes with every edit of a config, every folder that comes or goes."""
    seen = []
    for folder in subfolders(root):
        try:
            stat = os.stat(folder / CONFIG_FILE)
        except OSError:
            continue
        seen.append((folder.name, stat.st_mtime_ns, stat.st_size))
    return tuple(seen)


@lru_cache(maxsize=4)
def _read(root: str, signature: tuple[tuple[str, int, int], ...]) -> Catalogue:
    found, broken = {}, 0
    for name, _, _ in signature:
        try:
            if not is_template_name(name):
                raise TemplateError(
                    Kind.INVALID, CONFIG_FILE, "", "lies in a folder that no template can be called"
                )
            found[name] = described(name, template_config(Path(root) / name))
        except TemplateError as error:
            broken += 1
            log.warning("template.broken", template=name, kind=error.kind, error=str(error))
            tally.add(BROKEN, kind=error.kind)
    return Catalogue(found, broken)
