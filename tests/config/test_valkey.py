from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from config.valkey import client
from tests.outages import valkey_away


def test_one_pool_serves_the_process(valkey: Any) -> None:
    assert client() is client()
    assert valkey.ping()


def test_an_absent_valkey_fails_soon_with_one_kind_of_error() -> None:
    began = time.monotonic()
    with valkey_away(), pytest.raises(redis.RedisError):
        client().ping()
    assert time.monotonic() - began < 5
