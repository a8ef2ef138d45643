"""Makes sure that a piece of housekeeping runs once at a time, whatever the number of workers."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.db import Error, connection

LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


@contextmanager
def singleton(name: str) -> Iterator[bool]:
    """Hold the database-wide lock `name` for the block; yields False, without waiting, when another session has it.

    The lock belongs to the session, so it ends with its process or connection, however that ends.
    """
    with connection.cursor() as cursor:
        cursor.execute(LOCK, [f"tollgate:{name}"])
        row = cursor.fetchone()
    has_lock = bool(row and row[0])
    try:
        yield has_lock
    finally:
        if has_lock:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(UNLOCK, [f"tollgate:{name}"])
            except (Error, psycopg.Error):
                connection.close()  # a session that cannot be asked gives its locks back by ending
