"""The operators' pages about workspaces: find the one in trouble, see why, act on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery, TextField
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse

from access.models import WorkspaceAuthToken, WorkspaceSecret
from config.admin import is_confined
from config.errors import DomainError
from console.confirmation import Preview, Subject, confirm, digest
from console.fleet import VERBS, Verb
from console.object_pages import ObjectPage, age, page_of, short, table
from console.repair import progress_page, repair_page, stop_page
from console.timeline import timeline
from console.tree import tree_data, tree_page
from console.workspace_filters import RuntimeFilter, StatusFilter, TierFilter, TroubleFilter
from delegations.previews import shortened
from provisioning.models import ProvisionRun
from workspaces.models import CanvasLayout, Workspace

SHOWN = 2000  # of one action: nobody confirms what is not on the page
NAME_CHARS = 60  # of a name in a list
TOKENS = 50


@admin.register(Workspace)
class WorkspaceAdmin(ObjectPage[Workspace]):
    of_workspace = ("pk",)
    list_display = (
        "named",
        "status",
        "tier",
        "runtime",
        "parent_named",
        "heartbeat_age",
        "compute",
        "image",
        "generation",
        "active_tasks",
        "created_at",
    )
    list_filter = (TroubleFilter, StatusFilter, RuntimeFilter, TierFilter)
    list_before_template = "console/repair_link.html"
    list_select_related = ("parent",)
    search_fields = ("name", "id")
    search_help_text = "part of a name or of an id"
    ordering = ("-created_at",)
    fields = (
        ("name", "role"),
        ("status", "status_changed_at"),
        "last_sample_error",
        ("runtime", "tier"),
        ("template", "parent"),
        ("generation", "compute"),
        ("id", "image"),
        ("last_heartbeat_at", "heartbeat_age"),
        ("active_tasks", "current_task"),
        ("cleanup_pending", "storage_kept"),
        ("provision_deadline_at", "last_error_rate"),
        ("delivery_mode", "url"),
        ("budget_limit", "monthly_spend"),
        ("created_at", "updated_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Workspace]:
        newest = ProvisionRun.objects.starts().filter(workspace_id=OuterRef("pk")).order_by("-generation")
        rows: QuerySet[Workspace] = super().get_queryset(request)
        return rows.annotate(
            shown_compute=Coalesce(
                "instance_id", Subquery(newest.values("compute_id")[:1]), output_field=TextField()
            ),
            shown_image=Coalesce(
                "runtime_image_digest", Subquery(newest.values("image")[:1]), output_field=TextField()
            ),
        )

    @admin.display(description="heartbeat", ordering="last_heartbeat_at")
    def heartbeat_age(self, row: Workspace) -> str:
        return age(row.last_heartbeat_at)

    @admin.display(description="compute")
    def compute(self, row: Any) -> str:
        return short(row.shown_compute)

    @admin.display(description="image", empty_value="—")
    def image(self, row: Any) -> str | None:
        shown = row.shown_image or ""
        return f"…{shown[-20:]}" if len(shown) > 21 else shown or None

    @admin.display(description="name", ordering="name")
    def named(self, row: Workspace) -> str:
        return shortened(row.name, NAME_CHARS)

    @admin.display(description="parent", empty_value="—")
    def parent_named(self, row: Workspace) -> str | None:
        return shortened(row.parent.name, NAME_CHARS) if row.parent else None

    def get_urls(self) -> list[Any]:
        acts = path(
            "<uuid:workspace_id>/act/<slug:name>/",
            self.admin_site.admin_view(self.act),
            name="workspaces_workspace_act",
        )
        repair = path("repair/", self.admin_site.admin_view(self.repair), name="workspaces_workspace_repair")
        progress = path(
            "repair/<uuid:repair_id>/",
            self.admin_site.admin_view(self.repair_progress),
            name="workspaces_workspace_repair_progress",
        )
        stop = path(
            "repair/<uuid:repair_id>/stop/",
            self.admin_site.admin_view(self.repair_stop),
            name="workspaces_workspace_repair_stop",
        )
        tree = path("tree/", self.admin_site.admin_view(self.tree), name="workspaces_workspace_tree")
        data = path(
            "tree/data/", self.admin_site.admin_view(self.tree_data), name="workspaces_workspace_tree_data"
        )
        return [acts, repair, progress, stop, tree, data, *super().get_urls()]

    def buttons(self, request: HttpRequest, row: Workspace) -> list[dict[str, Any]]:
        return [
            {
                "label": verb.label,
                "url": reverse("admin:workspaces_workspace_act", args=[row.pk, name]),
                "is_dangerous": name == "remove",
            }
            for name, verb in VERBS.items()
            if request.user.has_perm(verb.permission)
        ]

    def tables(self, request: HttpRequest, row: Workspace) -> list[dict[str, Any]]:
        tokens = WorkspaceAuthToken.objects.filter(workspace=row).order_by("-created_at")
        names = WorkspaceSecret.objects.filter(workspace=row).order_by("key")
        place = CanvasLayout.objects.filter(pk=row.pk).values_list("x", "y", "collapsed").first()
        return [
            table(
                "Timeline",
                ("When", "Kind", "What", "Detail"),
                [(f"{one.at:%Y-%m-%d %H:%M:%S}", one.kind, one.what, one.detail) for one in timeline(row.pk)],
            ),
            table(
                "Tokens",
                ("Begins with", "Kind", "Generation", "Made", "Last used", "Revoked"),
                [
                    (
                        f"{one.prefix}…",
                        one.kind,
                        one.generation or "—",
                        age(one.created_at),
                        age(one.last_used_at),
                        age(one.revoked_at),
                    )
                    for one in tokens.defer("token_hash")[:TOKENS]
                ],
            ),
            table(
                "Secrets, by name",
                ("Name", "Changed"),
                [(key, age(at)) for key, at in names.values_list("key", "updated_at")],
            ),
            table("Place on the canvas", ("x", "y", "Collapsed"), [place] if place else []),
        ]

    def act(self, request: HttpRequest, workspace_id: UUID, name: str) -> HttpResponse:
        """What `name` would do to this workspace; on a confirming POST, doing it."""
        verb = VERBS.get(name)
        row = self.get_object(request, str(workspace_id))
        if verb is None or row is None:
            raise Http404
        if not request.user.has_perm(verb.permission):
            raise PermissionDenied
        preview, touched = _preview(row, name, verb)
        return confirm(
            request,
            self.admin_site,
            preview,
            verb=f"workspace.{name}",
            subject=Subject("workspace", str(row.pk), row.name),
            does=lambda _: verb.does(row, touched),
            back=page_of(row),
        )

    def repair(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request) or is_confined(request):
            raise PermissionDenied
        return repair_page(request, self.admin_site)

    def repair_progress(self, request: HttpRequest, repair_id: UUID) -> HttpResponse:
        if not self.has_view_permission(request) or is_confined(request):
            raise PermissionDenied
        return progress_page(request, self.admin_site, repair_id)

    def repair_stop(self, request: HttpRequest, repair_id: UUID) -> HttpResponse:
        if not self.has_view_permission(request) or is_confined(request):
            raise PermissionDenied
        return stop_page(request, self.admin_site, repair_id)

    def tree(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return tree_page(request, self.admin_site)

    def tree_data(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return tree_data(request)


def _preview(row: Workspace, name: str, verb: Verb) -> tuple[Preview, list[UUID]]:
    """What is shown, and everybody it is about."""
    refusal = ""
    try:
        touched = list(verb.affects(row))
    except DomainError as error:
        touched, refusal = [], error.text
    fields = ("pk", "name", "status", "runtime", "generation", "active_tasks", "last_heartbeat_at")
    found = {one[0]: one for one in Workspace.objects.filter(pk__in=touched).values_list(*fields)}
    rows = [found[one] for one in touched if one in found]
    if len(rows) > SHOWN:
        refusal = (
            refusal or f"It concerns {len(rows)} workspaces, more than {SHOWN}: begin with those below it."
        )
    preview = Preview(
        title=f"{verb.label} {shortened(row.name, NAME_CHARS)}",
        says=f"{verb.says} It concerns {len(rows)} workspace(s).",
        word=row.name,
        headers=("Name", "Status", "Runtime", "Generation", "Active tasks", "Heartbeat"),
        rows=[(*one[1:6], age(one[6])) for one in rows[:SHOWN]],
        seen=digest(one[:5] for one in rows),
        refusal=refusal,
        is_dangerous=name == "remove",
    )
    return preview, touched
