"""What the operator of an external agent needs to connect it: one builder for create, rotate and re-show.

Source: docs/reference/external-agents.md.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from workspaces.defaults import is_saas

NO_TOKEN = "<ROTATE_TO_REVEAL_TOKEN>"  # stamped when the token is not known; snippets must not persist it
_NOT_PUBLIC = {"localhost", "0.0.0.0", "host.docker.internal", "127.0.0.1", "::1"}

_CURL = """\
WORKSPACE_AUTH_TOKEN="{token}"
curl -fsS -X POST {url}/registry/register \\
  -H "Authorization: Bearer $WORKSPACE_AUTH_TOKEN" -H "Origin: {url}" -H "Content-Type: application/json" \\
  -d '{{"id":"{id}","url":"https://your-agent.example","agent_card":{{"name":"{id}"}}}}'
# Need help? {url}/health must answer {{"status":"ok"}}; a 401 means the token was rotated.
"""

_AGENT = """\
# A minimal agent that polls its inbox (Python 3.11 or newer, nothing to install, no tunnel).
export MOLECULE_WORKSPACE_TOKEN="{token}"
python -m agent connect --url {url} --workspace {id}
# Need help? The agent prints what it does; a 401 means the token was rotated.
"""


def connection_payload(*, platform_url: str, workspace_id: UUID, auth_token: str) -> dict[str, str]:
    """The payload; `auth_token` is empty on a re-show, and then no snippet holds a usable credential."""
    url = platform_url.rstrip("/")
    stamped = {"url": url, "id": str(workspace_id), "token": auth_token or NO_TOKEN}
    return {
        "workspace_id": str(workspace_id),
        "platform_url": url,
        "auth_token": auth_token,
        "registry_endpoint": f"{url}/registry/register",
        "heartbeat_endpoint": f"{url}/registry/heartbeat",
        "curl_register_template": _CURL.format(**stamped),
        "reference_agent_snippet": _AGENT.format(**stamped),
    }


def platform_url(request: HttpRequest) -> str:
    """The address external agents reach this server at: configured, else the one of the request.

    For a tenant a candidate must be public https, since the operator's token travels there.
    """
    candidates = [
        settings.EXTERNAL_PLATFORM_URL,
        f"{request.scheme}://{request.get_host()}",
        settings.PLATFORM_URL,
    ]
    if is_saas():
        candidates = [settings.EXTERNAL_PLATFORM_URL, settings.PLATFORM_URL, candidates[1]]
    usable = [url for url in candidates if url and (not is_saas() or _is_public(url))]
    return usable[0] if usable else settings.PLATFORM_URL


def _is_public(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.port is None and (parts.hostname or "") not in _NOT_PUBLIC
