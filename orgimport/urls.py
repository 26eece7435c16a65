"""Routes of this room, each with its methods and its auth class."""

from __future__ import annotations

from django.urls import path

from access.permissions import AdminAccess
from orgimport.views import OrgCatalogueViewSet, OrgImportViewSet

urlpatterns = [
    path("org/templates", OrgCatalogueViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path("org/import", OrgImportViewSet.as_view({"post": "create"}, permission_classes=[AdminAccess])),
]
