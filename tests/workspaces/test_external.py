"""Connecting external agents: the connection payload, its rotation, and showing it again."""

from __future__ import annotations

import ipaddress
import json
import tomllib
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection
from django.test import Client

from access.models import WorkspaceAuthToken
from activity.models import StructureEvent
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.connection import NO_TOKEN, SNIPPETS, connection_payload
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import crud, external
from workspaces.slugs import server_name

pytestmark = pytest.mark.django_db

KEYS = {
    "workspace_id", "platform_url", "auth_token", "registry_endpoint", "heartbeat_endpoint",
    "curl_register_template", "python_snippet", "claude_code_channel_snippet", "universal_mcp_snippet",
    "hermes_channel_snippet", "codex_snippet", "openclaw_snippet",
}  # fmt: skip
# What stands before the token in each snippet: the canvas looks for these.
TOKEN_SITES = {
    "curl_register_template": ['WORKSPACE_AUTH_TOKEN="{}"'],
    "python_snippet": ['AUTH_TOKEN    = "{}"'],
    "claude_code_channel_snippet": ["MOLECULE_WORKSPACE_TOKENS={}\n"],
    "universal_mcp_snippet": ['MOLECULE_WORKSPACE_TOKEN="{}"'],
    "hermes_channel_snippet": ['MOLECULE_WORKSPACE_TOKEN="{}"'],
    "codex_snippet": ['MOLECULE_WORKSPACE_TOKEN = "{}"', 'MOLECULE_WORKSPACE_TOKEN="{}"'],
    "openclaw_snippet": ['WORKSPACE_TOKEN="{}"'],
}
ROTATE, SHOW = "/workspaces/{}/external/rotate", "/workspaces/{}/external/connection"


def created(**body: Any) -> dict[str, Any]:
    return admin().post("/workspaces", {"name": "Ada", "runtime": "external", **body}).json()


def external_row(**fields: Any) -> Workspace:
    return WorkspaceFactory(runtime=EXTERNAL, **fields)


def rotate(row: Workspace, api: Api | None = None) -> Any:
    return (api or admin()).post(ROTATE.format(row.pk))


def show(row: Workspace, api: Api | None = None) -> Any:
    return (api or admin()).get(SHOW.format(row.pk))


def beat(token: str, row_id: Any) -> int:
    return Api(token).post("/registry/heartbeat", {"workspace_id": str(row_id)}).status_code


# --- The payload


def test_create_rotate_and_show_give_the_same_twelve_keys():
    body = created()
    row = Workspace.objects.get(pk=body["id"])
    shown = [body["connection"], rotate(row).json()["connection"], show(row).json()["connection"]]
    assert [set(one) for one in shown] == [KEYS] * 3


def test_the_token_of_a_creation_works_and_is_not_shown_again():
    body = created()
    assert beat(body["connection"]["auth_token"], body["id"]) == 200
    assert show(Workspace.objects.get(pk=body["id"])).json()["connection"]["auth_token"] == ""


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_token_site_carries_the_token(name):
    text = created()["connection"]
    for site in TOKEN_SITES[name]:
        assert site.format(text["auth_token"]) in text[name]
    assert "<paste" not in text[name]
    assert NO_TOKEN not in text[name]


@pytest.mark.parametrize("name", SNIPPETS)
def test_shown_again_every_token_site_carries_the_marker(name):
    text = show(external_row()).json()["connection"][name]
    for site in TOKEN_SITES[name]:
        assert site.format(NO_TOKEN) in text
        assert site.format("") not in text


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_are_filled_in_and_end_with_help(name):
    payload = created()["connection"]
    text = payload[name]
    assert "{{" not in text
    assert "}}" not in text.replace('"}}', "")  # the end of a JSON object
    assert payload["platform_url"] in text
    assert payload["workspace_id"] in text
    assert "MOLECULE_ORG_ID" not in text
    assert "org id" not in text.lower()
    assert "# Need help?" in text.split("\n)\n")[-1]


def test_mcp_clients_start_the_wrapper_and_never_the_bare_server():
    payload = created()["connection"]
    for name in ("universal_mcp_snippet", "codex_snippet", "openclaw_snippet"):
        assert "molecule-mcp" in payload[name]
        assert "a2a_mcp_server" not in payload[name]
    assert "@openai/codex@latest" in payload["codex_snippet"]
    assert "^0.57" not in payload["codex_snippet"]


def test_the_configurations_in_snippets_parse():
    payload = created(name="Büro: Ada + Bob")["connection"]
    token, server = payload["auth_token"], "molecule-buro-ada-bob"
    toml = payload["codex_snippet"].split("<<'TOML'\n")[1].split("\nTOML\n")[0]
    config = tomllib.loads(toml)["mcp_servers"][server]
    assert config["command"] == "molecule-mcp"
    assert config["env"]["MOLECULE_WORKSPACE_TOKEN"] == token
    raw = payload["openclaw_snippet"].split("<<JSON\n")[1].split("\nJSON\n")[0]
    assert json.loads(raw)["command"] == "molecule-mcp"
    compile(payload["python_snippet"], "snippet", "exec")


