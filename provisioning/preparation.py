"""What a start needs, read anew from the rows each time: environment, files, tokens.

Nothing a caller passes overrides a row, so a restart gives an agent what its first boot gave it, and the
newest secrets. Source: docs/reference/provisioning.md, Preparation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction

from access.models import TokenKind
from access.services import SecretUnreadable, mint_token, revoke_tokens, secret_environment
from config.evt import evt
from config.settings import env as declared_settings
from provisioning.backends.base import BackendError, ErrorClass, File, StartSpec
from provisioning.models import ProvisionRun, RuntimeImagePin
from templates.sources import NoSource, start_files
from workspaces.defaults import known_runtimes
from workspaces.models import Access, Workspace
from workspaces.services.inbound_secrets import inbound_secret
from workspaces.slugs import is_usable_folder

log = structlog.get_logger(__name__)

SERVER_CREDENTIALS = frozenset(
    {
        "ADMIN_TOKEN",
        "MOLECULE_ADMIN_TOKEN",
        "CP_ADMIN_API_TOKEN",
        "MOLECULE_CP_SHARED_SECRET",
        "PROVISION_SHARED_SECRET",
        "SECRETS_ENCRYPTION_KEY",
        "DJANGO_SECRET_KEY",
    }
)


class EnvMutator(Protocol):
    """A plugin that adds to or changes the environment of every start."""

    name: str

    def mutate_env(self, workspace_id: UUID, env: dict[str, str]) -> None: ...


mutators: list[EnvMutator] = []  # in order; filled by `AppConfig.ready()` of whoever brings one


def prepare(workspace: Workspace, run: ProvisionRun) -> StartSpec:
    """The start of `workspace` without its tokens. Raises BackendError; its message is shown to people."""
    _check_runtime(workspace)
    environment = _environment(workspace)
    folder = workspace.workspace_dir or environment.get("WORKSPACE_DIR")
    _check_mount(workspace, folder)
    return StartSpec(
        workspace_id=workspace.pk,
        generation=run.generation,
        operation_id=run.pk,
        name=workspace.name,
        runtime=workspace.runtime,
        tier=workspace.tier,
        environment=environment,
        files=_config_files(workspace, run, environment.get("MODEL", "")),
        image=_pinned_image(workspace.runtime),
        workspace_dir=folder,
        workspace_access=workspace.workspace_access,
        reset_session=bool(run.options.get("reset_session")),
    )


@transaction.atomic
def mint_secrets(workspace_id: UUID, generation: int) -> dict[str, File]:
    """The files that make the first register authenticated.

    Called between the stop of the old compute and the start of the new one: earlier, the old agent would be
    locked out while it serves. Tokens of this generation stay: an earlier attempt of the same start may have
    delivered one.
    """
    revoke_tokens(workspace_id=workspace_id, kind=TokenKind.INSTANCE, below_generation=generation)
    token = mint_token(workspace_id=workspace_id, kind=TokenKind.INSTANCE, generation=generation)
    secret = inbound_secret(workspace_id)
    return {
        ".auth_token": File(token.encode(), mode=0o600),
        ".platform_inbound_secret": File(secret.encode(), mode=0o600),
    }


def chosen_model(workspace_id: UUID) -> str:
    """The model that a start of the workspace would be told; "" where nobody chose one."""
    secrets = _secrets(workspace_id)
    return secrets.get("MODEL") or secrets.get("MODEL_PROVIDER") or ""


def _config_files(workspace: Workspace, run: ProvisionRun, model: str) -> dict[str, File]:
    """What a person chose at the restart replaces what is stored; the rest comes only where nothing is."""
    try:
        files = start_files(workspace, run.options.get("config_dir"), model=model)
    except NoSource as error:
        raise BackendError(ErrorClass.CONFIG, str(error)) from error
    return {name: File(content, seed=not may_replace) for name, (content, may_replace) in files.items()}


def _environment(workspace: Workspace) -> dict[str, str]:
    environment = {"PLUGINS_DIR": "/plugins", **_secrets(workspace.pk)}
    if workspace.name.strip():
        _set_git_identity(environment, workspace.name)
    model = environment.get("MODEL") or environment.get("MODEL_PROVIDER")
    if model:
        environment["MODEL"] = model
        if workspace.runtime == "hermes":
            environment["HERMES_DEFAULT_MODEL"] = model
    if workspace.role:
        environment["MOLECULE_AGENT_ROLE"] = workspace.role
    if workspace.parent_id:
        environment["PARENT_ID"] = str(workspace.parent_id)
    if settings.DELEGATION_SYNC_VIA_INBOX:
        environment["DELEGATION_SYNC_VIA_INBOX"] = "1"
    if settings.AWARENESS_URL and workspace.awareness_namespace:
        environment["AWARENESS_URL"] = settings.AWARENESS_URL
        environment["AWARENESS_NAMESPACE"] = workspace.awareness_namespace
    _mutate(workspace.pk, environment)
    _deny(workspace.pk, environment)
    return {**environment, **_reserved(workspace)}


def _secrets(workspace_id: UUID) -> dict[str, str]:
    try:
        return secret_environment(workspace_id)
    except SecretUnreadable as error:
        raise BackendError(
            ErrorClass.CONFIG, f"failed to decrypt {error.scope} secret", detail=f"key {error.key}"
        ) from error


def _set_git_identity(environment: dict[str, str], name: str) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    for person in ("AUTHOR", "COMMITTER"):
        environment.setdefault(f"GIT_{person}_NAME", name)
        environment.setdefault(f"GIT_{person}_EMAIL", f"{slug or 'agent'}@{settings.GIT_EMAIL_DOMAIN}")


def _mutate(workspace_id: UUID, environment: dict[str, str]) -> None:
    for mutator in mutators:
        try:
            mutator.mutate_env(workspace_id, environment)
        except Exception as error:
            raise BackendError(
                ErrorClass.CONFIG, "plugin env mutator chain failed", detail=f"{mutator.name}: {error}"
            ) from error


def _deny(workspace_id: UUID, environment: dict[str, str]) -> None:
    """Remove what would hand the server's own keys to an agent, whatever name it hides under."""
    own = {key.partition(":")[2] for key in settings.SECRETS_ENCRYPTION_KEYS}  # listed as `<number>:<key>`
    for variable in declared_settings.declared.values():
        if variable.secret:
            value = getattr(settings, variable.name)
            own.update(value if isinstance(value, list) else [value])
    denied = {
        key for key, value in environment.items() if key in SERVER_CREDENTIALS or (value and value in own)
    }
    for key in denied:
        del environment[key]
    if denied:
        evt("provision.env_denied", {"workspace_id": str(workspace_id), "keys": sorted(denied)})


