from __future__ import annotations

from typing import Any

import pytest

from config.posture import is_development, is_production


@pytest.mark.parametrize(
    ("name", "production", "development"),
    [
        ("prod", True, False),
        ("production", True, False),
        ("dev", False, True),
        ("development", False, True),
        ("staging", False, False),
        ("", False, False),
    ],
)
def test_the_posture_follows_the_name(settings: Any, name: str, production: bool, development: bool) -> None:
    settings.MOLECULE_ENV = name
    assert (is_production(), is_development()) == (production, development)
