"""Plugins for the canvas's Skills tab and for agents. Source: docs/reference/templates.md, Plugins."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from config.errors import NotFound
from config.fields import Text
from config.http import parsed
from provisioning.file_views import told
from provisioning.services import plugins
from templates.plugins import SCHEME, installable, packed
from workspaces.views import WorkspaceViewSet


class SourceInput(serializers.Serializer[Any]):
    """`POST /workspaces/:id/plugins`."""

    error_text = "source is required"
    source = Text()  # type: ignore[assignment]  # the framework's own attribute of this name is for nested ones


class PluginCatalogueViewSet(ViewSet):
    """`/plugins`."""

    def list(self, request: Request) -> Response:
        runtime = request.query_params.get("runtime")
        return Response([one.shown() for one in installable() if not runtime or one.supports(runtime)])

    def sources(self, request: Request) -> Response:
        return Response({"schemes": [SCHEME]})


class PluginViewSet(WorkspaceViewSet):
    """`/workspaces/:id/plugins`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        return Response(self._installed(self.workspace.runtime))

    def available(self, request: Request, **kwargs: Any) -> Response:
        return Response([one.shown() for one in installable() if one.supports(self.workspace.runtime)])

    def compatibility(self, request: Request, **kwargs: Any) -> Response:
        """Of what is installed, what another runtime would support."""
        return Response(self._installed(request.query_params.get("runtime") or self.workspace.runtime))

    def create(self, request: Request, **kwargs: Any) -> Response:
        source = parsed(SourceInput, request)["source"]
        with told("write"):
            name = plugins.install(self.workspace, source, actor=principal_of(request).actor)
        return Response({"status": "installed", "plugin": name})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        name = str(kwargs["name"])
        with told("delete"):
            plugins.uninstall(self.workspace, name, actor=principal_of(request).actor)
        return Response({"status": "uninstalled", "plugin": name})

    def download(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The installable folder, for agents that unpack it themselves."""
        name = str(kwargs["name"])
        folder = plugins.folder_of(request.query_params.get("source") or f"{SCHEME}://{name}")
        if folder.name != name:
            raise NotFound("plugin not found")
        headers = {"Content-Disposition": f'attachment; filename="{name}.tar.gz"'}
        return HttpResponse(packed(folder), content_type="application/gzip", headers=headers)

    def _installed(self, runtime: str) -> Any:
        with told("list"):
            found = plugins.installed(self.workspace)
        return [{**one.shown(), "supported_on_runtime": one.supports(runtime)} for one in found]
