"""Routes of tokens and secrets. A secret's name goes to who is in charge, its value to the workspace only.

Source: docs/reference/access.md, Tokens and Secrets.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access import services
from access.authentication import address_of, principal_of, resolved
from access.client_address import is_local
from access.credentials import Kind, hatch_is_open
from access.models import GlobalSecret, OrgApiToken, TokenKind, WorkspaceAuthToken, WorkspaceSecret
from access.rate_limits import ORG_TOKEN_MINTS, bucket
from access.serializers import OrgTokenInput, SecretInput, org_token, secret_names, workspace_token
from access.services import Change, SecretUnreadable
from access.windows import spend
from config.errors import Internal, NotFound, NotImplementedHere, Unauthorized
from config.http import json_response, only, parsed, workspace_uuid
from config.posture import is_production
from provisioning import services as provisioning
from workspaces.models import Workspace
from workspaces.views import WorkspaceViewSet

NO_STORE = {"Cache-Control": "no-store"}
SHOWN_ONCE = "Save this token now: it is shown only once."
ORG_TOKENS_SHOWN = 500
USER_AGENT_CHARS = 500
TOKEN_GONE = "token not found or already revoked"


class TokenViewSet(WorkspaceViewSet):
    """`/workspaces/:id/tokens`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        limit = _number(request, "limit", lowest=1, highest=200, default=50)
        offset = _number(request, "offset", lowest=0, highest=1_000_000, default=0)
        rows = WorkspaceAuthToken.objects.live().filter(workspace_id=self.workspace.pk)
        page = rows.order_by("-created_at", "-pk")[offset : offset + limit]
        tokens = [workspace_token(row) for row in page]
        return Response({"tokens": tokens, "count": len(tokens)})

    def create(self, request: Request, **kwargs: Any) -> Response:
        _ = request.data  # an empty body is fine, a broken one is refused before anything is minted
        token = services.mint_api_token(workspace_id=self.workspace.pk)
        body = {"auth_token": token, "workspace_id": self.workspace.pk, "message": SHOWN_ONCE}
        return Response(body, status=201, headers=NO_STORE)

    def destroy(self, request: Request, token_id: str, **kwargs: Any) -> Response:
        services.revoke_token(workspace_id=self.workspace.pk, token_id=_token_uuid(token_id))
        return Response({"status": "revoked"})


class OrgTokenViewSet(ViewSet):
    """`/org/tokens`. A caller that is bound to an org sees and revokes the tokens of that org."""

    def list(self, request: Request) -> Response:
        rows = OrgApiToken.objects.live(timezone.now()).order_by("-created_at", "-pk")
        if org_id := principal_of(request).org_id:
            rows = rows.filter(org_id=org_id)
        tokens = [org_token(row) for row in rows[:ORG_TOKENS_SHOWN]]
        return Response({"tokens": tokens, "count": len(tokens)})

    def create(self, request: Request) -> Response:
        address = address_of(request._request)
        spend(ORG_TOKEN_MINTS, f"{bucket(principal_of(request), address)}:{address}")
        minted = services.mint_org_token(caller=_caller(request), **parsed(OrgTokenInput, request))
        shown = org_token(minted.row)
        kept = ("id", "prefix", "name", "expires_at")
        body: dict[str, Any] = {key: shown[key] for key in kept if key in shown}
        body |= {"auth_token": minted.plaintext, "warning": SHOWN_ONCE}
        return Response(body, headers=NO_STORE)

    def destroy(self, request: Request, token_id: str) -> Response:
        services.revoke_org_token(token_id=_token_uuid(token_id), caller=_caller(request))
        return Response({"revoked": token_id})


@only("GET")
def bootstrap_token(request: HttpRequest, workspace_id: str) -> HttpResponse:
    """`GET /admin/workspaces/:id/test-token`: a first credential for end-to-end scripts.

    Switched off it is a route that does not exist.
    """
    _check_test_tokens(request)
    row = Workspace.objects.live().filter(pk=workspace_uuid(workspace_id)).first()
    if row is None:
        raise NotFound("workspace not found")
    token = services.mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
    return json_response({"auth_token": token, "workspace_id": row.pk}, headers=NO_STORE)


def _check_test_tokens(request: HttpRequest) -> None:
    """Only the operator's own token, or the open hatch. Raises NotFound, Unauthorized."""
    is_enabled = settings.MOLECULE_ENABLE_TEST_TOKENS or (settings.MOLECULE_ENV and not is_production())
    is_open = hatch_is_open() and is_local(address_of(request))
    if not is_enabled or not (settings.ADMIN_TOKEN or is_open):
        raise NotFound("not found")
    kind = resolved(request).kind
    if kind != Kind.ADMIN and not (is_open and kind != Kind.INVALID):
        raise Unauthorized("admin auth required")


