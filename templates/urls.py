"""Every route of the catalogue with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess
from templates.views import CatalogueViewSet

urlpatterns = [
    path("templates", CatalogueViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
    path("org/templates", CatalogueViewSet.as_view({"get": "list"}, permission_classes=[AdminAccess])),
]
