"""Settings: the only module that reads the environment,
one documented line per variable (units in the help text).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ

from config.embedding import Embedding, embedding
from config.env import Environment
from config.logs import configure as configure_logs

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment()

# --- Services
# -------------------------------------------------------------------------------------------------------
DATABASE_URL: str = env.text(
    "DATABASE_URL", help="PostgreSQL 15 or newer; `make up` starts its own when unset", secret=True
)
REDIS_URL: str = env.text(
    "REDIS_URL",
    default="redis://127.0.0.1:6379/0",
    help="Valkey or Redis; `make up` starts its own when unset",
    secret=True,
)
DJANGO_SECRET_KEY: str = env.text("DJANGO_SECRET_KEY", help="signs the sessions of /console/", secret=True)
PORT: int = env.positive_int("PORT", default=8080, help="the one port `make up` listens on")
DATA_DIR: str = env.text("DATA_DIR", default=".data", help="folder of everything `make up` keeps")
DATABASE_LOCK_TIMEOUT_S: int = env.count(
    "DATABASE_LOCK_TIMEOUT_S",
    default=0,
    help="seconds a statement waits for a lock, 0 for as long as it takes; migrations run with 3",
)
DATABASE_POOL_SIZE: int = env.positive_int(
    "DATABASE_POOL_SIZE", default=20, help="database connections at most per web process"
)
DATABASE_PREPARE_AFTER: int = env.count(
    "DATABASE_PREPARE_AFTER",
    default=5,
    help="executions after which a connection prepares a statement; 0 = never, for a pooler that cannot",
)

# --- Who may come in (docs/reference/access.md)
# ---------------------------------------------------------------------
ADMIN_TOKEN: str = env.text("ADMIN_TOKEN", help="the operator's bearer token", secret=True)
MOLECULE_ENV: str = env.text(
    "MOLECULE_ENV", help="`production`/`prod` is strict, `development`/`dev` relaxes limits and URL policy"
).lower()
MOLECULE_DEV_OPEN: bool = env.flag(
    "MOLECULE_DEV_OPEN", help="requests without a credential pass on a development machine (`make up-open`)"
)
WS_ANONYMOUS_CANVAS: bool = env.flag(
    "WS_ANONYMOUS_CANVAS", help="admit a canvas socket without a credential, from an allowed origin"
)
MOLECULE_ENABLE_TEST_TOKENS: bool = env.flag(
    "MOLECULE_ENABLE_TEST_TOKENS", help="GET /admin/workspaces/:id/test-token mints, in production too"
)
MOLECULE_ORG_ID: str = env.text("MOLECULE_ORG_ID", help="the tenant this deployment serves; marks it as SaaS")
MOLECULE_ORG_SLUG: str = env.text(
    "MOLECULE_ORG_SLUG", help="the tenant's name at the control plane; sessions need it"
)
CP_UPSTREAM_URL: str = env.text(
    "CP_UPSTREAM_URL", help="control plane that confirms sessions; /cp/* is passed on to it"
).rstrip("/")
CANVAS_PROXY_URL: str = env.text(
    "CANVAS_PROXY_URL",
    help="canvas served behind this server's address; its browser requests are known by it",
).rstrip("/")
CORS_ORIGINS: list[str] = env.words(
    "CORS_ORIGINS",
    default=["http://localhost:3000", "http://localhost:3001"],
    help="origins a browser may call from; exact matches",
)
TRUSTED_PROXIES = env.networks(
    "TRUSTED_PROXIES", help="CIDRs whose X-Forwarded-For is believed; none by default"
)
MAX_JSON_BODY_BYTES: int = env.positive_int(
    "MAX_JSON_BODY_BYTES", default=1_048_576, help="bytes of a JSON body unless a route says otherwise"
)
RATE_LIMIT: int = env.positive_int(
    "RATE_LIMIT", default=600, help="requests per caller and 60 s, all processes together"
)
AUTH_FAIL_LIMIT: int = env.positive_int(
    "AUTH_FAIL_LIMIT", default=60, help="401 answers per client address and 60 s"
)
ORG_TOKEN_MINT_CEILING: int = env.integer(
    "ORG_TOKEN_MINT_CEILING", default=100, help="live org tokens per org; 0 or less: no ceiling"
)
SECRETS_ENCRYPTION_KEY: str = env.text(
    "SECRETS_ENCRYPTION_KEY",
    help="key of the secrets at rest: base64 of 32 bytes, or exactly 32 characters",
    secret=True,
)
SECRETS_ENCRYPTION_KEYS: list[str] = env.words(
    "SECRETS_ENCRYPTION_KEYS",
    help="later keys as `2:<base64>,3:<base64>`; the highest seals, all read (`manage.py reencrypt_secrets`)",
    secret=True,
)
METRICS_TOKEN: str = env.text(
    "METRICS_TOKEN", help="bearer that may read /metrics from a public address", secret=True
)

# --- The org tree (docs/reference/workspaces.md)
# --------------------------------------------------------------------
COMM_ROOT_SIBLINGS: str = env.choice(
    "COMM_ROOT_SIBLINGS", ["allow", "deny"], default="allow", help="may root workspaces talk to each other"
)
EXTERNAL_PLATFORM_URL: str = env.text(
    "EXTERNAL_PLATFORM_URL", help="address given to external agents; the request's own when unset"
).rstrip("/")
MOLECULE_DEFAULT_RUNTIME: str = env.text(
    "MOLECULE_DEFAULT_RUNTIME", default="langgraph", help="runtime of a workspace that names none"
)
REMOTE_LIVENESS_STALE_AFTER: int = env.positive_int(
    "REMOTE_LIVENESS_STALE_AFTER",
    default=180,
    help="seconds without a heartbeat until an external agent counts as away",
)

# --- Templates (docs/reference/templates.md)
# ------------------------------------------------------------------------
CONFIGS_DIR: str = env.text(
    "CONFIGS_DIR",
    help="folder of the workspace templates; unset: the nearest `workspace-configs-templates` that has some",
)
ORG_TEMPLATES_DIR: str = env.text(
    "ORG_TEMPLATES_DIR", help="folder of the org templates; unset: `org-templates` beside CONFIGS_DIR"
)
PLUGINS_DIR: str = env.text(
    "PLUGINS_DIR", help="folder of the plugins that can be installed; unset: `plugins` beside CONFIGS_DIR"
)
WORKSPACE_MANIFEST_PATH: str = env.text(
    "WORKSPACE_MANIFEST_PATH",
    help="JSON file that lists the known runtimes; unset: /app/manifest.json, then the nearest manifest.json",
)
ORG_IMPORT_ENV_ALLOWLIST: list[str] = env.words(
    "ORG_IMPORT_ENV_ALLOWLIST",
    default=["WORKSPACE_DIR"],
    help="variables of this server that an org template may name; its own env files come first",
)
ORG_IMPORT_MAX_WORKSPACES: int = env.positive_int(
    "ORG_IMPORT_MAX_WORKSPACES", default=500, help="workspaces of one org template at most"
)
ORG_IMPORT_MAX_DEPTH: int = env.positive_int(
    "ORG_IMPORT_MAX_DEPTH", default=12, help="levels of one org template at most"
)

# --- What happened (docs/reference/activity.md)
# -------------------------------------------------------------------
ACTIVITY_RETENTION_DAYS: int = env.positive_int(
    "ACTIVITY_RETENTION_DAYS", default=90, help="days a row of a feed is kept; an unread message longer"
)
ACTIVITY_HARD_RETENTION_DAYS: int = env.positive_int(
    "ACTIVITY_HARD_RETENTION_DAYS", default=365, help="days an unread message is kept, at least 365"
)
STRUCTURE_EVENTS_RETENTION_DAYS: int = env.count(
    "STRUCTURE_EVENTS_RETENTION_DAYS", default=365, help="days a recorded event is kept; 0 = for ever"
)
ACTIVITY_CLEANUP_INTERVAL_HOURS: int = env.positive_int(
    "ACTIVITY_CLEANUP_INTERVAL_HOURS", default=6, help="hours between two runs of `activity-retention`"
)

# --- Messages to agents (docs/reference/a2a.md)
# -------------------------------------------------------------------------
A2A_PROXY_RESPONSE_HEADER_TIMEOUT: int = env.duration(
    "A2A_PROXY_RESPONSE_HEADER_TIMEOUT",
    default=1800,
    help="how long an agent may take until its answer begins, seconds or like `30m`",
)
A2A_IDLE_TIMEOUT_SECONDS: int = env.positive_int(
    "A2A_IDLE_TIMEOUT_SECONDS",
    default=1800,
    help="seconds without any sign of life of the target until its caller is let go",
)
A2A_CANVAS_SYNC_BUDGET: int = env.positive_int(
    "A2A_CANVAS_SYNC_BUDGET",
    default=90,
    help="seconds a canvas waits on the line before its answer comes as an event",
)
A2A_CANVAS_SYNC_DISABLE: bool = env.truth(
    "A2A_CANVAS_SYNC_DISABLE", help="let a canvas wait on the line for as long as it takes"
)
A2A_SETTLING_RETRY_CEILING_S: int = env.positive_int(
    "A2A_SETTLING_RETRY_CEILING_S",
    default=180,
    help="seconds a queued message waits for a target that is coming up",
)
A2A_QUEUE_SWEEPER_INTERVAL_S: int = env.positive_int(
    "A2A_QUEUE_SWEEPER_INTERVAL_S", default=10, help="interval of the sweep over queued messages, seconds"
)
A2A_QUEUE_RETENTION_DAYS: int = env.positive_int(
    "A2A_QUEUE_RETENTION_DAYS", default=7, help="days an ended message of the queue is kept"
)

# --- Memory (docs/reference/memory.md)
MEMORY_SWEEP_INTERVAL_S: int = env.count(
    "MEMORY_SWEEP_INTERVAL_S", default=300, help="interval of the sweep of expired values, seconds; 0 = none"
)
MEMORY_PLUGIN_URL: str = env.text(
    "MEMORY_PLUGIN_URL", help="address of the memory plugin; empty: no records, unless MEMORY_V2_BACKEND"
).rstrip("/")
MEMORY_V2_BACKEND: str = env.choice(
    "MEMORY_V2_BACKEND", ["none", "inprocess"], default="none", help="inprocess: records without a plugin"
)
MEMORY_V2_CUTOVER: bool = env.truth(
    "MEMORY_V2_CUTOVER", help="scoped memories live in the records from now on, wherever they are asked for"
)
MEMORY_PLUGIN_DISABLE: bool = env.denial(
    "MEMORY_PLUGIN_DISABLE", help="never start the plugin beside the server"
)
MEMORY_PLUGIN_REQUIRED: bool = env.switch(
    "MEMORY_PLUGIN_REQUIRED", help="0: boot without memory when the plugin beside the server does not answer"
)
MEMORY_PLUGIN_TIMEOUT: float = env.wait(
    "MEMORY_PLUGIN_TIMEOUT", default=2.0, help="how long the plugin may take to answer a call"
)
MEMORY_PLUGIN_TOKEN: str = env.text(
    "MEMORY_PLUGIN_TOKEN",
    help="sent to the plugin as bearer; the plugin demands it when it knows it",
    secret=True,
)
MEMORY_GLOBAL_VISIBILITY: str = env.choice(
    "MEMORY_GLOBAL_VISIBILITY",
    ["tree", "deployment"],
    default="tree",
    help="who reads a root's GLOBAL memories: its tree, or everybody",
)
MEMORY_EMBEDDING: Embedding = embedding(env)
MEMORY_VECTOR: str = MEMORY_EMBEDDING.mode
MEMORY_EMBEDDING_PROVIDER: str = MEMORY_EMBEDDING.provider
MEMORY_EMBEDDING_API_KEY: str = MEMORY_EMBEDDING.api_key  # by its name: a start keeps it from agents
MEMORY_DEDUPE: str = env.choice(
    "MEMORY_DEDUPE",
    ["none", "exact"],
    default="none",
    help="exact: an agent that repeats itself gets the record it has",
)

# --- Work handed over (docs/reference/delegations.md)
# --------------------------------------------------------------------
DELEGATION_LEDGER_WRITE: bool = env.switch(
    "DELEGATION_LEDGER_WRITE", help="accept new delegations; off is a stop switch, what exists goes on"
)
DELEGATION_RESULT_INBOX_PUSH: bool = env.switch(
    "DELEGATION_RESULT_INBOX_PUSH", help="put the result of a delegation into the delegator's inbox"
)
DELEGATION_SYNC_VIA_INBOX: bool = env.flag(
    "DELEGATION_SYNC_VIA_INBOX", help="passed to managed agents: they poll for results instead of waiting"
)
DELEGATION_SWEEPER_INTERVAL_S: int = env.positive_int(
    "DELEGATION_SWEEPER_INTERVAL_S", default=300, help="interval of the sweep over delegations, seconds"
)
DELEGATION_STUCK_THRESHOLD_S: int = env.positive_int(
    "DELEGATION_STUCK_THRESHOLD_S",
    default=600,
    help="seconds without a sign of life until a delegation is stuck",
)
DELEGATION_REDISPATCH_AFTER_S: int = env.positive_int(
    "DELEGATION_REDISPATCH_AFTER_S",
    default=60,
    help="seconds after which a delegation that nobody began to send is begun again",
)
DELEGATION_IDEMPOTENCY_WINDOW_S: int = env.count(
    "DELEGATION_IDEMPOTENCY_WINDOW_S",
    default=86400,
    help="seconds a completed delegation keeps its idempotency key; 0 = for ever",
)
DELEGATION_RETENTION_DAYS: int = env.count(
    "DELEGATION_RETENTION_DAYS", default=90, help="days an ended delegation is kept; 0 = for ever"
)

# --- Prompts at set times (docs/reference/schedules.md)
# --------------------------------------------------------------------
SCHEDULER_INTERVAL_S: int = env.positive_int(
    "SCHEDULER_INTERVAL_S", default=30, help="interval at which due schedules are looked for, seconds"
)
MOLECULE_MCP_ALLOW_SEND_MESSAGE: bool = env.unless(
    "MOLECULE_MCP_ALLOW_SEND_MESSAGE", help="offer the MCP tool with which an agent talks to the person"
)

# --- Chats outside (docs/reference/chat_channels.md)
# --------------------------------------------------------------------
CHANNELS_DISCORD_API_URL: str = env.text(
    "CHANNELS_DISCORD_API_URL", default="https://discord.com/api/v10", help="address of Discord's API"
).rstrip("/")
CHANNELS_LARK_API_URL: str = env.text(
    "CHANNELS_LARK_API_URL",
    default="https://open.larksuite.com",
    help="address below which a Lark bot's webhook may lie, besides open.larksuite.com and open.feishu.cn",
).rstrip("/")
CHANNELS_SLACK_API_URL: str = env.text(
    "CHANNELS_SLACK_API_URL", default="https://slack.com/api", help="address of Slack's Web API"
).rstrip("/")
CHANNELS_TELEGRAM_API_URL: str = env.text(
    "CHANNELS_TELEGRAM_API_URL", default="https://api.telegram.org", help="address of Telegram's Bot API"
).rstrip("/")

# --- Compute (docs/reference/provisioning.md)
# -----------------------------------------------------------------------
PROVISIONER: str = env.choice(
    "PROVISIONER",
    ["auto", "ec2", "docker", "process", "none"],
    default="auto",
    help="where workspaces run; `process` (local processes) is for development and tests",
)
MOLECULE_DEPLOY_MODE: str = env.text(
    "MOLECULE_DEPLOY_MODE", help="`saas` or `self-hosted`; derived when unset"
).lower()
MOLECULE_DEPLOYMENT_MODE: str = env.text(
    "MOLECULE_DEPLOYMENT_MODE", help="alias of MOLECULE_DEPLOY_MODE"
).lower()
PLATFORM_URL: str = env.text(
    "PLATFORM_URL",
    default=f"http://host.docker.internal:{PORT}",
    help="address of this server as managed agents see it",
).rstrip("/")
MOLECULE_INSTANCE_ID: str = env.text(
    "MOLECULE_INSTANCE_ID", help="marks this deployment's compute; derived from DATABASE_URL when unset"
)
GIT_EMAIL_DOMAIN: str = env.text(
    "GIT_EMAIL_DOMAIN", default="agents.invalid", help="domain of the agents' git identity"
)
AWARENESS_URL: str = env.text("AWARENESS_URL", help="passed to agents together with their namespace")
PROVISION_TIMEOUT_SECONDS: int = env.count(
    "PROVISION_TIMEOUT_SECONDS",
    default=0,
    help="seconds a start may take, for every runtime; 0 = the runtime's own",
)
RESTART_DEBOUNCE_SECONDS: int = env.positive_int(
    "RESTART_DEBOUNCE_SECONDS",
    default=60,
    help="seconds after a restart in which health checks ask for no other",
)
AUTO_RESTART_MAX_PER_HOUR: int = env.positive_int(
    "AUTO_RESTART_MAX_PER_HOUR",
    default=5,
    help="automatic restarts per workspace and hour; beyond, it is failed",
)
LIVENESS_BACKSTOP_SECONDS: int = env.positive_int(
    "LIVENESS_BACKSTOP_SECONDS", default=30, help="interval of the sweep over silent agents, seconds"
)
HEALTH_SWEEP_SECONDS: int = env.positive_int(
    "HEALTH_SWEEP_SECONDS", default=15, help="interval of the check that compute still runs, seconds"
)
PROVISION_TIMEOUT_SWEEP_SECONDS: int = env.positive_int(
    "PROVISION_TIMEOUT_SWEEP_SECONDS", default=30, help="interval of the sweep over overdue starts, seconds"
)
COMPUTE_RECONCILE_SECONDS: int = env.positive_int(
    "COMPUTE_RECONCILE_SECONDS",
    default=60,
    help="interval of the comparison of all compute with its rows, seconds",
)
COMPUTE_REAP_MODE: str = env.choice(
    "COMPUTE_REAP_MODE",
    ["reap", "report"],
    default="reap",
    help="what happens to compute without a row, or of an older generation: stopped, or only reported",
)
FAILED_COMPUTE_GRACE_MINUTES: int = env.positive_int(
    "FAILED_COMPUTE_GRACE_MINUTES",
    default=30,
    help="minutes the compute of a failed start is kept, so that somebody can look at it",
)
HIBERNATION_SWEEP_SECONDS: int = env.positive_int(
    "HIBERNATION_SWEEP_SECONDS", default=120, help="interval of the search for idle workspaces, seconds"
)
HIBERNATION_IDLE_MINUTES: int = env.count(
    "HIBERNATION_IDLE_MINUTES",
    default=0,
    help="idle minutes after which a workspace hibernates unless it has its own limit; 0 = never",
)
PHANTOM_BUSY_SWEEP_SECONDS: int = env.positive_int(
    "PHANTOM_BUSY_SWEEP_SECONDS",
    default=300,
    help="interval of the repair of task counts that no activity supports, seconds",
)
PHANTOM_BUSY_SWEEP_DISABLED: bool = env.truth(
    "PHANTOM_BUSY_SWEEP_DISABLED", help="leave the agents' task counts alone"
)
MOLECULE_PROVISION_CONCURRENCY: int = env.count(
    "MOLECULE_PROVISION_CONCURRENCY",
    default=3,
    help="starts of imported workspaces at a time, all workers together; 0 = unlimited",
)

# --- Compute in containers (docs/reference/provisioning.md)
# ---------------------------------------------------------------
MOLECULE_DOCKER_NETWORK: str = env.text(
    "MOLECULE_DOCKER_NETWORK", default="molecule-net", help="network of the workspaces' containers"
)
MOLECULE_IN_DOCKER: str = env.text(
    "MOLECULE_IN_DOCKER",
    help="true when this server runs in a container of the same engine; unset: /.dockerenv decides",
)
MOLECULE_IMAGE_REGISTRY: str = env.text(
    "MOLECULE_IMAGE_REGISTRY", help="host and path of the runtimes' images; local images when unset"
).rstrip("/")
WORKSPACE_IMAGE_LOCAL_OVERRIDE: str = env.text(
    "WORKSPACE_IMAGE_LOCAL_OVERRIDE", help="any text: use local images as they are, no pins and no pulls"
)
WORKSPACE_AGENT_BASE_IMAGE: str = env.text(
    "WORKSPACE_AGENT_BASE_IMAGE",
    default="debian:bookworm-slim",
    help="what the default workspace image is built on; its own Python when no registry has it",
)
GHCR_USER: str = env.text("GHCR_USER", help="user of the image registry; needs GHCR_TOKEN")
GHCR_TOKEN: str = env.text("GHCR_TOKEN", help="password of GHCR_USER", secret=True)
MOLECULE_IMAGE_PLATFORM: str | None = env.optional_text(
    "MOLECULE_IMAGE_PLATFORM", help="platform of pulled images, such as linux/amd64; the engine's when unset"
)
DOCKER_STOP_GRACE_SECONDS: int = env.positive_int(
    "DOCKER_STOP_GRACE_SECONDS",
    default=5,
    help="seconds a container has to end by itself before it is killed",
)
DOCKER_HOST_ACCESS_TIERS: list[str] = env.words(
    "DOCKER_HOST_ACCESS_TIERS",
    help="tiers whose containers get the host (privileged, its processes; 4 also its network and engine)",
)
MOLECULE_MAX_TIER: int = env.positive_int(
    "MOLECULE_MAX_TIER", default=4, help="highest tier this server starts"
)
MOLECULE_T4_PORT_RANGE: str = env.text(
    "MOLECULE_T4_PORT_RANGE", default="18000-18999", help="host ports of containers of tier 4"
)
MOLECULE_HOST_ADDRESS: str = env.text(
    "MOLECULE_HOST_ADDRESS", default="127.0.0.1", help="address of this host, for containers of tier 4"
)
TIER_MEMORY_MB: dict[int, int] = {
    1: env.positive_int("TIER1_MEMORY_MB", default=512, help="memory of a container of tier 1, MiB"),
    2: env.positive_int("TIER2_MEMORY_MB", default=512, help="memory of a container of tier 2, MiB"),
    3: env.positive_int("TIER3_MEMORY_MB", default=2048, help="memory of a container of tier 3, MiB"),
    4: env.positive_int("TIER4_MEMORY_MB", default=4096, help="memory of a container of tier 4, MiB"),
}
TIER_CPU_SHARES: dict[int, int] = {
    1: env.positive_int("TIER1_CPU_SHARES", default=1024, help="CPU of tier 1; 1024 is one"),
    2: env.positive_int("TIER2_CPU_SHARES", default=1024, help="CPU of tier 2; 1024 is one"),
    3: env.positive_int("TIER3_CPU_SHARES", default=2048, help="CPU of tier 3; 1024 is one"),
    4: env.positive_int("TIER4_CPU_SHARES", default=4096, help="CPU of tier 4; 1024 is one"),
}
IMAGE_AUTO_REFRESH: bool = env.truth(
    "IMAGE_AUTO_REFRESH", help="watch the registry, and restart workspaces whose image has moved"
)

# --- Compute on EC2 (docs/reference/ec2.md)
# -------------------------------------------------------------------------
AWS_REGION: str = env.text("AWS_REGION", default="us-east-2", help="region of the instances")
AWS_ACCESS_KEY_ID: str = env.text(
    "AWS_ACCESS_KEY_ID",
    help="the AWS SDK's own; unset: its usual chain (instance role, profile)",
    secret=True,
)
AWS_SECRET_ACCESS_KEY: str = env.text(
    "AWS_SECRET_ACCESS_KEY", help="secret of AWS_ACCESS_KEY_ID", secret=True
)
AWS_SESSION_TOKEN: str = env.text("AWS_SESSION_TOKEN", help="of temporary credentials", secret=True)
EC2_AMI_ID: str = env.text("EC2_AMI_ID", help="machine image of the instances: Linux with Docker and curl")
EC2_SUBNET_IDS: list[str] = env.words("EC2_SUBNET_IDS", help="subnets, tried in order")
EC2_SECURITY_GROUP_IDS: list[str] = env.words(
    "EC2_SECURITY_GROUP_IDS", help="security groups, shared by all instances; none is ever made"
)
EC2_INSTANCE_PROFILE: str = env.text("EC2_INSTANCE_PROFILE", help="IAM instance profile; none when unset")
EC2_INSTANCE_TYPES: dict[int, str] = {
    1: env.text("EC2_INSTANCE_TYPE_T1", default="t3.small", help="instance type of tier 1"),
    2: env.text("EC2_INSTANCE_TYPE_T2", default="t3.medium", help="instance type of tier 2"),
    3: env.text("EC2_INSTANCE_TYPE_T3", default="t3.large", help="instance type of tier 3"),
    4: env.text("EC2_INSTANCE_TYPE_T4", default="t3.xlarge", help="instance type of tier 4"),
}
EC2_ROOT_GB: dict[int, int] = {
    1: env.positive_int("EC2_ROOT_GB_T1", default=20, help="root disk of tier 1, GiB"),
    2: env.positive_int("EC2_ROOT_GB_T2", default=30, help="root disk of tier 2, GiB"),
    3: env.positive_int("EC2_ROOT_GB_T3", default=40, help="root disk of tier 3, GiB"),
    4: env.positive_int("EC2_ROOT_GB_T4", default=60, help="root disk of tier 4, GiB"),
}
EC2_MARKET: str = env.choice(
    "EC2_MARKET",
    ["on-demand", "spot", "spot-then-on-demand"],
    default="on-demand",
    help="how instances are bought",
)
EC2_ASSOCIATE_PUBLIC_IP: bool = env.truth("EC2_ASSOCIATE_PUBLIC_IP", help="give instances a public address")
EC2_DATA_VOLUME_GB: int = env.count(
    "EC2_DATA_VOLUME_GB",
    default=0,
    help="data volume per workspace that outlives its instances, GiB; 0 = none",
)
EC2_ENDPOINT_URL: str = env.text("EC2_ENDPOINT_URL", help="another EC2 endpoint, for tests").rstrip("/")
EC2_MAX_INSTANCES: int = env.count(
    "EC2_MAX_INSTANCES",
    default=0,
    help="instances of this deployment at most; 0 = the account's quota decides",
)

# --- Files from a person to an agent (docs/reference/uploads.md)
# ----------------------------------------------------------------
PENDING_UPLOADS_BACKEND: str = env.choice(
    "PENDING_UPLOADS_BACKEND",
    ["postgres", "s3", "off"],
    default="postgres",
    help="where files wait for a polling agent; `off` refuses new ones, staged ones stay",
)
PENDING_UPLOADS_MAX_BYTES_PER_WORKSPACE: int = env.count(
    "PENDING_UPLOADS_MAX_BYTES_PER_WORKSPACE",
    default=1_073_741_824,
    help="bytes that may wait for one agent; 0 = no limit",
)
PENDING_UPLOADS_SWEEP_INTERVAL_SECONDS: int = env.positive_int(
    "PENDING_UPLOADS_SWEEP_INTERVAL_SECONDS", default=300, help="interval of the sweep of uploads, seconds"
)
PENDING_UPLOADS_ACK_RETENTION_SECONDS: int = (
    env.integer(
        "PENDING_UPLOADS_ACK_RETENTION_SECONDS",
        default=3600,
        help="seconds a fetched file stays readable for the user; 0 = the default, negative = none",
    )
    or 3600
)
PENDING_UPLOADS_S3_BUCKET: str = env.text(
    "PENDING_UPLOADS_S3_BUCKET", help="bucket of PENDING_UPLOADS_BACKEND=s3"
)
PENDING_UPLOADS_S3_REGION: str = env.text(
    "PENDING_UPLOADS_S3_REGION", help="region of the bucket; the AWS SDK's when unset"
)
PENDING_UPLOADS_S3_ENDPOINT_URL: str = env.text(
    "PENDING_UPLOADS_S3_ENDPOINT_URL", help="another store that speaks S3"
).rstrip("/")
PENDING_UPLOADS_S3_PREFIX: str = env.text(
    "PENDING_UPLOADS_S3_PREFIX", default="pending-uploads/v1", help="first part of every object's key"
).strip("/")
PENDING_UPLOADS_S3_ACCESS_KEY_ID: str = env.text(
    "PENDING_UPLOADS_S3_ACCESS_KEY_ID", help="unset: the AWS SDK's usual chain", secret=True
)
PENDING_UPLOADS_S3_SECRET_ACCESS_KEY: str = env.text(
    "PENDING_UPLOADS_S3_SECRET_ACCESS_KEY", help="secret of the key", secret=True
)
PENDING_UPLOADS_S3_SSE: str = env.text(
    "PENDING_UPLOADS_S3_SSE", default="AES256", help="server-side encryption of the objects; empty = none"
)
CHAT_UPLOAD_TEMP_DIR: str = env.text(
    "CHAT_UPLOAD_TEMP_DIR", help="folder of files on their way; the system's when unset"
)

GIT_SHA: str = env.text("GIT_SHA", default="dev", help="revision shown by /buildinfo")

# --- Django
# ---------------------------------------------------------------------------------------------------------
SECRET_KEY = DJANGO_SECRET_KEY or "unset-refused-by-a-system-check"
DEBUG = False
ALLOWED_HOSTS = ["*"]  # no page and no link is built from the Host header except where a verb checks it
LOGIN_REDIRECT_URL = "/console/"  # of whoever opens the form itself
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "channels",
    "config.apps.ConfigConfig",
    "activity.apps.ActivityConfig",
    "access.apps.AccessConfig",
    "workspaces.apps.WorkspacesConfig",
    "approvals.apps.ApprovalsConfig",
    "provisioning.apps.ProvisioningConfig",
    "templates.apps.TemplatesConfig",
    "orgimport.apps.OrgImportConfig",
    "uploads.apps.UploadsConfig",
    "memory_store.apps.MemoryStoreConfig",
    "memory.apps.MemoryConfig",
    "a2a.apps.A2AConfig",
    "delegations.apps.DelegationsConfig",
    "chat_channels.apps.ChatChannelsConfig",
    "schedules.apps.SchedulesConfig",
    "console.apps.ConsoleConfig",
]

# Outermost first; the order is docs/reference/http.md.
MIDDLEWARE = [
    "activity.http_metrics.CountRequests",
    "config.security_headers.SecurityHeaders",
    "corsheaders.middleware.CorsMiddleware",
    "config.http.AnswerOptions",
    "config.http.ErrorBodies",
    "config.limits.LimitHeaders",
    "config.limits.LimitBody",
    "config.http.OptionalTrailingSlash",
    "access.client_address.ClientAddress",
    "access.tenant_guard.TenantGuard",
    "access.pipeline.ResolveCaller",
    "access.pipeline.LimitRate",
    "access.pipeline.RefuseForeignOrigin",
    "config.http.ConsoleOnly",
]
# What only the operators' pages need; `ConsoleOnly` applies these to /console/, so that an API request pays
# for none.
CONSOLE_MIDDLEWARE = [
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def database(url: str) -> dict[str, Any]:
    """Django's connection settings for `url`; an empty one is refused by a system check."""
    parsed: dict[str, Any] = environ.Env.db_url_config(url or "postgresql://nobody@127.0.0.1/unset")
    parsed["CONN_HEALTH_CHECKS"] = True
    parsed["OPTIONS"] = {
        **parsed.get("OPTIONS", {}),
        "connect_timeout": 5,
        "server_side_binding": True,
        # Halves the database's work for a short statement. Needs results that do not change under a running
        # release: statements name their columns (config/states.py).
        "prepare_threshold": DATABASE_PREPARE_AFTER or None,
        "pool": {"min_size": 1, "max_size": DATABASE_POOL_SIZE, "timeout": 5},
        "options": f"-c idle_in_transaction_session_timeout=60000 -c lock_timeout={DATABASE_LOCK_TIMEOUT_S}s",
    }
    return parsed


