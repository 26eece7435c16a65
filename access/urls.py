"""Every route of this room with its methods and its auth class."""

from django.urls import path

from access.permissions import AdminAccess, WorkspaceAccess, WorkspaceOwn, by_method
from access.proxies import control_plane
from access.views import (
    GlobalSecretViewSet,
    OrgTokenViewSet,
    SecretCheckViewSet,
    SecretViewSet,
    TokenViewSet,
    bootstrap_token,
)

_WORKSPACE = {"permission_classes": [WorkspaceAccess]}
_ADMIN = {"permission_classes": [AdminAccess]}

urlpatterns = [
    path(
        "workspaces/<workspace_id>/tokens",
        TokenViewSet.as_view({"get": "list", "post": "create"}, **_WORKSPACE),
    ),
    path(
        "workspaces/<workspace_id>/tokens/<token_id>",
        TokenViewSet.as_view({"delete": "destroy"}, **_WORKSPACE),
    ),
    path("admin/workspaces/<workspace_id>/tokens", TokenViewSet.as_view({"post": "create"}, **_ADMIN)),
    # Judges the credential itself: switched off, it is a route that does not exist.
    path("admin/workspaces/<workspace_id>/test-token", bootstrap_token),
    path("org/tokens", OrgTokenViewSet.as_view({"get": "list", "post": "create"}, **_ADMIN)),
    path("org/tokens/<token_id>", OrgTokenViewSet.as_view({"delete": "destroy"}, **_ADMIN)),
    path(
        "workspaces/<workspace_id>/secrets",
        SecretViewSet.as_view({"get": "list", "post": "save", "put": "save"}, **_WORKSPACE),
    ),
    # A secret may be called `values`; reading is all of them, deleting is that one.
    path(
        "workspaces/<workspace_id>/secrets/values",
        SecretViewSet.as_view(
            {"get": "values", "delete": "destroy"},
            permission_classes=[by_method(GET=WorkspaceOwn, DELETE=WorkspaceAccess)],
        ),
        {"key": "values"},
    ),
    path(
        "workspaces/<workspace_id>/secrets/<key>", SecretViewSet.as_view({"delete": "destroy"}, **_WORKSPACE)
    ),
    path(
        "workspaces/<workspace_id>/secrets/<key>/dependents",
        SecretViewSet.as_view({"get": "dependents"}, **_WORKSPACE),
    ),
    path(
        "settings/secrets",
        GlobalSecretViewSet.as_view({"get": "list", "post": "save", "put": "save"}, **_ADMIN),
    ),
    path("settings/secrets/<key>", GlobalSecretViewSet.as_view({"delete": "destroy"}, **_ADMIN)),
    path("settings/secrets/<key>/dependents", GlobalSecretViewSet.as_view({"get": "dependents"}, **_ADMIN)),
    path("admin/secrets", GlobalSecretViewSet.as_view({"get": "list", "post": "save"}, **_ADMIN)),
    path("admin/secrets/<key>", GlobalSecretViewSet.as_view({"delete": "destroy"}, **_ADMIN)),
    path("secrets/validate", SecretCheckViewSet.as_view({"post": "create"}, **_ADMIN)),
    # Public: the control plane judges the credentials.
    path("cp/<path:path>", control_plane),
]