def test_two_workspaces_have_two_server_names():
    one, two = uuid4(), uuid4()
    assert server_name("Ada", one) == "molecule-ada"
    assert server_name("Support – Tier 2!", one) == "molecule-support-tier-2"
    assert server_name("x" * 40, one) == "molecule-" + "x" * 24
    assert server_name("a" * 23 + " b", one) == "molecule-" + "a" * 23
    assert server_name("日本", one) == f"molecule-{str(one)[:8]}"
    assert server_name("日本", one) != server_name("日本", two)


def test_a_marker_in_a_value_is_not_filled_in():
    payload = connection_payload(
        platform_url="https://x/{{AUTH_TOKEN}}",
        workspace_id=uuid4(),
        workspace_name="a",
        auth_token="secret-token",
    )
    assert payload["registry_endpoint"] == "https://x/{{AUTH_TOKEN}}/registry/register"
    assert "https://x/secret-token" not in payload["curl_register_template"]


# --- The address


def test_the_configured_address_wins_and_loses_its_slash(settings):
    settings.EXTERNAL_PLATFORM_URL = "https://agents.example.com/"
    payload = show(external_row()).json()["connection"]
    assert payload["platform_url"] == "https://agents.example.com"
    assert payload["heartbeat_endpoint"] == "https://agents.example.com/registry/heartbeat"
    assert all("com//" not in text for text in payload.values())


def asked_from(peer: str, **headers: str) -> str:
    client = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}", REMOTE_ADDR=peer, **headers)
    return str(client.get(SHOW.format(external_row().pk)).json()["connection"]["platform_url"])


def test_otherwise_it_is_the_address_the_client_used(settings):
    settings.EXTERNAL_PLATFORM_URL = ""
    settings.TRUSTED_PROXIES = []
    assert asked_from("192.0.2.7", HTTP_HOST="10.1.2.3:8080") == "http://10.1.2.3:8080"


def test_only_a_trusted_proxy_may_say_what_the_client_used(settings):
    settings.EXTERNAL_PLATFORM_URL = ""
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("10.0.0.0/8")]
    forwarded = {
        "HTTP_HOST": "inner:8000",
        "HTTP_X_FORWARDED_HOST": "ws.example.com",
        "HTTP_X_FORWARDED_PROTO": "https",
    }
    assert asked_from("10.0.0.9", **forwarded) == "https://ws.example.com"
    assert asked_from("192.0.2.7", **forwarded) == "http://inner:8000"
    forged = {**forwarded, "HTTP_X_FORWARDED_HOST": 'evil";rm -rf /', "HTTP_X_FORWARDED_PROTO": "gopher"}
    assert asked_from("10.0.0.9", **forged) == "http://inner:8000"


def test_a_host_that_may_not_be_used_is_not_given_to_agents(settings):
    settings.EXTERNAL_PLATFORM_URL = ""
    settings.ALLOWED_HOSTS = ["good.example.com"]
    settings.PLATFORM_URL = "http://platform:8080"
    assert asked_from("192.0.2.7", HTTP_HOST="evil.example.com") == "http://platform:8080"
    assert asked_from("192.0.2.7", HTTP_HOST="good.example.com") == "http://good.example.com"


@pytest.mark.parametrize(
    ("external_url", "platform", "host", "expected"),
    [
        ("https://a.example.com", "https://b.example.com", "c.example.com", "https://a.example.com"),
        ("http://a.example.com", "https://b.example.com", "c.example.com", "https://b.example.com"),
        ("https://a.example.com:8443", "https://b.example.com", "c.example.com", "https://b.example.com"),
        ("", "http://host.docker.internal:8080", "c.example.com", "https://c.example.com"),
        ("", "https://host.docker.internal", "c.example.com", "https://c.example.com"),
        ("https://localhost", "https://127.0.0.2", "c.example.com", "https://c.example.com"),
        ("https://0.0.0.0", "https://[::1]", "c.example.com", "https://c.example.com"),
    ],
)
def test_a_tenants_agents_are_given_public_https(settings, external_url, platform, host, expected):
    settings.MOLECULE_DEPLOY_MODE = "saas"
    settings.EXTERNAL_PLATFORM_URL, settings.PLATFORM_URL = external_url, platform
    client = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}", HTTP_HOST=host)
    body = client.get(SHOW.format(external_row().pk), secure=True).json()
    assert body["connection"]["platform_url"] == expected


# --- Rotate


