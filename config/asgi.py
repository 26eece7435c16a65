"""ASGI entry point: the realtime process (sockets, streams, long-held requests)."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (the apps must be ready first)

from activity.lifespan import lifespan  # noqa: E402
from config.limits import BoundedBody  # noqa: E402
from config.urls import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {"http": BoundedBody(http), "websocket": URLRouter(websocket_urlpatterns), "lifespan": lifespan}  # type: ignore[arg-type]
)
