"""Every route of the catalogue with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess
from templates.views import CatalogueViewSet

_ADMIN = {"permission_classes": [AdminAccess]}

urlpatterns = [
    path("templates", CatalogueViewSet.as_view({"get": "list"}, **_ADMIN)),
    path("templates/import", CatalogueViewSet.as_view({"post": "create"}, **_ADMIN)),
]
