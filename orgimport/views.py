"""Routes of the org import. Source: docs/reference/orgimport.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access.authentication import principal_of
from access.permissions import require_place_in_org
from config.errors import BadRequest, NotFound
from config.http import parsed
from orgimport import requirements, services, sources
from orgimport.reading import InvalidTemplate
from orgimport.serializers import OrgImportInput
from orgimport.services import Import, Mode
from orgimport.template import OrgTemplate
from templates.folders import UnsafePath
from templates.loader import TemplateError

log = structlog.get_logger(__name__)


class OrgCatalogueViewSet(ViewSet):
    """`/org/templates`."""

    def list(self, request: Request) -> Response:
        """What can be imported as a tree; broken ones are counted in a header and shown when asked for."""
        found = list(sources.listed())
        broken = sum(1 for one in found if one.reason)
        wants_broken = request.query_params.get("include_broken") == "1"
        shown = [one.shown() for one in found if wants_broken or not one.reason]
        return Response(shown, headers={"X-Org-Templates-Broken": str(broken)})


class OrgImportViewSet(ViewSet):
    """`/org/import`."""

    def create(self, request: Request) -> Response:
        """201: the whole tree is there; 207: a part of it, and `error` says where it ended."""
        given = parsed(OrgImportInput, request)
        principal = principal_of(request)
        require_place_in_org(principal, given["parent_id"])
        if (given["mode"] or Mode.MERGE) not in set(Mode):
            raise BadRequest("unsupported mode")
        with _refusing():
            template, root = _template(given)
            asked = Import(
                template=template,
                root=root,
                dir=given["dir"] or "",
                actor=principal.actor,
                mode=Mode(given["mode"] or Mode.MERGE),
                parent_id=given["parent_id"],
            )
            if given["dry_run"]:
                return Response(_foreseen(asked))
            outcome = services.import_org(asked)
        return Response(outcome.shown(), status=207 if outcome.error else 201)


def _template(given: dict[str, Any]) -> tuple[OrgTemplate, Path | None]:
    if given["dir"]:
        folder = sources.template_folder(given["dir"])
        return sources.load(folder), folder
    if given["template"]:
        return sources.inline(given["template"]), None
    raise BadRequest("provide 'dir' or 'template'")


def _foreseen(asked: Import) -> dict[str, Any]:
    lacking = requirements.missing_now(asked.template)
    foreseen = services.planned(asked)
    return {
        "org": asked.template.name,
        "mode": asked.mode,
        "plan": foreseen.plan,
        "missing_env": lacking.get("missing_env", []),
        **({"reconcile_errors": foreseen.errors} if foreseen.errors else {}),
        **({"missing_workspace_env": rows} if (rows := lacking.get("missing_workspace_env")) else {}),
    }


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a template, as an answer that names file, node and key."""
    try:
        yield
    except UnsafePath:
        raise BadRequest("invalid org directory") from None
    except sources.UnknownTemplate:
        raise NotFound("org template not found") from None
    except TemplateError as error:
        log.warning("org_template.unreadable", kind=error.kind, error=str(error))
        raise BadRequest(
            "org template expansion failed", file=error.file, place=error.place, message=error.message
        ) from None
    except InvalidTemplate as error:
        raise BadRequest("invalid org template", errors=[one.shown() for one in error.problems]) from None
