"""Variables that must be set before an import. Source: docs/reference/orgimport.md, Requirements."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import structlog
from django.db import DatabaseError, InterfaceError

from access.services import global_secret_keys
from config.errors import Internal, PreconditionFailed
from orgimport.template import OrgTemplate, Requirement, is_requirement

log = structlog.get_logger(__name__)

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
COULD_NOT_VERIFY = "could not verify required environment variables; try again"


def check_environment(template: OrgTemplate) -> None:
    """Raises PreconditionFailed naming what is not set anywhere, Internal when that cannot be told."""
    fields = missing_now(template)
    if not fields:
        return
    text = "missing required environment variables"
    if not fields["missing_env"]:
        text = "missing per-workspace required environment variables"
    raise PreconditionFailed(text, **fields)


def missing_now(template: OrgTemplate) -> dict[str, Any]:
    """`missing`, judged by the global secrets there are. Raises Internal."""
    try:
        known = global_secret_keys()
    except (DatabaseError, InterfaceError) as error:
        log.exception("import.environment_unknown", template=template.key)
        raise Internal(COULD_NOT_VERIFY) from error
    return missing(template, known)


def missing(template: OrgTemplate, known: Collection[str]) -> dict[str, Any]:
    """What the answer says of requirements that neither global secrets nor env files satisfy; {} for none."""
    org = _unsatisfied(collected(template.required_env), {*known, *template.env})
    nodes = []
    for node in template.spawned():
        lacking = _unsatisfied(collected(node.required_env), {*known, *node.env})
        if lacking:
            files_dir = {"files_dir": node.files_dir} if node.files_dir else {}
            shown = [one.shown() for one in lacking]
            nodes.append({"workspace": node.name, "path": node.path, **files_dir, "unsatisfied_env": shown})
    if not org and not nodes:
        return {}
    required, _ = all_requirements(template)
    names = sorted({name for one in [*org, *_of_nodes(nodes)] for name in one.members})
    return {
        "missing_env": [one.shown() for one in org],
        "required_env": [one.shown() for one in required],
        "template": template.name,
        "suggestion": f"Add {' / '.join(names)} as a global secret, then import again.",
        **({"missing_workspace_env": nodes} if nodes else {}),
    }


def all_requirements(template: OrgTemplate) -> tuple[list[Requirement], list[Requirement]]:
    """(required, recommended) over the org and every workspace that will be."""
    nodes = list(template.spawned())
    required = collected([*template.required_env, *(one for node in nodes for one in node.required_env)])
    advised = collected([*template.recommended_env, *(one for node in nodes for one in node.recommended_env)])
    strict = {one.members[0] for one in required if one.is_strict}
    groups = {one.members for one in required}
    return required, [one for one in advised if not strict & set(one.members) and one.members not in groups]


def open_requirements(template: OrgTemplate) -> tuple[list[Requirement], list[Requirement]]:
    """(required, recommended) without what the template's own env files hold: what a person is asked."""
    own: dict[tuple[str, ...], bool] = {}
    for variables, given in _asked(template):
        for one in collected(given):
            own[one.members] = own.get(one.members, True) and bool(set(one.members) & set(variables))
    required, advised = all_requirements(template)
    return (
        [one for one in required if not own.get(one.members)],
        [one for one in advised if not own.get(one.members)],
    )


def collected(given: Iterable[Any]) -> list[Requirement]:
    """The valid requirements, each once: names by alphabet, then groups; a group with a strict name goes."""
    found: dict[tuple[str, ...], Requirement] = {}
    for one in given:
        is_strict = isinstance(one, str)
        members = [one] if is_strict else _group(one)
        valid = tuple(sorted({name for name in members if isinstance(name, str) and _NAME.fullmatch(name)}))
        if len(valid) < len(members):
            log.info("import.requirement_dropped", dropped=len(members) - len(valid))
        if valid:
            found.setdefault(valid, Requirement(valid, is_strict))
    strict = {one.members[0] for one in found.values() if one.is_strict}
    kept = [one for one in found.values() if one.is_strict or not strict & set(one.members)]
    return sorted(kept, key=lambda one: (not one.is_strict, one.members))


def _group(value: Any) -> list[Any]:
    return list(value["any_of"]) if is_requirement(value) else []


def _unsatisfied(required: Iterable[Requirement], known: Collection[str]) -> list[Requirement]:
    return [one for one in required if not any(name in known for name in one.members)]


def _asked(template: OrgTemplate) -> Iterable[tuple[Mapping[str, str], tuple[Any, ...]]]:
    yield template.env, (*template.required_env, *template.recommended_env)
    for node in template.spawned():
        yield node.env, (*node.required_env, *node.recommended_env)


def _of_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[Requirement]:
    return collected(one for node in nodes for one in node["unsatisfied_env"])
