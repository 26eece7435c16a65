"""The verbs of this room, as other rooms' views and tasks call them."""

from provisioning.dispatch import has_provisioner, provision_async
from provisioning.ledger import finish_run
from provisioning.services.boot_bundles import boot_config, consume_boot_bundle, note_phase
from provisioning.services.boot_failures import report_boot_failure
from provisioning.services.execution import provision
from provisioning.services.parking import Result, hibernate, is_waking, pause, resume, wake
from provisioning.services.restart_contexts import deliver_context, is_context_pending
from provisioning.services.restarts import (
    Trigger,
    accept_restart,
    request_restart,
    restart_cycle,
    restart_for_secret,
)
from provisioning.services.standing import Standing, lose, standing_of
from provisioning.services.teardown import teardown, teardown_run

__all__ = [
    "Result",
    "Standing",
    "Trigger",
    "accept_restart",
    "boot_config",
    "consume_boot_bundle",
    "deliver_context",
    "finish_run",
    "has_provisioner",
    "hibernate",
    "is_context_pending",
    "is_waking",
    "lose",
    "note_phase",
    "pause",
    "provision",
    "provision_async",
    "report_boot_failure",
    "request_restart",
    "restart_cycle",
    "restart_for_secret",
    "resume",
    "standing_of",
    "teardown",
    "teardown_run",
    "wake",
]
