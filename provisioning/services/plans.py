"""What a start of a workspace would be, without making it: nothing is minted, written or obtained.

Source: docs/reference/provisioning.md, The plan of a start.
"""

from __future__ import annotations

from typing import Any

from config.errors import BadRequest, Unavailable
from provisioning import dispatch
from provisioning.backends.base import BackendError, StartSpec
from provisioning.models import ProvisionRun, RunKind
from provisioning.preparation import prepare
from provisioning.required_env import missing_names
from workspaces.models import Workspace

OK = "ok"
MINTED = (".auth_token", ".platform_inbound_secret")  # files that only a real start makes


def plan_start(workspace: Workspace) -> dict[str, Any]:
    """The plan of the next start, with a sentence for each check that fails. Names of variables, no values.

    Raises BadRequest for an external workspace, Unavailable without a backend.
    """
    if not workspace.is_managed:
        raise BadRequest("external workspaces are not started by this server")
    if not dispatch.has_provisioner():
        raise Unavailable("provisioner not available")
    imagined = ProvisionRun(
        workspace_id=workspace.pk, generation=workspace.generation + 1, kind=RunKind.RESTART
    )
    plan: dict[str, Any] = {"backend": dispatch.label(), "runtime": workspace.runtime, "tier": workspace.tier}
    try:
        spec = prepare(workspace, imagined)
    except BackendError as error:
        checks = {"prepare": error.safe_message}
    else:
        missing = missing_names(spec)
        required = f"missing: {', '.join(missing)}" if missing else OK
        details, found = _dry_run(spec)
        plan |= details
        checks = {"prepare": OK, "required_env": required, **found}
    return {**plan, "checks": checks, "ok": all(one.startswith(OK) for one in checks.values())}


def _dry_run(spec: StartSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """What the backend would create, and what it checked."""
    details: dict[str, Any] = {
        "env": sorted(spec.environment),
        "files": sorted({*spec.files, *MINTED}),
        "mounts": [],
        "limits": {},
        "image": None,
        "image_digest": None,
        "instance_type": None,
    }
    try:
        plan = dispatch.dry_run(spec)
    except BackendError as error:
        return details, {"backend": error.safe_message}
    details |= {
        "env": sorted({*spec.environment, *plan.environment_keys}),
        "files": sorted({*plan.files, *MINTED}),
        "mounts": list(plan.mounts),
        "limits": dict(plan.limits),
        "image": plan.image,
        "image_digest": plan.image_digest,
        "instance_type": plan.instance_type,
    }
    return details, {"backend": OK, **plan.checks}
