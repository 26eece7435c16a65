"""Repair of leaks as a page: copies and idle leftovers, what stays and why, what goes, and the removal.

Source: docs/reference/console.md, Repair of leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.admin.sites import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldBooleanSwitchWidget

from config.errors import DomainError
from console.confirmation import Preview, Subject, confirm
from console.models import OperatorAction, Outcome, Repair
from console.object_pages import age, short, table
from console.services.audit import Asked, Told
from console.services.repairs import LEASE, Progress, progress, start_repair, stop_repair
from provisioning.duplicate_rules import CleanupPlan, Member, Options, Verdict, verdicts
from provisioning.services.duplicates import plan_cleanup
from workspaces.models import Workspace

SHOWN = 500
HEADERS = (
    "Copies of",
    "Verdict",
    "Why",
    "Name",
    "Status",
    "Runtime",
    "Age",
    "Heartbeat",
    "24h / tasks / children",
    "Compute",
)


class OptionsForm(forms.Form):
    stale_days = forms.IntegerField(
        min_value=1,
        max_value=36_500,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget,
        label="Also lone workspaces silent for so many days",
    )
    include_live = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        label="Also those that called within 5 minutes, or start",
    )
    allow_data_loss = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        label="Also those with secrets or memories that their keeper lacks",
    )

    def options(self) -> Options:
        given = self.cleaned_data
        return Options(given["stale_days"], given["include_live"], given["allow_data_loss"])


@dataclass(frozen=True)
class _Planned:
    plan: CleanupPlan | None
    refusal: str = ""


def repair_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The plan that the options in the address lead to; on a confirming POST of who may, its removal."""
    may_act = request.user.has_perm("console.administer")
    if request.method == "POST" and not may_act:
        raise PermissionDenied
    form = OptionsForm(request.GET)
    options = form.options() if form.is_valid() else Options()
    found = _planned(options) if form.is_valid() else _Planned(None, "These options make no plan.")
    preview = _preview(found, may_act=may_act)

    def remove(asked: Asked) -> Told:
        assert found.plan is not None
        row = start_repair(asked.id, asked.actor, options, found.plan)
        return Told("The removal is under way.", Outcome.STARTED, page=_page(row.pk))

    return confirm(
        request,
        site,
        preview,
        verb="workspaces.repair",
        subject=Subject("plan", found.plan.fingerprint if found.plan else "", "repair of leaks"),
        does=remove,
        back=request.get_full_path() if request.method == "POST" else _list(),
        template="console/repair.html",
        shown_besides={
            "under_way": [(one, _page(one.pk)) for one in Repair.objects.filter(ended_at=None)],
            "options_form": form,
            "plan_hash": found.plan.fingerprint if found.plan else "",
        },
    )


def _planned(options: Options) -> _Planned:
    try:
        return _Planned(plan_cleanup(options))
    except DomainError as error:
        return _Planned(None, error.text)


def _preview(found: _Planned, *, may_act: bool) -> Preview:
    if found.plan is None:
        return Preview("Repair leaks", "There is no plan.", refusal=found.refusal)
    plan = found.plan
    counted = verdicts(plan)
    goes = len(plan.removable)
    vcpus = sum(member.facts.vcpus for member in plan.removable)
    rows = list(_rows(plan))
    says = (
        f"{len(plan.groups)} group(s) of copies: {counted[Verdict.REMOVE]} to remove ({vcpus:g} vCPU), "
        f"{counted[Verdict.BLOCKED]} blocked, {counted[Verdict.KEEP]} kept."
    )
    refusal = ""
    if not goes:
        refusal = "There is nothing to remove."
    elif not may_act:
        refusal = "Removing needs the role administrator."
    return Preview(
        title="Repair leaks",
        says=says if len(rows) <= SHOWN else f"{says} Only the first {SHOWN} rows are listed.",
        word=f"remove {goes}",
        headers=HEADERS,
        rows=rows[:SHOWN],
        seen=plan.fingerprint,
        refusal=refusal,
        is_dangerous=True,
    )


def _rows(plan: CleanupPlan) -> Iterator[tuple[Any, ...]]:
    for group in plan.groups:
        yield from (_row(group.name, member) for member in group.members)
    yield from (_row("no copies: idle", member) for member in plan.stale)


def _row(of: str, member: Member) -> tuple[Any, ...]:
    row, facts = member.row, member.facts
    return (
        of,
        str(member.verdict),
        member.reason,
        row.name,
        row.status,
        f"{row.runtime} T{row.tier}",
        age(row.created_at),
        age(row.last_heartbeat_at),
        f"{facts.activity_24h} / {row.active_tasks} / {member.children}",
        f"{', '.join(map(short, facts.compute_ids))} {facts.vcpus:g} vCPU" if facts.compute_ids else "—",
    )


def progress_page(request: HttpRequest, site: AdminSite, repair_id: UUID) -> HttpResponse:
    """How far a removal is."""
    row = get_object_or_404(Repair, pk=repair_id)
    found = progress(row)
    record = OperatorAction.objects.filter(pk=row.pk).first()
    context = {
        **site.each_context(request),
        "title": "Removal of leaks",
        "repair": row,
        "progress": found,
        "percent": 100 * found.gone // found.total,
        "record": record,
        "table": table("", ("Name", "Workspace", "State"), list(_states(row, found))),
        "last_sign": age(row.lease_expires_at - LEASE) if row.lease_expires_at else "",
        "stop": reverse("admin:workspaces_workspace_repair_stop", args=[row.pk])
        if row.ended_at is None and request.user.has_perm("console.administer")
        else "",
        "back": f"{reverse('admin:workspaces_workspace_repair')}?{urlencode(_given(row.options))}",
    }
    return TemplateResponse(request, "console/repair_progress.html", context)


def stop_page(request: HttpRequest, site: AdminSite, repair_id: UUID) -> HttpResponse:
    """The page before a removal is stopped after the few that are under way."""
    row = get_object_or_404(Repair, pk=repair_id)
    if not request.user.has_perm("console.administer"):
        raise PermissionDenied
    found = progress(row)
    is_over = row.ended_at is not None or bool(row.stop_asked_by)

    def stop(asked: Asked) -> Told:
        stop_repair(row.pk, asked.actor)
        return Told("It stops after the few under way.")

    return confirm(
        request,
        site,
        Preview(
            title="Stop the removal",
            says=f"{found.gone} of {found.total} workspace(s) are gone. The others stay, but for a few.",
            refusal="It has ended, or is stopped already." if is_over else "",
        ),
        verb="workspaces.repair_stop",
        subject=Subject("repair", str(row.pk), "repair of leaks"),
        does=stop,
        back=_page(row.pk),
    )


def _states(row: Repair, found: Progress) -> Iterator[tuple[str, str, str]]:
    names = dict(Workspace.objects.filter(pk__in=row.workspace_ids).values_list("pk", "name"))
    left, pending = set(found.left), set(found.pending)
    for one in row.workspace_ids[:SHOWN]:
        state = "removed"
        if one in left:
            state = row.failures.get(str(one)) or ("waits" if row.ended_at is None else "not removed")
        elif one in pending:
            state = "removed, its stop is still owed"
        yield names.get(one, "—"), str(one), state


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The address of the same options."""
    flags = {name: "on" for name in ("include_live", "allow_data_loss") if options[name]}
    return flags | ({"stale_days": options["stale_days"]} if options["stale_days"] else {})


def _page(repair_id: UUID) -> str:
    return reverse("admin:workspaces_workspace_repair_progress", args=[repair_id])


def _list() -> str:
    return reverse("admin:workspaces_workspace_changelist")
