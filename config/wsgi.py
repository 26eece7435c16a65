"""WSGI entry point: the api and files processes."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django = get_wsgi_application()

from config.http import marking_unreadable_paths  # noqa: E402  (the settings must be there first)

application = marking_unreadable_paths(django)
