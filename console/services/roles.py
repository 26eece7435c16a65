"""The three roles: groups with permissions, made and completed by every `migrate`.

Source: docs/reference/console.md, Roles.
"""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group, Permission
from django.db import transaction

VIEWER, OPERATOR, ADMINISTRATOR = "viewer", "operator", "administrator"
_EXTRA: dict[str, frozenset[str]] = {
    VIEWER: frozenset(),
    OPERATOR: frozenset({"operate"}),
    ADMINISTRATOR: frozenset({"operate", "administer"}),
}


@transaction.atomic
def complete_roles() -> None:
    """Every role exists and may see all rooms; what a role was given besides stays.

    Logins and groups are nobody's but a superuser's: who may change them may become anybody.
    """
    views = set(
        Permission.objects.filter(
            content_type__app_label__in=_rooms(), codename__startswith="view_"
        ).values_list("pk", flat=True)
    )
    extra = dict(
        Permission.objects.filter(
            content_type__app_label="console", codename__in=_EXTRA[ADMINISTRATOR]
        ).values_list("codename", "pk")
    )
    for name, codenames in _EXTRA.items():
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.add(*views, *(extra[one] for one in codenames if one in extra))


def _rooms() -> list[str]:
    """The labels of this project's own apps."""
    return [
        one.label for one in apps.get_app_configs() if one.path.startswith(str(settings.BASE_DIR / one.name))
    ]
