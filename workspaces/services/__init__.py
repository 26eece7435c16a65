"""The verbs of the org tree; nothing else writes its tables."""

from workspaces.services.crud import (
    Created,
    NewWorkspace,
    Removal,
    check_present,
    create_workspace,
    owing_stop,
    remember_config,
    remove_workspace,
    update_workspace,
)
from workspaces.services.heartbeats import heartbeat
from workspaces.services.inbound_secrets import inbound_secret, rotate_inbound_secret
from workspaces.services.registration import Registration, register

__all__ = [
    "Created",
    "NewWorkspace",
    "Registration",
    "Removal",
    "check_present",
    "create_workspace",
    "heartbeat",
    "inbound_secret",
    "owing_stop",
    "register",
    "remember_config",
    "remove_workspace",
    "rotate_inbound_secret",
    "update_workspace",
]
