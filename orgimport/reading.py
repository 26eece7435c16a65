"""From the value of an org.yaml to a template that can be imported, or everything that is wrong with it.

Every node is judged before anything is written. Source: docs/reference/orgimport.md, The template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from orgimport.fields import Fields, Findings
from orgimport.folder import Folder
from orgimport.nodes import NodeReader, read_defaults, read_memories
from orgimport.template import OrgTemplate, Problem

TOP_KEYS = frozenset(
    {"name", "description", "defaults", "workspaces", "global_memories", "required_env", "recommended_env"}
)


class InvalidTemplate(Exception):
    """A template with problems; nothing of it was written."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("; ".join(f"{one.path} {one.field}: {one.message}" for one in self.problems))


def read_template(value: Any, *, key: str, root: Path | None, dials: bool = True) -> OrgTemplate:
    """The template in `value`; `root` is its folder, None for an inline one, `key` names where it is from.

    `dials` also judges where the names in urls lead to now. Raises InvalidTemplate.
    """
    findings = Findings()
    template = _Reading(findings, Folder(root, findings), dials).template(value, key)
    if findings.problems or template is None:
        raise InvalidTemplate(findings.problems)
    return template


class _Reading:
    def __init__(self, findings: Findings, folder: Folder, dials: bool) -> None:
        self._findings = findings
        self._folder = folder
        self._dials = dials

    def template(self, value: Any, key: str) -> OrgTemplate | None:
        if not isinstance(value, Mapping):
            self._findings.problem("", "", "the template must be a mapping")
            return None
        top = Fields(self._findings, "", value, TOP_KEYS)
        name = top.text("name", limit=255).strip()
        if not name:
            top.problem("name", "is required")
        env = self._folder.env(None, "")
        defaults, org_env = read_defaults(top.mapping("defaults"), self._findings, self._folder)
        reader = NodeReader(self._findings, self._folder, defaults, self._dials)
        global_memories = read_memories(top, "global_memories")
        template = OrgTemplate(
            key=key or f"inline:{name}",
            name=name,
            description=top.text("description"),
            roots=reader.nodes(top, "workspaces", "", 1),
            required_env=(*top.requirements("required_env"), *org_env),
            recommended_env=top.requirements("recommended_env"),
            env=env,
            global_memories=global_memories,
            warnings=tuple(self._findings.warnings),
        )
        if not top.items("workspaces"):
            top.problem("workspaces", "must name at least one workspace")
        self._check_count(template)
        return template

    def _check_count(self, template: OrgTemplate) -> None:
        count = sum(1 for _ in template.spawned())
        if count > settings.ORG_IMPORT_MAX_WORKSPACES:
            message = f"has {count} workspaces, at most {settings.ORG_IMPORT_MAX_WORKSPACES} are allowed"
            self._findings.problem("", "workspaces", message)
