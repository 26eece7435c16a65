"""What holds for every page of the console: few queries, nothing to change by accident, no internet."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django.urls import reverse

from config.admin import ReadOnlyAdmin
from tests.console.conftest import few_queries, login, text_of
from tests.delegations.factories import delegated
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db

PAGES = [model for model in admin.site._registry if model._meta.app_label != "auth"]


def url(model: Any, page: str) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}")


@pytest.mark.parametrize("model", PAGES, ids=lambda model: model.__name__)
def test_every_list_is_read_only_and_asks_little(model: Any):
    row = WorkspaceFactory()
    delegated()
    page = admin.site._registry[model]
    assert isinstance(page, ReadOnlyAdmin)
    browser = login("viewer")
    with few_queries():
        text_of(browser.get(url(model, "changelist")))
    with few_queries():
        text_of(browser.get(url(model, "changelist"), {"q": str(row.pk)}))
    assert browser.get(url(model, "add")).status_code == 403
    assert "delete_selected" not in text_of(browser.get(url(model, "changelist")))


def test_pages_are_whole_without_the_internet():
    row = WorkspaceFactory()
    delegation = delegated()
    browser = login("administrator")
    paths = [
        "/console/",
        "/console/workspaces/workspace/",
        f"/console/workspaces/workspace/{row.pk}/change/",
        f"/console/workspaces/workspace/{row.pk}/act/pause/",
        "/console/workspaces/workspace/repair/",
        f"/console/delegations/delegation/{delegation.pk}/change/",
    ]
    for path in paths:
        loaded = re.findall(r'(?:src|href)="((?:https?:)?//[^"]+)"', text_of(browser.get(path)))
        assert loaded == [], path
