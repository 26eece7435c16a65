"""The sweeps: what was lost, is overdue or does not match is found again by asking the rows and the backend.

Each is one bounded pass. Every change re-checks in its UPDATE what the selection believed, so a second run,
or one beside a person's action, changes nothing. One bad row never stops the rest. Source:
docs/reference/provisioning.md, Sweeps.
"""

from provisioning.services.sweeps.boots import watch_boots
from provisioning.services.sweeps.cleanup import clean_up
from provisioning.services.sweeps.health import check_health
from provisioning.services.sweeps.hibernation import tend_idle
from provisioning.services.sweeps.liveness import check_liveness
from provisioning.services.sweeps.orphans import sweep_containers, unowned_storage
from provisioning.services.sweeps.parked import stop_parked
from provisioning.services.sweeps.reaping import compare_compute, reap, refuses, sweep_machines
from provisioning.services.sweeps.reconciler import reconcile
from provisioning.services.sweeps.requeue import requeue
from provisioning.services.sweeps.timeouts import time_out_starts
from provisioning.services.sweeps.watched_images import take_up_image, watch_images

__all__ = [
    "check_health",
    "check_liveness",
    "clean_up",
    "compare_compute",
    "reap",
    "reconcile",
    "refuses",
    "requeue",
    "stop_parked",
    "sweep_containers",
    "sweep_machines",
    "take_up_image",
    "tend_idle",
    "time_out_starts",
    "unowned_storage",
    "watch_boots",
    "watch_images",
]
