"""Settings of the real worker processes in test_workers: the product's own,
with a backend that can be held up.
"""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.provisioning.held_apps.HeldBackendConfig"]
