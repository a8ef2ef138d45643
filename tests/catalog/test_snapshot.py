"""Loading the catalog in the threads of a pool, which outlive every load."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connection

from catalog import snapshot


def test_a_thread_that_loads_the_catalog_keeps_neither_its_connection_nor_its_queries(settings: Any) -> None:
    settings.DEBUG = True  # which has Django remember the last nine thousand queries of each thread, with their text
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(snapshot._load_in_thread).result().version > 0
        kept = pool.submit(lambda: (connection.connection, len(connection.queries_log))).result()
    assert kept == (None, 0)
