"""A catalogue of its own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Put = Callable[[str, str], Path]


@pytest.fixture
def configs(settings: Any) -> Path:
    """The folder of the workspace templates, empty; `org-templates` and `plugins` lie beside it."""
    folder = Path(settings.CONFIGS_DIR)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def put(configs: Path) -> Put:
    """Write a file by its path beside the workspace templates."""

    def write(path: str, text: str) -> Path:
        target = configs.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    return write
