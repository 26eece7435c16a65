"""One workspace of a template: its own keys over the template's defaults over the deployment's.

Source: docs/reference/orgimport.md, The template.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from access.url_policy import Unresolvable, check_literal, check_url
from activity.redaction import storable
from config.errors import BadRequest
from config.settings import env as declared
from memory.models import Scope
from orgimport.env_files import unresolved
from orgimport.fields import Fields, Findings
from orgimport.folder import Folder
from orgimport.schedules import read_schedules
from orgimport.template import Node, step
from templates.folders import UnsafePath
from templates.listing import chosen_by, template_folder
from workspaces.defaults import (
    MAX_TIER,
    MIN_TIER,
    default_model,
    default_runtime,
    default_tier,
    is_saas,
    known_runtimes,
)
from workspaces.models import EXTERNAL, Access
from workspaces.slugs import NAME_CHARS, ROLE_CHARS, is_usable_folder

MODEL_CHARS = 100
IDLE_INTERVAL_S = 600
MAX_TASKS = 2**31 - 1
_PLUGIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DEFAULT_KEYS = frozenset(
    {
        "runtime", "tier", "model", "plugins", "initial_prompt", "initial_prompt_file", "idle_prompt",
        "idle_prompt_file", "idle_interval_seconds", "category_routing", "initial_memories", "required_env",
    }
)  # fmt: skip
NODE_KEYS = (DEFAULT_KEYS - {"required_env"}) | {
    "name", "role", "template", "files_dir", "system_prompt", "workspace_dir", "workspace_access",
    "max_concurrent_tasks", "schedules", "channels", "external", "url", "canvas", "spawning", "required_env",
    "recommended_env", "children",
}  # fmt: skip


@dataclass(frozen=True)
class Defaults:
    """What nodes get that say nothing themselves."""

    runtime: str = ""
    tier: int = 0
    model: str = ""
    plugins: tuple[str, ...] = ()
    initial_prompt: str = ""
    idle_prompt: str = ""
    idle_interval_s: int = 0
    category_routing: Mapping[str, list[str]] = field(default_factory=dict)
    memories: tuple[Mapping[str, Any], ...] = ()


def read_defaults(
    given: Mapping[str, Any], findings: Findings, folder: Folder
) -> tuple[Defaults, tuple[Any, ...]]:
    """The defaults, and the requirements that authors put there."""
    fields = Fields(findings, "defaults", given, DEFAULT_KEYS)
    defaults = Defaults(
        runtime=_runtime(fields),
        tier=_tier(fields),
        model=fields.text("model", limit=MODEL_CHARS).strip(),
        plugins=tuple(_merged_plugins((), _plugins(fields))),
        initial_prompt=_prompt(fields, folder, "initial_prompt", None),
        idle_prompt=_prompt(fields, folder, "idle_prompt", None),
        idle_interval_s=fields.number("idle_interval_seconds"),
        category_routing=_routing(fields),
        memories=_memories(fields),
    )
    return defaults, fields.requirements("required_env")


class NodeReader:
    """Reads nodes and what is below them."""

    def __init__(self, findings: Findings, folder: Folder, defaults: Defaults, dials: bool) -> None:
        self._findings = findings
        self._folder = folder
        self._defaults = defaults
        self._dials = dials

    def nodes(self, above: Fields, key: str, path: str, depth: int) -> tuple[Node, ...]:
        given = above.items(key)
        if given and depth > settings.ORG_IMPORT_MAX_DEPTH:
            above.problem(key, f"is deeper than {settings.ORG_IMPORT_MAX_DEPTH} levels")
            return ()
        found: dict[str, Node] = {}
        for index, value in enumerate(given):
            if not isinstance(value, Mapping):
                above.problem(f"{key}[{index}]", "must be a mapping")
                continue
            name = node_name(value.get("name"))
            shown = name or f"{key}[{index}]"
            where = f"{path}/{step(shown)}" if path else step(shown)
            if not name:
                message = f"is required: 1 to {NAME_CHARS} characters without control characters"
                self._findings.problem(where, "name", message)
            elif name in found:
                self._findings.problem(where, "name", "another workspace beside it has the same name")
            found[shown] = self._node(value, name, where, depth)
        return tuple(found.values())

    def _node(self, value: Mapping[str, Any], name: str, path: str, depth: int) -> Node:
        fields = Fields(self._findings, path, value, NODE_KEYS)
        defaults, files_dir = self._defaults, self._files_dir(fields)
        env = self._folder.env(files_dir, path)
        is_external = fields.flag("external", False)
        template, template_runtime, template_model = self._template(fields)
        own_runtime = _runtime(fields)
        runtime = own_runtime or defaults.runtime or template_runtime or default_runtime()
        if is_external or runtime == EXTERNAL:
            runtime = EXTERNAL
        model = fields.text("model", limit=MODEL_CHARS).strip() or defaults.model or template_model
        workspace_dir = self._workspace_dir(fields, env)
        interval = fields.number("idle_interval_seconds") or defaults.idle_interval_s
        idle_prompt = _prompt(fields, self._folder, "idle_prompt", files_dir) or defaults.idle_prompt
        initial = _prompt(fields, self._folder, "initial_prompt", files_dir) or defaults.initial_prompt
        return Node(
            name=name,
            path=path,
            role=" ".join(fields.text("role", limit=ROLE_CHARS).split("\n")).replace("\r", " ").strip()
            or None,
            runtime=runtime,
            tier=_tier(fields) or defaults.tier or default_tier(),
            model=model or default_model(runtime),
            template=template,
            files_dir=files_dir,
            system_prompt=fields.text("system_prompt"),
            initial_prompt=initial,
            idle_prompt=idle_prompt,
            idle_interval_s=interval if interval > 0 else IDLE_INTERVAL_S,
            workspace_dir=workspace_dir,
            workspace_access=self._access(fields, workspace_dir),
            max_concurrent_tasks=min(max(1, fields.number("max_concurrent_tasks")), MAX_TASKS),
            plugins=tuple(_merged_plugins(defaults.plugins, _plugins(fields))),
            category_routing=_merged_routing(defaults.category_routing, _routing(fields)),
            memories=_memories(fields) or defaults.memories,
            schedules=read_schedules(fields, self._folder, files_dir),
            channels=tuple(fields.mappings("channels")),
            url=self._url(fields, env, fields.text("url").strip())
            if runtime == EXTERNAL
            else _unused(fields),
            canvas=_canvas(fields) if depth == 1 else None,
            is_spawned=fields.flag("spawning", True),
            required_env=fields.requirements("required_env"),
            recommended_env=fields.requirements("recommended_env"),
            env=env,
            children=self.nodes(fields, "children", path, depth + 1),
        )

    def _files_dir(self, fields: Fields) -> str | None:
        files_dir = fields.text("files_dir")
        if not files_dir or not self._folder.is_directory(files_dir, fields.path, "files_dir"):
            return None
        return files_dir

    def _template(self, fields: Fields) -> tuple[str | None, str, str]:
        name = fields.text("template")
        if not name:
            return None, "", ""
        try:
            is_there = template_folder(name) is not None
        except (UnsafePath, OSError):
            is_there = False
        if not is_there:
            fields.problem("template", "there is no such workspace template")
            return None, "", ""
        return (name, *chosen_by(name))

    def _workspace_dir(self, fields: Fields, env: Mapping[str, str]) -> str | None:
        given = fields.text("workspace_dir").strip()
        if not given:
            return None
        path = self._expanded(fields, "workspace_dir", given, env)
        if path and not is_usable_folder(path):
            fields.problem("workspace_dir", "must be an absolute folder outside those of the system")
            return None
        return path or None

    def _access(self, fields: Fields, workspace_dir: str | None) -> str:
        access = fields.text("workspace_access") or Access.NONE
        if access not in Access.values:
            fields.problem("workspace_access", f"must be one of {', '.join(Access.values)}")
        elif access != Access.NONE and not workspace_dir:
            fields.problem("workspace_access", "needs a workspace_dir")
        return access

    def _url(self, fields: Fields, env: Mapping[str, str], given: str) -> str:
        url = self._expanded(fields, "url", given, env) if given else ""
        if not url:
            return ""
        try:
            (check_url if self._dials else check_literal)(url, is_saas=is_saas())
        except Unresolvable:
            pass  # its name may lead somewhere later; every call judges the address again
        except BadRequest as error:
            fields.problem("url", error.text)
        return url

    def _expanded(self, fields: Fields, key: str, text: str, env: Mapping[str, str]) -> str:
        value, missing = unresolved(text, {**allowed_variables(), **env})
        if missing:
            fields.problem(key, f"has variables without a value: {', '.join(missing)}")
            return ""
        return value


def _unused(fields: Fields) -> str:
    """The url of a node that runs here: nobody calls it, and it still has to be a text."""
    fields.text("url")
    return ""


def allowed_variables() -> dict[str, str]:
    """Variables of this server that a template may name: all others would hand out the server's secrets."""
    return dict(declared.values(settings.ORG_IMPORT_ENV_ALLOWLIST))


