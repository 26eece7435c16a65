from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from django.db import connection, transaction

from config.locks import lock_in_transaction, outside_transaction, try_lock
from tests.conftest import at_once
from tests.waiting import eventually

HOLDER = """
import sys, psycopg
held = psycopg.connect(sys.argv[1], autocommit=True)
held.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", ("of a process",))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.django_db(transaction=True)
def test_a_held_lock_is_refused_at_once_and_free_afterwards() -> None:
    with try_lock("a name") as mine:
        with try_lock("a name") as second, try_lock("another name") as other:
            assert (mine, second, other) == (True, False, True)
    for _ in range(50):  # at once, each time
        with try_lock("a name") as again:
            assert again


@pytest.mark.django_db(transaction=True)
def test_a_lock_survives_commits_of_its_holder() -> None:
    with try_lock("long"):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with try_lock("long") as second:
            assert not second


@pytest.mark.django_db(transaction=True)
def test_a_failing_block_frees_the_lock() -> None:
    with pytest.raises(RuntimeError):
        with try_lock("failing"):
            raise RuntimeError
    with try_lock("failing") as mine:
        assert mine


@pytest.mark.django_db(transaction=True)
def test_of_many_who_try_at_once_one_gets_the_lock() -> None:
    everybody_tried = threading.Barrier(6)

    def attempt() -> bool:
        with try_lock("contended") as mine:
            everybody_tried.wait(timeout=10)
            return mine

    assert sorted(at_once(*[attempt] * 6)) == [False] * 5 + [True]


@pytest.mark.django_db(transaction=True)
def test_a_lock_dies_with_its_process() -> None:
    params = connection.get_connection_params()
    address = " ".join(
        f"{key}={params[key]}" for key in ("host", "port", "user", "password", "dbname") if params.get(key)
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with try_lock("of a process") as mine:
            assert not mine
        holder.kill()
        holder.wait(timeout=10)

        def is_free() -> bool:
            with try_lock("of a process") as mine:
                return mine

        eventually(is_free)
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.django_db(transaction=True)
def test_a_lock_connects_with_every_parameter_of_the_database() -> None:
    with try_lock("named"), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'workspace-lock'"
            " AND datname = current_database()"
        )
        assert cursor.fetchone()[0] >= 1


@pytest.mark.django_db(transaction=True)
def test_a_transaction_lock_needs_a_transaction() -> None:
    with pytest.raises(transaction.TransactionManagementError):
        lock_in_transaction("feed")


@pytest.mark.django_db(transaction=True)
def test_a_transaction_lock_orders_its_holders() -> None:
    inside = threading.Semaphore(1)

    def critical() -> bool:
        with transaction.atomic():
            lock_in_transaction("ordered")
            alone = inside.acquire(blocking=False)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.01)")
            if alone:
                inside.release()
        return alone

    assert at_once(*[critical] * 6) == [True] * 6


@pytest.mark.django_db(transaction=True)
def test_a_slow_call_inside_a_transaction_is_refused() -> None:
    outside_transaction()
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        outside_transaction()


@pytest.mark.django_db
def test_the_transaction_around_a_test_does_not_count() -> None:
    outside_transaction()
