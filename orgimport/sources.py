"""Where org templates are read from: their folder, or the body of a request.

Source: docs/reference/orgimport.md, The template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from activity.tally import tally
from orgimport.files import too_much
from orgimport.reading import InvalidTemplate, read_template
from orgimport.requirements import open_requirements
from orgimport.template import OrgTemplate
from templates.folders import UnsafePath, org_root, resolve_inside_root, subfolders
from templates.listing import BROKEN
from templates.loader import Kind, TemplateError, load_file

log = structlog.get_logger(__name__)

FILE_NAMES = ("org.yaml", "org.yml")
_DIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ABSOLUTE = re.compile(r"/(?:[^\s/:'\"]+/)+([^\s/:'\"]+)")


class UnknownTemplate(Exception):
    """There is no such folder, or no org file in it."""


@dataclass(frozen=True)
class Listed:
    """One entry of the palette; `reason` is '' for a template that can be imported."""

    dir: str
    template: OrgTemplate | None
    reason: str = ""
    error: str = ""

    def shown(self) -> dict[str, Any]:
        if self.template is None:
            empty = {"name": "", "description": "", "workspaces": 0, "workspaces_total": 0}
            lists: dict[str, Any] = {"required_env": [], "recommended_env": []}
            return {"dir": self.dir, **empty, **lists, "reason": self.reason, "error": self.error}
        required, advised = open_requirements(self.template)
        return {
            "dir": self.dir,
            "name": self.template.name,
            "description": self.template.description,
            "workspaces": sum(1 for _ in self.template.spawned()),
            "workspaces_total": sum(1 for _ in self.template.every()),
            "required_env": [one.shown() for one in required],
            "recommended_env": [one.shown() for one in advised],
        }


def template_folder(name: str) -> Path:
    """The folder of an org template. Raises UnsafePath for a name that is none, UnknownTemplate."""
    if not _DIR.fullmatch(name) or ".." in name:
        raise UnsafePath("is no name of a folder")
    folder = resolve_inside_root(org_root(), name)
    if org_file(folder) is None:
        raise UnknownTemplate
    return folder


def org_file(folder: Path) -> str | None:
    """The name of the org file in a folder, if it has one."""
    return next((name for name in FILE_NAMES if (folder / name).is_file()), None)


def load(folder: Path, *, key: str = "", dials: bool = True) -> OrgTemplate:
    """The template in a folder. Raises UnknownTemplate, TemplateError, InvalidTemplate."""
    name = org_file(folder)
    if name is None:
        raise UnknownTemplate
    return read_template(load_file(folder, name), key=key or _key(folder), root=folder, dials=dials)


def _key(folder: Path) -> str:
    """What its rows remember it by: its name in the catalogue, else its whole path, or a folder elsewhere
    with the same name would take their place.
    """
    real = folder.resolve()
    return real.name if real.parent == org_root().resolve() else str(real)


def inline(value: Mapping[str, Any]) -> OrgTemplate:
    """A template that came as a request's body. Raises InvalidTemplate."""
    return read_template(value, key="", root=None)


def listed() -> Iterator[Listed]:
    """Every folder that holds, or once held, an org template, by name."""
    for folder in subfolders(org_root()):
        found = _listed(folder)
        if found is None:
            continue
        if found.reason:
            log.warning("org_template.broken", dir=found.dir, reason=found.reason, error=found.error)
            tally.add(BROKEN, kind=found.reason)
        yield found


def _listed(folder: Path) -> Listed | None:
    if org_file(folder) is None:
        return Listed(folder.name, None, Kind.HALF_CHECKOUT) if (folder / ".git").is_dir() else None
    try:
        template_folder(folder.name)
        template = load(folder, dials=False)
        if problems := too_much(template, folder):
            raise InvalidTemplate(problems)
        return Listed(folder.name, template)
    except UnsafePath:
        return Listed(folder.name, None, Kind.INVALID, "its folder has a name that no import can ask for")
    except TemplateError as error:
        return Listed(folder.name, None, error.kind, _without_paths(str(error)))
    except InvalidTemplate as error:
        return Listed(folder.name, None, Kind.INVALID, _without_paths(str(error)))


def _without_paths(text: str) -> str:
    return _ABSOLUTE.sub(r"/…/\1", text)[:2000]