def _reserved(workspace: Workspace) -> Mapping[str, str]:
    """What no secret may change. The backend adds the workspace's own address."""
    return {
        "WORKSPACE_ID": str(workspace.pk),
        "WORKSPACE_CONFIG_PATH": "/configs",
        "PLATFORM_URL": settings.PLATFORM_URL,
        "MOLECULE_URL": settings.PLATFORM_URL,
        "TIER": str(workspace.tier),
        "PYTHONPATH": "/app",
    }


def _pinned_image(runtime: str) -> str | None:
    """The exact image of the runtime, where images come from a registry and somebody pinned one."""
    if not settings.MOLECULE_IMAGE_REGISTRY or settings.WORKSPACE_IMAGE_LOCAL_OVERRIDE:
        return None
    try:
        digest = (
            RuntimeImagePin.objects.filter(template_name=runtime).values_list("digest", flat=True).first()
        )
    except DatabaseError:
        log.exception("image.pin_unreadable", runtime=runtime)
        return None
    return f"{settings.MOLECULE_IMAGE_REGISTRY}/workspace-template-{runtime}@{digest}" if digest else None


def _check_runtime(workspace: Workspace) -> None:
    if workspace.runtime not in known_runtimes():
        known = ", ".join(sorted(known_runtimes()))
        raise BackendError(
            ErrorClass.INVALID_SPEC, f"unknown runtime {workspace.runtime!r}; known runtimes: {known}"
        )


def _check_mount(workspace: Workspace, folder: str | None) -> None:
    """`folder` is the one that would be shared: the row's, else the secret WORKSPACE_DIR."""
    if workspace.workspace_access != Access.NONE and not workspace.workspace_dir:
        raise BackendError(
            ErrorClass.INVALID_SPEC,
            f"workspace access {workspace.workspace_access} needs a workspace directory",
        )
    if folder and not is_usable_folder(folder):
        raise BackendError(ErrorClass.INVALID_SPEC, "the workspace directory is not one that may be shared")