def node_name(given: Any) -> str:
    """The name as stored, '' for one that is none."""
    if not isinstance(given, str):
        return ""
    name = unicodedata.normalize("NFC", given.strip())
    is_odd = any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)
    return "" if is_odd or len(name) > NAME_CHARS else name


def _runtime(fields: Fields) -> str:
    runtime = fields.text("runtime").strip().replace("_", "-")
    if runtime and runtime not in known_runtimes():
        fields.problem("runtime", f"unknown runtime; known are {', '.join(sorted(known_runtimes()))}")
        return ""
    return runtime


def _tier(fields: Fields) -> int:
    tier = fields.number("tier")
    if tier and not MIN_TIER <= tier <= MAX_TIER:
        fields.problem("tier", f"must be {MIN_TIER} to {MAX_TIER}")
        return 0
    return tier


def _prompt(fields: Fields, folder: Folder, key: str, files_dir: str | None) -> str:
    """The prompt itself, else that of its file; without outer white space and blanks at the ends of lines."""
    text, file = fields.text(key), fields.text(f"{key}_file")
    if file:
        of_file = folder.text(file, files_dir, fields.path, f"{key}_file")  # judged even when it is not used
        text = text or of_file
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _plugins(fields: Fields) -> list[str]:
    plugins = []
    for name in fields.texts("plugins"):
        if _PLUGIN.fullmatch(name.removeprefix("!") if name.startswith("!") else name.removeprefix("-")):
            plugins.append(name)
        else:
            fields.problem("plugins", "holds a name that is no plugin's")
    return plugins


