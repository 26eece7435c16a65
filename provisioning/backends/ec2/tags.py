"""Whose an instance is, written on it: all that is known of a machine is read back from its tags.

Source: docs/reference/ec2.md, Tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from provisioning.backends.base import StartSpec
from provisioning.backends.ec2.options import Ec2Options

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagTypeDef

MANAGED = "molecule:managed"
DEPLOYMENT = "molecule:platform-instance"
WORKSPACE = "molecule:workspace-id"
GENERATION = "molecule:generation"
RUNTIME = "molecule:runtime"
TIER = "molecule:tier"
MAX_VALUE_CHARS = 256


def tags_of(spec: StartSpec, options: Ec2Options) -> list[TagTypeDef]:
    """The same for every attempt at one start; nothing secret."""
    values = {
        MANAGED: "true",
        DEPLOYMENT: options.instance_id,
        "molecule:org-id": options.org_id,
        WORKSPACE: str(spec.workspace_id),
        GENERATION: str(spec.generation),
        "molecule:operation-id": str(spec.operation_id),
        RUNTIME: spec.runtime,
        TIER: str(spec.tier),
        "Name": f"ws-{spec.workspace_id}",
    }
    return [{"Key": key, "Value": value[:MAX_VALUE_CHARS]} for key, value in values.items()]


def filters(options: Ec2Options, workspace_id: UUID | None = None) -> list[FilterTypeDef]:
    """What finds this deployment's instances, or those of one workspace."""
    wanted = {MANAGED: "true", DEPLOYMENT: options.instance_id}
    if workspace_id is not None:
        wanted[WORKSPACE] = str(workspace_id)
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]


def values_of(tags: Sequence[TagTypeDef]) -> Mapping[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags if "Key" in tag and "Value" in tag}
