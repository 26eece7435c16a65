"""The page between a button and its effect: what would be touched, a typed word, a reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from access.authentication import address_of
from config.errors import BadRequest
from console.models import Outcome
from console.services.audit import REASON_CHARS, Asked, Told, act

CHANGED = "What would be touched has changed since the page was shown. Look again."
_LEVELS = {
    Outcome.STARTED: messages.INFO,
    Outcome.DONE: messages.SUCCESS,
    Outcome.PARTLY: messages.WARNING,
    Outcome.REFUSED: messages.WARNING,
    Outcome.FAILED: messages.ERROR,
}


@dataclass(frozen=True)
class Preview:
    """`word`, if any, has to be typed; `refusal` says why there is nothing to confirm; `seen` names what is
    shown.
    """

    title: str
    says: str
    word: str = ""
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    seen: str = ""
    refusal: str = ""
    is_dangerous: bool = False


@dataclass(frozen=True)
class Subject:
    """What the record of the action is about."""

    kind: str
    id: str
    name: str


class ConfirmForm(forms.Form):
    reason = forms.CharField(max_length=REASON_CHARS, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))
    typed = forms.CharField(widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}), required=False)
    seen = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, preview: Preview, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._preview = preview
        if preview.word:
            self.fields["typed"].label = f"Type {preview.word} to confirm"
        else:
            del self.fields["typed"]

    def clean_typed(self) -> str:
        if self.cleaned_data["typed"].split() != self._preview.word.split():  # as a page shows blanks
            raise forms.ValidationError(f"Type exactly: {self._preview.word}")
        return str(self.cleaned_data["typed"])

    def clean_seen(self) -> str:
        if self.cleaned_data["seen"] != self._preview.seen:
            raise forms.ValidationError(CHANGED)
        return self._preview.seen


def confirm(
    request: HttpRequest,
    site: AdminSite,
    preview: Preview,
    *,
    verb: str,
    subject: Subject,
    does: Callable[[Asked], Told],
    back: str,
    template: str = "console/confirm.html",
    shown_besides: Mapping[str, Any] | None = None,
) -> HttpResponse:
    """The page; on a POST that confirms what is shown, the effect and the way back."""
    form = ConfirmForm(request.POST or None, preview=preview, initial={"seen": preview.seen})
    if request.method == "POST" and not preview.refusal and form.is_valid():
        asked = Asked(
            actor=request.user.get_username(),
            verb=verb,
            object_kind=subject.kind,
            object_id=subject.id,
            object_name=subject.name,
            reason=form.cleaned_data["reason"],
            client_address=address_of(request),
        )
        try:
            told = act(asked, lambda: does(asked))
        except BadRequest as error:
            told = Told(error.text, Outcome.REFUSED)
        messages.add_message(request, _LEVELS[told.outcome], told.text)
        return HttpResponseRedirect(told.page or back)
    if form.is_bound and "seen" in form.errors:  # the new page is what the next POST confirms
        messages.error(request, CHANGED)
        form = ConfirmForm(
            initial={"seen": preview.seen, "reason": request.POST.get("reason", "")}, preview=preview
        )
    context = {
        **site.each_context(request),
        "title": preview.title,
        "preview": preview,
        "table": {"headers": preview.headers, "rows": preview.rows},
        "form": form,
        "back": back,
        **(shown_besides or {}),
    }
    return TemplateResponse(request, template, context)


def digest(parts: Iterable[Any]) -> str:
    """A short name of exactly these things."""
    return hashlib.sha256("\n".join(sorted(str(one) for one in parts)).encode()).hexdigest()[:16]