def _merged_plugins(inherited: tuple[str, ...], own: list[str]) -> list[str]:
    removed = {name[1:] for name in own if name[0] in "!-"}
    wanted = dict.fromkeys([*inherited, *(name for name in own if name[0] not in "!-")])
    return [name for name in wanted if name not in removed]


def _routing(fields: Fields) -> dict[str, list[str]]:
    routing: dict[str, list[str]] = {}
    for category, roles in fields.mapping("category_routing").items():
        if roles is None or (isinstance(roles, list) and all(isinstance(role, str) for role in roles)):
            routing[str(category)] = list(roles or [])
        else:
            fields.problem("category_routing", "must map each category to a list of names")
    return routing


def _merged_routing(
    inherited: Mapping[str, list[str]], own: Mapping[str, list[str]]
) -> Mapping[str, list[str]]:
    return {key: roles for key, roles in sorted({**inherited, **own}.items()) if roles}


def _memories(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    return read_memories(fields, "initial_memories")


def read_memories(fields: Fields, key: str) -> tuple[Mapping[str, Any], ...]:
    """What is no scope is told as a warning: that memory is left out later, and nothing else."""
    memories = fields.mappings(key)
    for index, memory in enumerate(memories):
        if not isinstance(memory.get("content"), str):
            fields.problem(f"{key}[{index}].content", "must be a text")
        scope = memory.get("scope")
        if scope is not None and str(scope).strip().upper() not in Scope.values:
            fields.warn(f"{key}[{index}].scope")
        for unknown in sorted(str(one) for one in memory if one not in ("content", "scope")):
            fields.warn(f"{key}[{index}].{storable(unknown)[:200]}")
    return tuple(memories)


def _canvas(fields: Fields) -> tuple[float, float] | None:
    """Where a root is to stand; (0, 0) is what the canvas takes for "nowhere"."""
    canvas = fields.mapping("canvas")
    if not canvas:
        return None
    for unknown in sorted(str(key) for key in canvas if key not in ("x", "y")):
        fields.warn(f"canvas.{storable(unknown)[:200]}")
    x, y = canvas.get("x"), canvas.get("y")
    for value in (x, y):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            fields.problem("canvas", "must hold the numbers x and y")
            return None
    assert x is not None
    assert y is not None
    return None if (x, y) == (0, 0) else (float(x), float(y))
