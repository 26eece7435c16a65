"""Settings of the plugin process: the store's two tables and nothing else of the product.

Only the database must be named. Source: docs/reference/memory-plugin.md, Process.
"""

from __future__ import annotations

import environ

from config.embedding import embedding
from config.env import Environment

env = Environment()
MEMORY_PLUGIN_DATABASE_URL = env.text(
    "MEMORY_PLUGIN_DATABASE_URL", help="PostgreSQL of the store", secret=True
)
MEMORY_PLUGIN_TOKEN = env.text("MEMORY_PLUGIN_TOKEN", help="demanded on all routes but health", secret=True)
MEMORY_PLUGIN_LISTEN_ADDR = env.text(
    "MEMORY_PLUGIN_LISTEN_ADDR", default="127.0.0.1:9100", help="host:port, :port or [::1]:port"
)
MEMORY_PLUGIN_MIGRATIONS_DIR = env.text(
    "MEMORY_PLUGIN_MIGRATIONS_DIR", help="folder of *.up.sql files, applied by name instead of ours"
)
MEMORY_PLUGIN_SKIP_MIGRATE = env.flag("MEMORY_PLUGIN_SKIP_MIGRATE", help="apply no migrations")
MEMORY_EMBEDDING = embedding(env)
THREADS = 16

SECRET_KEY = "signs nothing"
ALLOWED_HOSTS = ["*"]  # whoever reaches the port may ask; a token closes it
ROOT_URLCONF = "memory_store.plugin_urls"
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["memory_store.apps.MemoryStoreConfig"]
MIDDLEWARE: list[str] = []
USE_TZ = True
TIME_ZONE = "UTC"  # of the log, too
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # the views answer in the wire's own shape
DATABASES = {
    "default": {
        **environ.Env.db_url_config(MEMORY_PLUGIN_DATABASE_URL or "postgresql://nobody@127.0.0.1/unset"),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "server_side_binding": True,
            "pool": {"min_size": 1, "max_size": THREADS, "timeout": 2},
        },
    }
}
