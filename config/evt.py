"""`evt: <name> <json>` log lines: one line each, names and fields are a contract with log pipelines.

Source: docs/reference/provisioning.md, Log events.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("molecule.evt")


def evt(name: str, fields: Mapping[str, Any] | None = None) -> None:
    """Log one event; never raises. Fields that cannot be serialised become `{"_marshal_err": ...}`."""
    try:
        text = json.dumps(dict(fields or {}), sort_keys=True, ensure_ascii=True, allow_nan=False)
    except Exception as error:  # whatever a value does when it is looked at
        text = json.dumps({"_marshal_err": type(error).__name__})
    _log.info("evt: %s %s", name, text)
