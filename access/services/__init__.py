"""The verbs over credentials and secrets; nothing else writes their tables."""

from access.services.org_tokens import Caller, MintedOrgToken, mint_org_token, revoke_org_token
from access.services.secrets import (
    Change,
    SecretUnreadable,
    delete_global_secret,
    delete_secret,
    read_secret,
    reencrypt_secrets,
    remove_workspace_secret,
    save_global_secret,
    save_secret,
    secret_environment,
    set_workspace_secret,
    store_secrets,
)
from access.services.tokens import (
    ever_had_a_token,
    has_live_instance_token,
    mint_api_token,
    mint_token,
    new_secret,
    revoke_token,
    revoke_tokens,
    token_hash,
)

__all__ = [
    "Caller",
    "Change",
    "MintedOrgToken",
    "SecretUnreadable",
    "delete_global_secret",
    "delete_secret",
    "ever_had_a_token",
    "has_live_instance_token",
    "mint_api_token",
    "mint_org_token",
    "mint_token",
    "new_secret",
    "read_secret",
    "reencrypt_secrets",
    "remove_workspace_secret",
    "revoke_org_token",
    "revoke_token",
    "revoke_tokens",
    "save_global_secret",
    "save_secret",
    "secret_environment",
    "set_workspace_secret",
    "store_secrets",
    "token_hash",
]
