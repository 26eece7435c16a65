"""Repair of leaks as a page: copies and idle leftovers, what stays and why, what goes, and the removal.

Source: docs/reference/console.md, Repair of leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib.admin.sites import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldBooleanSwitchWidget

from config.errors import DomainError
from console.confirmation import Preview, Subject, confirm
from console.models import Outcome
from console.object_pages import age, short
from console.services.audit import Told
from provisioning.duplicate_rules import CleanupPlan, Member, Options, Verdict, verdicts
from provisioning.services import duplicates
from provisioning.services.duplicates import DEFAULT_MAX, clean_up_duplicates, plan_cleanup

BUDGET_S = 50.0  # of one removal: the proxy in front waits longer; what is left is removed by the next one
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

    def remove(asked: Any) -> Told:
        assert found.plan is not None
        return _removed(options, found.plan.fingerprint, actor=asked.actor)

    return confirm(
        request,
        site,
        preview,
        verb="workspaces.repair",
        subject=Subject("plan", found.plan.fingerprint if found.plan else "", "repair of leaks"),
        does=remove,
        back=request.get_full_path() if request.method == "POST" else _list(),
        template="console/repair.html",
        shown_besides={"options_form": form, "plan_hash": found.plan.fingerprint if found.plan else ""},
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
    goes = min(len(plan.removable), DEFAULT_MAX)
    vcpus = sum(member.facts.vcpus for member in plan.removable)
    rows = list(_rows(plan))
    says = (
        f"{len(plan.groups)} group(s) of copies: {counted[Verdict.REMOVE]} to remove ({vcpus:g} vCPU), "
        f"{counted[Verdict.BLOCKED]} blocked, {counted[Verdict.KEEP]} kept. "
        f"At most {DEFAULT_MAX} are removed at a time; then the next plan is shown."
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


def _removed(options: Options, fingerprint: str, *, actor: str) -> Told:
    done = clean_up_duplicates(
        options, fingerprint=fingerprint, limit=DEFAULT_MAX, actor=f"console:{actor}", budget_s=BUDGET_S
    )
    return Told(_told(done), Outcome.PARTLY if done.failures or done.pending else Outcome.DONE)


def _told(done: duplicates.Outcome) -> str:
    parts = [f"{len(done.removed)} removed, {done.freed_vcpus:g} vCPU freed, {done.remaining} remain."]
    if done.failures:
        named = ", ".join(f"{one['workspace_id']} ({one['error']})" for one in done.failures)
        parts.append(f"Not removed: {named}.")
    if done.pending:
        parts.append(f"Their stop is still owed: {', '.join(map(str, done.pending))}.")
    if done.leftovers is None:
        parts.append("What still runs could not be listed; look again later.")
    elif done.leftovers:
        parts.append(f"Still running: {', '.join(done.leftovers)}.")
    if done.removed:
        parts.append(f"Removed: {', '.join(map(str, done.removed))}.")
    return " ".join(parts)


def _list() -> str:
    return reverse("admin:workspaces_workspace_changelist")
