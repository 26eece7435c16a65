"""Requests of the canvas that is served behind this server's own address (`CANVAS_PROXY_URL`).

Anyone can forge what is looked at here. It routes, and it admits to one cosmetic route; it is no credential.
Source: docs/reference/access.md, Same-origin canvas.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings


def is_same_origin_canvas(headers: Mapping[str, str]) -> bool:
    """Whether a canvas is proxied and the browser names this host as the page that called.

    `headers` in the spelling of WSGI: a request's `META`.
    """
    host = headers.get("HTTP_HOST")
    if not settings.CANVAS_PROXY_URL or not host:
        return False
    own = (f"http://{host}", f"https://{host}")
    referer, origin = headers.get("HTTP_REFERER", ""), headers.get("HTTP_ORIGIN", "")
    return referer.startswith(tuple(f"{one}/" for one in own)) or referer in own or origin in own
