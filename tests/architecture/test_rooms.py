"""A gate that does not look at a room guards nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings

from tests.architecture import test_backends, test_imports, test_inserts, test_settings, test_writes

ROOT = Path(settings.BASE_DIR)
LISTS = {
    "backends": test_backends.ROOMS,
    "imports": test_imports.ROOMS,
    "inserts": test_inserts.ROOMS,
    "settings": test_settings.PRODUCT,
    "writes": test_writes.ROOMS,
}
WITHOUT = {"writes": {"config"}}  # no tables, no readers of any


def rooms() -> set[str]:
    """The installed apps that are folders of this project."""
    return {app.name for app in apps.get_app_configs() if Path(app.path).parent == ROOT}


@pytest.mark.parametrize("gate", LISTS)
def test_every_gate_looks_at_every_room(gate: str):
    assert len(rooms()) > 8
    assert rooms() - set(LISTS[gate]) == WITHOUT.get(gate, set())
