"""The schedules that a node declares. What cannot be meant is left out and reported, never an error.

Source: docs/reference/orgimport.md, Schedules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from activity.redaction import storable
from config.errors import BadRequest
from orgimport.fields import Fields
from orgimport.folder import INLINE, Folder
from orgimport.template import Schedules
from schedules.cron import next_run
from schedules.services import Declared

MOST = 100
PROMPT_BYTES = 16 * 1024
NAME_CHARS = 255
KEYS = frozenset({"name", "cron_expr", "timezone", "prompt", "prompt_file", "enabled"})


def read_schedules(fields: Fields, folder: Folder, files_dir: str | None) -> Schedules:
    """`prompt_file` starts from the node's files_dir, else from the template's folder."""
    declared: dict[str, Declared] = {}
    refused: list[tuple[str, str]] = []
    for number, given in enumerate(fields.mappings("schedules"), start=1):
        for key in sorted({str(key) for key in given} - KEYS):
            fields.warn(f"schedules[{number - 1}].{storable(key)[:200]}")
        if folder.root is None and given.get("prompt_file"):
            fields.problem(f"schedules[{number - 1}].prompt_file", INLINE)
        name = _name(given, number)
        try:
            if number > MOST:
                raise BadRequest(f"more than {MOST} schedules")
            if name in declared:
                raise BadRequest("another schedule of this workspace has the same name")
            declared[name] = _declared(name, given, folder, files_dir)
        except BadRequest as error:
            refused.append((name, error.text))
    return Schedules(tuple(declared.values()), tuple(refused))


def _name(given: Mapping[str, Any], number: int) -> str:
    """One without a name is called by its place."""
    name = given.get("name")
    text = str(storable(str(name))).strip() if name is not None else ""
    return text[:NAME_CHARS] or f"schedule-{number}"


def _declared(name: str, given: Mapping[str, Any], folder: Folder, files_dir: str | None) -> Declared:
    """Raises BadRequest with the reason."""
    enabled = given.get("enabled")
    if not isinstance(enabled, bool | None):
        raise BadRequest("enabled must be true or false")
    expression, zone = _text(given, "cron_expr").strip(), _text(given, "timezone").strip() or "UTC"
    prompt = _prompt(given, folder, files_dir)
    next_run(expression, zone, timezone.now())
    return Declared(name, expression, zone, prompt, enabled is not False)


def _prompt(given: Mapping[str, Any], folder: Folder, files_dir: str | None) -> str:
    """The prompt itself, else that of its file."""
    text, file = _text(given, "prompt"), _text(given, "prompt_file")
    if not text.strip() and file:
        of_file = folder.quiet_text(file, files_dir)
        if of_file is None:
            raise BadRequest("prompt_file cannot be read")
        text = of_file
    text = str(storable(text.replace("\r", ""))).strip()
    if not text:
        raise BadRequest("empty prompt")
    if len(text.encode()) > PROMPT_BYTES:
        raise BadRequest(f"the prompt is longer than {PROMPT_BYTES} bytes")
    return text


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str | None):
        raise BadRequest(f"{key} must be a text")
    return value or ""
