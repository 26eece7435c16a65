"""What a created workspace finds in its config folder: its files_dir, its plugins, its prompt, its config.

Its workspace template lies below these and is read at each start. Source: docs/reference/orgimport.md, Files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orgimport.template import Node, OrgTemplate, Problem
from templates.allowlists import NOT_ALLOWED
from templates.configs import CONFIG_FILE, PROMPT_FILE, dumped, workspace_config
from templates.copying import CannotCopy, folder_files, folder_size
from templates.folders import UnsafePath, plugins_root, resolve_inside_root
from templates.listing import template_config, template_folder
from templates.loader import TemplateError

MAX_BYTES = 64 * 1024 * 1024  # of all files that one import stores


@dataclass(frozen=True)
class Contents:
    """The files of one workspace by path, and what became of its plugins."""

    files: Mapping[str, bytes] = field(repr=False)
    plugins: tuple[str, ...] = ()
    skipped_plugins: Mapping[str, str] = field(default_factory=dict)  # and why


class Shelf:
    """Reads each folder once, however many nodes share it."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._folders: dict[Path, dict[str, bytes]] = {}
        self.problems: list[Problem] = []
        self._left = MAX_BYTES

    def contents(self, node: Node, allowed: Set[str] | None = None) -> Contents:
        """`allowed`: the plugins that the org allows; None: all."""
        files: dict[str, bytes] = {}
        if node.files_dir and self._root:
            files |= self._folder(resolve_inside_root(self._root, node.files_dir), node, "files_dir")
            files.pop(CONFIG_FILE, None)  # the server writes that one
        known, skipped = [], {}
        for name in node.plugins:
            if allowed is not None and name not in allowed:
                skipped[name] = NOT_ALLOWED
                continue
            folder = _plugin(name)
            if folder is None:
                skipped[name] = "not found"
                continue
            known.append(name)
            found = self._folder(folder, node, "plugins")
            files |= {f"plugins/{name}/{path}": content for path, content in found.items()}
        if node.system_prompt:
            files[PROMPT_FILE] = node.system_prompt.encode()
        if extra := _extra(node):
            files[CONFIG_FILE] = self._config(node, extra)
        self._left -= sum(len(content) for content in files.values())
        if self._left < 0:
            self.problems.append(_over(node))
        return Contents(files, tuple(known), skipped)

    def _folder(self, folder: Path, node: Node, key: str) -> dict[str, bytes]:
        if folder not in self._folders:
            try:
                self._folders[folder] = folder_files(folder)
            except CannotCopy as error:
                self.problems.append(Problem(node.path, key, str(error)))
                self._folders[folder] = {}
        return self._folders[folder]

    def _config(self, node: Node, extra: Mapping[str, Any]) -> bytes:
        base: Mapping[str, Any] = {}
        try:
            folder = template_folder(node.template) if node.template else None
            base = template_config(folder) if folder else {}
        except (TemplateError, UnsafePath) as error:
            self.problems.append(Problem(node.path, "template", str(error)))
        config = workspace_config(
            base,
            name=node.name,
            role=node.role,
            tier=node.tier,
            runtime=node.runtime,
            model=node.model,
            extra=extra,
        )
        return dumped(config).encode()


def contents_of(
    template: OrgTemplate, root: Path | None, allowed: Mapping[str, Set[str]]
) -> tuple[dict[str, Contents], list[Problem]]:
    """The files of every workspace that is to be, by path, and what keeps them from being copied whole.

    `allowed`: by the name of a root of the template, the plugins that its org allows; absent: all.
    """
    shelf = Shelf(root)
    found = {
        node.path: shelf.contents(node, allowed.get(top.name))
        for top in template.roots
        for node in top.with_spawned()
    }
    return found, shelf.problems


def too_much(template: OrgTemplate, root: Path) -> list[Problem]:
    """What would keep the files of the nodes from being copied whole, told by their sizes alone."""
    sizes: dict[Path, int] = {}
    problems = []
    left = MAX_BYTES
    for node in template.spawned():
        for key, folder in _folders(node, root):
            if folder not in sizes:
                try:
                    sizes[folder] = folder_size(folder)
                except CannotCopy as error:
                    problems.append(Problem(node.path, key, str(error)))
                    sizes[folder] = 0
            left -= sizes[folder]
        if left < 0:
            return [*problems, _over(node)]
    return problems


def _folders(node: Node, root: Path) -> Iterator[tuple[str, Path]]:
    if node.files_dir:
        yield "files_dir", resolve_inside_root(root, node.files_dir)
    for name in node.plugins:
        if folder := _plugin(name):
            yield "plugins", folder


def _over(node: Node) -> Problem:
    return Problem(node.path, "files_dir", f"all files together are more than {MAX_BYTES} bytes")


def _extra(node: Node) -> dict[str, Any]:
    """What only the org template says of a config."""
    idle = {"idle_interval_seconds": node.idle_interval_s, "idle_prompt": node.idle_prompt}
    return {
        **({"category_routing": dict(node.category_routing)} if node.category_routing else {}),
        **({"initial_prompt": node.initial_prompt} if node.initial_prompt else {}),
        **(idle if node.idle_prompt else {}),
    }


def _plugin(name: str) -> Path | None:
    try:
        folder = resolve_inside_root(plugins_root(), name)
    except UnsafePath:
        return None
    return folder if folder.is_dir() else None
