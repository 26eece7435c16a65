"""How strict this deployment is: two predicates over `MOLECULE_ENV`, asked by every room."""

from __future__ import annotations

from django.conf import settings


def is_production() -> bool:
    return settings.MOLECULE_ENV in {"prod", "production"}


def is_development() -> bool:
    """Relaxes limits and the URL policy; it never opens a route by itself."""
    return settings.MOLECULE_ENV in {"dev", "development"}