def _caller(request: Request) -> services.Caller:
    principal = principal_of(request)
    return services.Caller(
        actor=principal.actor,
        org_id=principal.org_id,
        address=address_of(request._request),
        user_agent=request.META.get("HTTP_USER_AGENT", "")[:USER_AGENT_CHARS] or None,
    )


def _token_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(TOKEN_GONE) from None


def _number(request: Request, name: str, *, lowest: int, highest: int, default: int) -> int:
    """A number of the query string; anything outside its bounds is the default."""
    given = request.query_params.get(name, "")
    number = int(given) if given.isdecimal() and len(given) < 10 else default
    return number if lowest <= number <= highest else default


# --- Secrets
# ---------------------------------------------------------------------------------------------------


class SecretViewSet(WorkspaceViewSet):
    """`/workspaces/:id/secrets`."""

    def list(self, request: Request, **kwargs: Any) -> Response:
        own = WorkspaceSecret.objects.filter(workspace_id=self.workspace.pk).order_by("key")
        return Response(secret_names(own, GlobalSecret.objects.order_by("key")), headers=NO_STORE)

    def save(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(SecretInput, request)
        services.set_workspace_secret(
            workspace_id=self.workspace.pk, by_its_agent=_is_agent(request, self.workspace.pk), **given
        )
        return Response({"status": "saved", "key": given["key"]}, headers=NO_STORE)

    def destroy(self, request: Request, key: str, **kwargs: Any) -> Response:
        services.remove_workspace_secret(
            workspace_id=self.workspace.pk, key=key, by_its_agent=_is_agent(request, self.workspace.pk)
        )
        return Response({"status": "deleted", "key": key}, headers=NO_STORE)

    def values(self, request: Request, **kwargs: Any) -> Response:
        """Plain texts, all of them or none: an agent that starts with a part of its secrets fails later,
        and elsewhere.
        """
        try:
            return Response(services.secret_environment(self.workspace.pk), headers=NO_STORE)
        except SecretUnreadable as error:
            raise Internal(
                "one or more secrets failed to decrypt; refusing to return partial bundle",
                headers=NO_STORE,
                failed_keys=error.failed,
            ) from None

    def dependents(self, request: Request, key: str, **kwargs: Any) -> Response:
        """Who is started with this workspace's secret: the workspace, when it has one by that name."""
        rows = WorkspaceSecret.objects.filter(workspace_id=self.workspace.pk, key=key)
        return Response({"dependents": list(rows.values_list("workspace_id", flat=True))})


class GlobalSecretViewSet(ViewSet):
    """`/settings/secrets` and `/admin/secrets`."""

    def list(self, request: Request) -> Response:
        return Response(secret_names([], GlobalSecret.objects.order_by("key")), headers=NO_STORE)

    def save(self, request: Request) -> Response:
        given = parsed(SecretInput, request)
        change = services.save_global_secret(caller_id=principal_of(request).workspace_id, **given)
        _restart_readers(change, given["key"])
        body = {"status": "saved", "key": given["key"], "scope": "global"}
        return Response(body, headers=NO_STORE)

    def destroy(self, request: Request, key: str) -> Response:
        change = services.delete_global_secret(key=key, caller_id=principal_of(request).workspace_id)
        _restart_readers(change, key)
        return Response({"status": "deleted", "key": key, "scope": "global"}, headers=NO_STORE)

    def dependents(self, request: Request, key: str) -> Response:
        """Every live workspace without a secret of its own by that name; nobody when there is none."""
        if not GlobalSecret.objects.filter(key=key).exists():
            return Response({"dependents": []})
        own = WorkspaceSecret.objects.filter(key=key).values("workspace_id")
        rows = Workspace.objects.live().exclude(pk__in=own).order_by("pk")
        return Response({"dependents": list(rows.values_list("pk", flat=True))})


class SecretCheckViewSet(ViewSet):
    """`/secrets/validate`: nobody here knows the providers' own checks; the canvas then saves unchecked."""

    def create(self, request: Request) -> Response:
        raise NotImplementedHere("not supported")


def _is_agent(request: Request, workspace_id: UUID) -> bool:
    """By the token, never by a header."""
    principal = principal_of(request)
    return principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id


def _restart_readers(change: Change, key: str) -> None:
    """One short transaction each, after the secret has committed: a fan-out must not hold every row at once.
    The starts themselves are queued, and run as many at a time as workers take.
    """
    for workspace_id in change.readers:
        provisioning.request_restart(workspace_id, provisioning.Trigger.MUTATION, f"global-secret:{key}")
