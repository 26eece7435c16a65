"""`manage.py import_org`, killed like a power cut at a chosen line: `dying_import.py PATH MOMENT`.

MOMENT `writing`: in the transaction of the third level; `committed`: after it, before any start is queued.
"""

import os
import signal
import sys

import django

django.setup()

from django.core.management import call_command  # noqa: E402

from orgimport.services.walk import Walk  # noqa: E402

LEVEL = 3
path, moment = sys.argv[1:]
furnish, begin = Walk._furnish, Walk._begin
levels = 0


def furnish_or_die(self, new):  # type: ignore[no-untyped-def]
    global levels
    levels += 1
    furnish(self, new)
    if levels == LEVEL and moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)


def begin_or_die(self, one):  # type: ignore[no-untyped-def]
    if levels == LEVEL and moment == "committed":
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self, one)


Walk._furnish, Walk._begin = furnish_or_die, begin_or_die  # type: ignore[method-assign]
call_command("import_org", path)
