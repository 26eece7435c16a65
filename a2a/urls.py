"""Routes of messages between agents."""

from django.urls import path

from a2a.views import send

urlpatterns = [path("workspaces/<workspace_id>/a2a", send)]
