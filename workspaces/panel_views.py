"""Routes behind the canvas's panels: agent, budget, model and provider, config, viewport, usage.

Source: docs/reference/panels.md.
"""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.credentials import Kind
from config.errors import BadRequest
from config.http import parsed
from workspaces import services
from workspaces.models import VIEWPORT_ID, CanvasViewport, TokenUsage, WorkspaceConfig
from workspaces.panel_serializers import (
    AgentInput,
    BudgetInput,
    ModelInput,
    MoveInput,
    ProviderInput,
    ViewportInput,
    agent_model,
    budget,
    config_patch,
    move_target,
    slug_problem,
    usage,
    viewport,
)
from workspaces.services.model_choice import Choice
from workspaces.services.usage import day_of
from workspaces.views import WorkspaceViewSet


class AgentViewSet(WorkspaceViewSet):
    """`/workspaces/:id/agent`."""

    def create(self, request: Request, **kwargs: Any) -> Response:
        model = agent_model(parsed(AgentInput, request))
        agent = services.assign_agent(workspace_id=self.workspace.pk, model=model)
        return Response({"agent_id": agent.pk, "model": agent.model}, status=201)

    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        model = agent_model(parsed(AgentInput, request))
        agent, old_model = services.replace_agent(workspace_id=self.workspace.pk, model=model)
        return Response({"agent_id": agent.pk, "model": agent.model, "old_model": old_model})

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        agent = services.remove_agent(workspace_id=self.workspace.pk)
        return Response({"status": "removed", "agent_id": agent.pk})

    def move(self, request: Request, **kwargs: Any) -> Response:
        target_id = move_target(parsed(MoveInput, request))
        agent = services.move_agent(source_id=self.workspace.pk, target_id=target_id)
        return Response(
            {
                "agent_id": agent.pk,
                "model": agent.model,
                "from_workspace": self.workspace.pk,
                "to_workspace": target_id,
            }
        )


class BudgetViewSet(WorkspaceViewSet):
    """`/workspaces/:id/budget`."""

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        return Response(budget(self.workspace, now=timezone.now()))

    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        limit = parsed(BudgetInput, request)["budget_limit"]
        row = services.set_budget(workspace_id=self.workspace.pk, limit=limit)
        return Response(budget(row, now=timezone.now()))


class ChoiceViewSet(WorkspaceViewSet):
    """`/workspaces/:id/model` and `/provider`: the same, about another secret."""

    choice = Choice.MODEL
    body: type[serializers.Serializer[Any]] = ModelInput

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        value = services.chosen(self.workspace.pk, self.choice)
        return Response({self.choice.word: value, "source": "workspace_secrets" if value else "default"})

    def update(self, request: Request, **kwargs: Any) -> Response:
        value = parsed(self.body, request)[self.choice.word].strip()
        if text := slug_problem(value, self.choice.word):
            raise BadRequest(text)
        services.choose(
            workspace_id=self.workspace.pk,
            choice=self.choice,
            value=value,
            by_its_agent=principal_of(request).kind == Kind.WORKSPACE,
        )
        return Response({"status": "saved", self.choice.word: value} if value else {"status": "cleared"})


class ProviderViewSet(ChoiceViewSet):
    choice = Choice.PROVIDER
    body = ProviderInput


class ConfigViewSet(WorkspaceViewSet):
    """`/workspaces/:id/config`."""

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        row = WorkspaceConfig.objects.filter(pk=self.workspace.pk).first()
        return Response({"data": row.data if row else {}})

    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        patch = config_patch(lambda: request._request.body)
        services.merge_config(workspace_id=self.workspace.pk, patch=patch)
        return Response({"status": "updated"})


class UsageViewSet(WorkspaceViewSet):
    """`/workspaces/:id/metrics`."""

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        now = timezone.now()
        row = TokenUsage.objects.filter(workspace_id=self.workspace.pk, period_start=day_of(now)).first()
        return Response(usage(row, now=now))


class ViewportViewSet(ViewSet):
    """`/canvas/viewport`."""

    def retrieve(self, request: Request) -> Response:
        return Response(viewport(CanvasViewport.objects.filter(pk=VIEWPORT_ID).first()))

    def update(self, request: Request) -> Response:
        services.save_viewport(**parsed(ViewportInput, request))
        return Response({"status": "saved"})
