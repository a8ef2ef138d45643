"""The monthly partitions of usage records, made well before their month begins."""

from datetime import datetime

from django.db import connection

MONTHS_AHEAD = 3


def make_partitions(*, now: datetime) -> int:
    """Make the partitions of this month and the next ones that are missing; returns how many were made."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_make_partitions(%s, %s)", [now, MONTHS_AHEAD])
        row = cursor.fetchone()
    return int(row[0]) if row else 0
