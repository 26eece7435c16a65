"""Every route of the catalogue with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, OrgAccess
from templates.views import AllowlistViewSet, CatalogueViewSet

_ADMIN = {"permission_classes": [AdminAccess]}

urlpatterns = [
    path("templates", CatalogueViewSet.as_view({"get": "list"}, **_ADMIN)),
    path("templates/import", CatalogueViewSet.as_view({"post": "create"}, **_ADMIN)),
    path(
        "orgs/<org_id>/plugins/allowlist",
        AllowlistViewSet.as_view({"get": "list", "put": "replace"}, permission_classes=[OrgAccess]),
    ),
]