DATABASES = {"default": database(DATABASE_URL)}


def instance_id() -> str:
    """The mark on this deployment's compute: given,
    or derived from where the database is (never its password).
    """
    if MOLECULE_INSTANCE_ID:
        return MOLECULE_INSTANCE_ID
    url = urlsplit(DATABASE_URL)
    return hashlib.sha256(f"{url.hostname}:{url.port}{url.path}".encode()).hexdigest()[:16]


INSTANCE_ID = instance_id()

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Workspace Server",
    "SITE_HEADER": "Workspace Server",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: f"{STATIC_URL}console/favicon.svg"}
    ],
    # The theme's own colour of links in the dark, one step lighter: it could not be read (WCAG AA).
    "COLORS": {"primary": {"500": "oklch(71.4% .203 305.504)"}},
    "SHOW_HISTORY": False,
    "LOGIN": {"form": "console.login.ThrottledLogin"},
    "DASHBOARD_CALLBACK": "console.home.dashboard",
}

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["access.authentication.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["access.permissions.AdminAccess"],  # closed unless a route opens itself
    "DEFAULT_PARSER_CLASSES": ["config.http.AnyJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["config.http.CompactJSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "config.http.AlwaysJSON",
    "DEFAULT_SCHEMA_CLASS": "config.openapi.Schema",
    "EXCEPTION_HANDLER": "config.http.exception_handler",
    "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%S.%fZ",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Workspace Server",
    "DESCRIPTION": "Control plane for an organisation of AI agents.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": ["config.openapi.add_plain_views"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
}

CORS_ALLOWED_ORIGINS = CORS_ORIGINS
CORS_ALLOW_CREDENTIALS = True
CORS_ALLOW_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CORS_ALLOW_HEADERS = [
    "origin",
    "content-type",
    "authorization",
    "x-workspace-id",
    "x-source-workspace-id",
    "x-molecule-org-id",
    "x-molecule-org-slug",
    "x-confirm-name",
    "x-request-id",
    "if-none-match",
]
CORS_EXPOSE_HEADERS = [
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "Content-Disposition",
    "ETag",
    "X-Templates-Broken",
    "X-Org-Templates-Broken",
    "X-Molecule-Files-Source",
]
CORS_PREFLIGHT_MAX_AGE = 43_200

STATIC_URL = "/static/"
STATIC_ROOT = (
    BASE_DIR / "staticfiles"
)  # filled by `collectstatic` in the image; found in the packages otherwise
WHITENOISE_USE_FINDERS = not STATIC_ROOT.is_dir()
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # `LimitBody` answers before Django would, in the product's error shape

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SILENCED_SYSTEM_CHECKS = [
    "admin.E408",  # ConsoleOnly applies the session, login and message middleware to /console/
    "admin.E409",
    "admin.E410",
    "security.W004",  # HSTS is sent by config.security_headers.SecurityHeaders on every response
    "security.W008",  # TLS ends at the proxy in front
    "security.W001",  # config.security_headers.SecurityHeaders stands in for SecurityMiddleware
    "security.W002",  # X-Frame-Options likewise
    "security.W003",  # CSRF protection is applied to /console/ by ConsoleOnly
    "security.W012",  # cookies: `make up` serves plain http on the operator's machine
    "security.W016",
]

LOGGING_CONFIG = None
configure_logs()
