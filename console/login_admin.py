"""Logins and roles; a group may be confined to orgs. Only a superuser changes them.

Source: docs/reference/console.md, Roles.
"""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from access.authentication import address_of
from console.models import OrgScope
from console.services.audit import Asked, Told, note

admin.site.unregister(User)
admin.site.unregister(Group)


class Recorded:
    """Every change of a login or a role is a record too, in the transaction of the change."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _note(request, obj, "add", message)
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _note(request, obj, "change", message)
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            _note(request, obj, "delete", "")
        return super().log_deletions(request, queryset)  # type: ignore[misc]


def _note(request: HttpRequest, obj: Any, verb: str, message: Any) -> None:
    kind = obj._meta.model_name
    told = message if isinstance(message, str) else json.dumps(message, default=str)
    asked = Asked(
        actor=request.user.get_username(),
        verb=f"{kind}.{verb}",
        object_kind=kind,
        object_id=str(obj.pk),
        reason="in the form of the console",
        object_name=str(obj),
        client_address=address_of(request),
    )
    note(asked, Told(told))


@admin.register(User)
class LoginAdmin(Recorded, UserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


class OrgScopeInline(TabularInline):  # type: ignore[misc]
    model = OrgScope
    extra = 1
    verbose_name_plural = "Only these orgs"


@admin.register(Group)
class RoleAdmin(Recorded, GroupAdmin, ModelAdmin):  # type: ignore[misc]
    inlines = (OrgScopeInline,)
