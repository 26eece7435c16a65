"""The verbs of the org tree; nothing else writes its tables."""

from workspaces.services.agents import assign_agent, move_agent, remove_agent, replace_agent
from workspaces.services.budgets import set_budget
from workspaces.services.cards import update_card
from workspaces.services.configs import merge_config
from workspaces.services.creation import check_depth_below, get_or_create_workspaces, share_live_parents
from workspaces.services.crud import (
    Created,
    NewWorkspace,
    check_present,
    create_workspace,
    model_secrets,
    new_row,
    remember_config,
    update_workspace,
)
from workspaces.services.discovery import discover
from workspaces.services.external import external_workspace, rotate_credentials
from workspaces.services.heartbeats import heartbeat
from workspaces.services.inbound_secrets import (
    credential_on_its_way,
    inbound_secret,
    known_inbound_secret,
    rotate_inbound_secret,
)
from workspaces.services.model_choice import choose, chosen
from workspaces.services.outbound import note_outbound
from workspaces.services.purging import purge_workspaces, release_storage, stops_failed
from workspaces.services.registration import Registration, register
from workspaces.services.removal import Removal, owing_stop, remove_workspace
from workspaces.services.resealing import reseal_inbound_secrets
from workspaces.services.usage import record_usage
from workspaces.services.viewports import save_viewport

__all__ = [
    "Created",
    "NewWorkspace",
    "Registration",
    "Removal",
    "assign_agent",
    "check_depth_below",
    "check_present",
    "choose",
    "chosen",
    "create_workspace",
    "credential_on_its_way",
    "discover",
    "external_workspace",
    "get_or_create_workspaces",
    "heartbeat",
    "inbound_secret",
    "known_inbound_secret",
    "merge_config",
    "model_secrets",
    "move_agent",
    "new_row",
    "note_outbound",
    "owing_stop",
    "purge_workspaces",
    "record_usage",
    "register",
    "release_storage",
    "remember_config",
    "remove_agent",
    "remove_workspace",
    "replace_agent",
    "reseal_inbound_secrets",
    "rotate_credentials",
    "rotate_inbound_secret",
    "save_viewport",
    "set_budget",
    "share_live_parents",
    "stops_failed",
    "update_card",
    "update_workspace",
]
