"""The names that a workspace's own config.yaml says it cannot start without.

Source: docs/reference/provisioning.md, Preparation.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from provisioning.backends.base import BackendError, ErrorClass, StartSpec
from templates.loader import TemplateError, load_text

log = structlog.get_logger(__name__)

CONFIG = "config.yaml"


def check_required_env(spec: StartSpec) -> None:
    """Raises BackendError, with the names in `missing`: its text tells a person what to add and where."""
    missing = missing_names(spec)
    if missing:
        raise BackendError(ErrorClass.CONFIG, _text(missing), missing=missing)


def _text(missing: list[str]) -> str:
    names = ", ".join(f'"{name}"' for name in missing)
    if len(missing) == 1:
        what = f"var {names} — add it under Config → Env Vars (or as a Global secret)"
    else:
        what = f"vars {names} — add them under Config → Env Vars (or as Global secrets)"
    return f"missing required env {what} and retry"


def missing_names(spec: StartSpec) -> list[str]:
    """The names of `runtime_config.required_env` in the spec's config.yaml that are absent or empty."""
    file = spec.files.get(CONFIG)
    wanted = required_names(file.content) if file else []
    return [name for name in wanted if not spec.environment.get(name)]


def required_names(config: bytes) -> list[str]:
    """In the order of the file, each once. A file that cannot be read names none: the agent will complain."""
    try:
        document = load_text(config, CONFIG)
    except TemplateError as error:
        log.warning("required_env.unreadable_config", error=str(error))
        return []
    section = document.get("runtime_config") if isinstance(document, Mapping) else None
    names = section.get("required_env") if isinstance(section, Mapping) else None
    if not isinstance(names, list):
        return []
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))
