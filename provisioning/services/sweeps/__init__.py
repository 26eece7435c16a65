"""The sweeps: what was lost, is overdue or does not match is found again by asking the rows and the backend.

Each is one bounded pass. Every change re-checks in its UPDATE what the selection believed, so a second run,
or one beside a person's action, changes nothing. One bad row never stops the rest. Source:
docs/reference/provisioning.md, Sweeps.
"""

from provisioning.services.sweeps.cleanup import clean_up
from provisioning.services.sweeps.health import check_health
from provisioning.services.sweeps.liveness import check_liveness
from provisioning.services.sweeps.parked import stop_parked
from provisioning.services.sweeps.requeue import requeue
from provisioning.services.sweeps.timeouts import time_out_starts

__all__ = ["check_health", "check_liveness", "clean_up", "requeue", "stop_parked", "time_out_starts"]
