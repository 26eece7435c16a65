"""Credentials in texts that are kept."""

from __future__ import annotations

import pytest

from activity.redaction import redacted

ALNUM = "aB3" * 11  # 33 characters


@pytest.mark.parametrize(
    ("text", "clean", "label"),
    [
        ("export OPENAI_API_KEY = abc;x y", "export [REDACTED:API_KEY] y", "API_KEY"),
        ("my_token=abc", "[REDACTED:TOKEN]", "TOKEN"),
        ("X9_Secret\t=\tabc\nnext", "[REDACTED:SECRET]\nnext", "SECRET"),
        ("Authorization: bearer abc.def", "Authorization: [REDACTED:BEARER_TOKEN]", "BEARER_TOKEN"),
        (
            "a -----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY----- b",
            "a [REDACTED:OPENSSH_PRIVATE_KEY] b",
            "OPENSSH_PRIVATE_KEY",
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----",
            "[REDACTED:PRIVATE_KEY]",
            "PRIVATE_KEY",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----",
            "[REDACTED:PRIVATE_KEY]",
            "PRIVATE_KEY",
        ),
        (
            "at postgresql://ada:pw@db.example:5432/x?y",
            "at [REDACTED:DB_URL_WITH_CREDENTIALS]/x?y",
            "DB_URL_WITH_CREDENTIALS",
        ),
        ("redis://:pw@cache", "[REDACTED:DB_URL_WITH_CREDENTIALS]", "DB_URL_WITH_CREDENTIALS"),
        ("ghp_" + "a" * 16, "[REDACTED:GITHUB_PAT]", "GITHUB_PAT"),
        ("gho_" + "a" * 16, "[REDACTED:GITHUB_OAUTH]", "GITHUB_OAUTH"),
        ("ghs_" + "a" * 16, "[REDACTED:GITHUB_APP_SERVER_TOKEN]", "GITHUB_APP_SERVER_TOKEN"),
        ("ghu_" + "a" * 16, "[REDACTED:GITHUB_USER_TOKEN]", "GITHUB_USER_TOKEN"),
        ("ghr_" + "a" * 16, "[REDACTED:GITHUB_REFRESH_TOKEN]", "GITHUB_REFRESH_TOKEN"),
        ("github_pat_" + "a_" * 8, "[REDACTED:GITHUB_FINEGRAINED_PAT]", "GITHUB_FINEGRAINED_PAT"),
        ("vc_" + "a" * 16, "[REDACTED:VERCEL_TOKEN]", "VERCEL_TOKEN"),
        ("AKIA" + "A1" * 8, "[REDACTED:AWS_ACCESS_KEY_ID]", "AWS_ACCESS_KEY_ID"),
        ("pplx-" + "a" * 20, "[REDACTED:PERPLEXITY_API_KEY]", "PERPLEXITY_API_KEY"),
        ("(sk-" + "a-_1" * 4 + ")", "([REDACTED:SK_TOKEN])", "SK_TOKEN"),
        ("ctx7_a", "[REDACTED:CTX7_TOKEN]", "CTX7_TOKEN"),
        (f"x {ALNUM}== y", "x [REDACTED:BASE64_BLOB] y", "BASE64_BLOB"),
        ("a/" + ALNUM, "[REDACTED:BASE64_BLOB]", "BASE64_BLOB"),
    ],
)
def test_a_credential_is_replaced_by_its_label(text, clean, label):
    assert redacted(text) == (clean, {label})
    assert redacted(clean) == (clean, frozenset())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the token is in the mail",
        "TOKEN: see above",
        "postgresql://db.example/x",
        "ghp_" + "a" * 15,
        "a disk-full-error-in-the-log",
        "sk-" + "a" * 15,
        "A" * 60,
        "/usr/lib/python3/site-packages/django/core/handlers/base",
        (ALNUM[:32] + "/") * 3,
        ALNUM[:32],
    ],
)
def test_what_is_none_stays(text):
    assert redacted(text) == (text, frozenset())


@pytest.mark.timeout(60)  # a pattern that is not linear needs minutes
@pytest.mark.parametrize(
    "piece", ["a1", "_TOKEN", "redis://:", "-----BEGIN A PRIVATE KEY-----", "Bearer ", " ", "sk-", "a/b1"]
)
def test_no_text_makes_it_slow(piece):
    redacted(piece * (1_048_576 // len(piece)))