def test_rotating_ends_the_old_token_at_once():
    old = created()["connection"]["auth_token"]
    row = Workspace.objects.get()
    assert beat(old, row.pk) == 200
    answer = rotate(row)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    fresh = answer.json()["connection"]["auth_token"]
    assert (beat(old, row.pk), beat(fresh, row.pk)) == (401, 200)
    assert WorkspaceAuthToken.objects.live().filter(workspace=row).count() == 1
    event = StructureEvent.objects.get(event_type="EXTERNAL_CREDENTIALS_ROTATED")
    assert (event.workspace_id, event.payload) == (row.pk, {"workspace_id": str(row.pk)})


def test_an_agent_may_rotate_its_own_credential_only():
    row = external_row()
    assert rotate(row, anonymous()).json() == {"error": "missing workspace auth token"}
    assert rotate(row, agent_of(external_row().pk)).status_code == 401
    assert rotate(row, agent_of(row.pk)).status_code == 200


def test_refusals_of_both_routes_and_none_of_them_touches_a_token():
    managed = WorkspaceFactory(runtime="langgraph")
    agent = agent_of(managed.pk)
    hint = "use POST /workspaces/:id/restart for non-external runtimes"
    refused = rotate(managed)
    assert (refused.status_code, refused.json()) == (400, {
        "error": "rotate is only valid for runtime=external workspaces", "runtime": "langgraph", "hint": hint,
    })  # fmt: skip
    refused = show(managed)
    assert (refused.status_code, refused.json()) == (400, {
        "error": "connection payload is only valid for runtime=external workspaces",
        "runtime": "langgraph", "hint": hint,
    })  # fmt: skip
    gone = external_row(status=Status.REMOVED)
    for path in (ROTATE, SHOW):
        call = admin().post if path == ROTATE else admin().get
        assert call(path.format(uuid4())).json() == {"error": "workspace not found"}
        assert call(path.format(gone.pk)).status_code == 410
        assert call(path.format("global")).json() == {"error": "invalid workspace ID"}
    assert agent.post("/registry/heartbeat", {"workspace_id": str(managed.pk)}).status_code == 200
    assert not StructureEvent.objects.filter(event_type="EXTERNAL_CREDENTIALS_ROTATED").exists()


def test_showing_the_connection_mints_and_revokes_nothing():
    row = external_row()
    agent = agent_of(row.pk)
    before = list(WorkspaceAuthToken.objects.values_list("pk", "revoked_at"))
    answer = show(row, agent)
    assert answer.headers["Cache-Control"] == "no-store"
    assert list(WorkspaceAuthToken.objects.values_list("pk", "revoked_at")) == before


@pytest.mark.django_db(transaction=True)
def test_twenty_rotations_at_once_leave_one_live_token():
    row = external_row()
    answers = at_once(*[lambda: rotate(row)] * 20)
    assert {answer.status_code for answer in answers} == {200}
    assert WorkspaceAuthToken.objects.filter(workspace=row).count() == 20
    live = WorkspaceAuthToken.objects.live().get(workspace=row)
    tokens = [answer.json()["connection"]["auth_token"] for answer in answers]
    assert [token for token in tokens if beat(token, row.pk) == 200] == [
        token for token in tokens if token.startswith(live.prefix)
    ]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("broken", "text"), [("revoke_tokens", "revoke failed"), ("mint_token", "mint failed")]
)
def test_a_rotation_that_fails_leaves_the_old_token(monkeypatch, broken, text):
    row = external_row()
    token = rotate(row).json()["connection"]["auth_token"]

    def fail(**given: Any) -> None:
        raise DatabaseError("relation is on fire")

    monkeypatch.setattr(external, broken, fail)
    answer = rotate(row)
    assert (answer.status_code, answer.json()) == (500, {"error": text})
    assert beat(token, row.pk) == 200


@pytest.mark.django_db(transaction=True)
def test_a_lookup_that_fails_says_so():
    row = external_row()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE workspaces RENAME COLUMN role TO elsewhere")
    try:
        assert rotate(row).json() == {"error": "lookup failed"}
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE workspaces RENAME COLUMN elsewhere TO role")


# --- Creation


def test_a_creation_without_a_token_still_succeeds_and_rotating_heals_it(monkeypatch, caplog):
    def fail(**given: Any) -> None:
        raise DatabaseError("no")

    monkeypatch.setattr(crud, "mint_token", fail)
    body = created()
    assert body["connection"]["auth_token"] == ""
    assert NO_TOKEN in body["connection"]["codex_snippet"]
    row = Workspace.objects.get(pk=body["id"])
    assert row.status == Status.AWAITING_AGENT
    assert "/external/rotate" in caplog.text
    assert beat(rotate(row).json()["connection"]["auth_token"], row.pk) == 200
