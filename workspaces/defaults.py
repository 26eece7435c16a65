"""What a workspace gets when nobody chose: tier, runtime, model, time to start. Each has its only source
here.

Source: docs/reference/provisioning.md, Defaults.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.conf import settings

from workspaces import hooks
from workspaces.models import EXTERNAL
from workspaces.runtimes import registered_runtimes

log = structlog.get_logger(__name__)

MIN_TIER, MAX_TIER = 1, 4
SELF_HOSTED_TIER = 3
SAAS_TIER = 4  # alone on its instance, a workspace of the highest tier limits nobody else
_NOT_SAAS = frozenset({"self-hosted", "selfhosted", "standalone"})
_MODELS = {"claude-code": "sonnet"}
_ANY_MODEL = "anthropic:claude-opus-4-7"
_TIMEOUTS_S = {"hermes": 1800}
_ANY_TIMEOUT_S = 600
_MACHINE_TIMEOUT_S = 720  # a machine that boots cold and pulls an image needs longer than a container


def _no_instances() -> bool:
    return False


# Whether compute runs on instances of a cloud account; the room that dispatches compute answers it.
instances_wired: Callable[[], bool] = _no_instances


def is_saas() -> bool:
    """Whether each workspace has a machine of its own: the stated mode,
    else what is wired or the tenant's mark.
    """
    mode = (settings.MOLECULE_DEPLOY_MODE or settings.MOLECULE_DEPLOYMENT_MODE).strip().lower()
    if mode:
        if mode != "saas" and mode not in _NOT_SAAS:
            log.warning("deploy_mode.unknown", mode=mode, read_as="self-hosted")
        return mode == "saas"
    return bool(settings.MOLECULE_ORG_ID) or instances_wired()


def default_tier() -> int:
    return SAAS_TIER if is_saas() else SELF_HOSTED_TIER


def clamped_tier(tier: int) -> int:
    """`tier` as written into a generated config.yaml: what is none becomes the self-hosted default."""
    return tier if MIN_TIER <= tier <= MAX_TIER else SELF_HOSTED_TIER


def default_runtime() -> str:
    return settings.MOLECULE_DEFAULT_RUNTIME or "langgraph"


def known_runtimes() -> frozenset[str]:
    """Every name that `runtime` may hold, `external` included."""
    return registered_runtimes() | {EXTERNAL, default_runtime()}


def default_model(runtime: str) -> str:
    """Never empty; the name is compared as it is, so `CLAUDE-CODE` is no known runtime here."""
    return _MODELS.get(runtime, _ANY_MODEL)


def declared_timeouts() -> dict[str, int]:
    """Seconds a start may take, by runtime, for the runtimes that declare them: the longest counts."""
    longest: dict[str, int] = {}
    for hook in hooks.provision_timeouts:
        for runtime, seconds in hook().items():
            longest[runtime] = max(seconds, longest.get(runtime, 0))
    return longest


def provision_timeout_s(runtime: str) -> int:
    """Seconds from the claim of a start until a workspace that has not registered counts as failed."""
    usual = _MACHINE_TIMEOUT_S if instances_wired() else _ANY_TIMEOUT_S
    declared = declared_timeouts().get(runtime, 0)
    return settings.PROVISION_TIMEOUT_SECONDS or declared or _TIMEOUTS_S.get(runtime, usual)
