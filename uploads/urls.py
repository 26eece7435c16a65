"""Every route of the uploads; each view says its methods and judges its caller (class Workspace)."""

from django.urls import path

from uploads import views

urlpatterns = [
    path("uploads/limits", views.limits),
    path("workspaces/<workspace_id>/chat/uploads", views.upload),
    path("workspaces/<workspace_id>/chat/download", views.download),
    path("workspaces/<workspace_id>/pending-uploads", views.pending),
    path("workspaces/<workspace_id>/pending-uploads/<file_id>/content", views.content),
    path("workspaces/<workspace_id>/pending-uploads/<file_id>/ack", views.ack),
]
