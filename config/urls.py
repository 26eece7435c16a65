"""The URL table: every room's routes in one list. Static segments come before parameters."""

from django.contrib import admin
from django.urls import include, path

from activity.urls import websocket_urlpatterns as activity_sockets
from provisioning.urls import websocket_urlpatterns as terminal_sockets

urlpatterns = [
    path("", include("access.urls")),
    path("", include("activity.urls")),
    path("", include("approvals.urls")),
    path("", include("provisioning.urls")),
    path("", include("orgimport.urls")),
    path("", include("templates.urls")),
    path("", include("uploads.urls")),
    path("", include("memory.urls")),
    path("", include("a2a.urls")),
    path("", include("delegations.urls")),
    path("", include("chat_channels.urls")),
    path("", include("schedules.urls")),
    path("", include("workspaces.urls")),
    path("console/", admin.site.urls),
]
websocket_urlpatterns = [*activity_sockets, *terminal_sockets]

handler400 = "config.http.bad_request"
handler403 = "config.http.forbidden"
handler404 = "access.proxies.unmatched"
handler500 = "config.http.server_error"
