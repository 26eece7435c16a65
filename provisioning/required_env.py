"""The names that a workspace's own config.yaml says it cannot start without.

Source: docs/reference/provisioning.md, Preparation.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from provisioning.backends.base import BackendError, ErrorClass, StartSpec

log = structlog.get_logger(__name__)

CONFIG = "config.yaml"


def check_required_env(spec: StartSpec) -> None:
    """Raises BackendError, with the names in `missing`: its text tells a person what to add and where."""
    missing = missing_names(spec)
    if missing:
        text = (
            f"missing required environment: {', '.join(missing)}; "
            "add them under Config → Env Vars, or as a global secret, then restart"
        )
        raise BackendError(ErrorClass.CONFIG, text, missing=missing)


def missing_names(spec: StartSpec) -> list[str]:
    """The names of `runtime_config.required_env` in the spec's config.yaml that are absent or empty."""
    file = spec.files.get(CONFIG)
    wanted = required_names(file.content) if file else []
    return [name for name in wanted if not spec.environment.get(name)]


def required_names(config: bytes) -> list[str]:
    """In the order of the file, each once. A file that cannot be read names none: the agent will complain."""
    try:
        document = YAML(typ="safe", pure=True).load(config)
    except (YAMLError, UnicodeDecodeError) as error:
        log.warning("required_env.unreadable_config", error=type(error).__name__)
        return []
    section = document.get("runtime_config") if isinstance(document, Mapping) else None
    names = section.get("required_env") if isinstance(section, Mapping) else None
    if not isinstance(names, list):
        return []
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))
