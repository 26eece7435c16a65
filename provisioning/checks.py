"""System checks of the settings that say where workspaces run."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from config.posture import is_production
from provisioning import dispatch

KNOWN = ("auto", "ec2", "docker", "process", "none")


@register
def provisioner_is_usable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    chosen = settings.PROVISIONER
    if chosen not in KNOWN:
        hint = f"Use one of {', '.join(KNOWN)}."
        return [Error(f"PROVISIONER={chosen!r} is no provisioner.", hint=hint, id="provisioning.E002")]
    if chosen == "process" and is_production():
        hint = "Agents would run under the server's own account. Use another PROVISIONER in production."
        return [Error("PROVISIONER=process is refused in production.", hint=hint, id="provisioning.E003")]
    return []


@register
def instances_can_be_made(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Asked where instances are wanted: by name, or because this is a tenant's server."""
    chosen = settings.PROVISIONER
    if chosen == "ec2":
        kind: type[Error | Warning] = Error
    elif chosen == "auto" and settings.MOLECULE_ORG_ID:
        kind = Warning  # external workspaces work without
    else:
        return []
    found: list[CheckMessage] = [
        kind(
            f"{name} is empty, and instances cannot be made without.",
            hint="docs/operations/ec2.md says what to put there.",
            id="provisioning.E006" if kind is Error else "provisioning.W001",
        )
        for name in dispatch.missing_machine_settings()
    ]
    if settings.EC2_DATA_VOLUME_GB:
        text = "EC2_DATA_VOLUME_GB is set, but this release has no data volumes."
        found.append(Error(text, hint="Leave it at 0.", id="provisioning.E007"))
    return found


@register
def deploy_mode_is_stated_once(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    mode, alias = settings.MOLECULE_DEPLOY_MODE, settings.MOLECULE_DEPLOYMENT_MODE
    if mode and alias and mode != alias:
        text = "MOLECULE_DEPLOY_MODE and MOLECULE_DEPLOYMENT_MODE disagree."
        return [Error(text, hint="Set only MOLECULE_DEPLOY_MODE.", id="provisioning.E004")]
    return []


@register
def debounce_outlasts_the_health_check(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if (
        max(settings.HEALTH_SWEEP_SECONDS, settings.COMPUTE_RECONCILE_SECONDS)
        <= settings.RESTART_DEBOUNCE_SECONDS
    ):
        return []
    text = (
        "RESTART_DEBOUNCE_SECONDS is shorter than HEALTH_SWEEP_SECONDS or COMPUTE_RECONCILE_SECONDS: "
        "what boots would be restarted."
    )
    return [Error(text, hint="Raise it to at least the longer of them.", id="provisioning.E005")]


@register
def containers_are_configured(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if strange := set(settings.DOCKER_HOST_ACCESS_TIERS) - {"3", "4"}:
        text = f"DOCKER_HOST_ACCESS_TIERS names {', '.join(sorted(strange))}."
        found.append(Error(text, hint="Only 3 and 4 can be given the host.", id="provisioning.E010"))
    first, dash, last = settings.MOLECULE_T4_PORT_RANGE.partition("-")
    ends = [first, last if dash else first]
    if not (all(end.isdecimal() for end in ends) and 0 < int(ends[0]) <= int(ends[1]) < 65_536):
        text = f"MOLECULE_T4_PORT_RANGE={settings.MOLECULE_T4_PORT_RANGE!r} is no range of ports."
        found.append(Error(text, hint="Write it as 18000-18999.", id="provisioning.E011"))
    return found
