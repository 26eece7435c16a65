"""Routes of this room, each with its methods and its auth class."""

from __future__ import annotations

from django.urls import path

from access.permissions import AdminAccess
from orgimport.bundle_views import BundleViewSet
from orgimport.views import OrgCatalogueViewSet, OrgImportViewSet

urlpatterns = [
    path("org/templates", OrgCatalogueViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path("org/import", OrgImportViewSet.as_view({"post": "create"}, permission_classes=[AdminAccess])),
    path(
        "bundles/export/<workspace_id>",
        BundleViewSet.as_view({"get": "export"}, permission_classes=[AdminAccess]),
    ),
    path("bundles/import", BundleViewSet.as_view({"post": "create"}, permission_classes=[AdminAccess])),
]
