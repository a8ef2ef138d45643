"""The data plane's connections to PostgreSQL: lanes that run one statement at a time, each under a deadline of its own."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

log = structlog.get_logger(__name__)

FAIL_FAST_SECONDS = 0.3  # after a failure, callers are refused at once for so long, so that nobody queues behind a dead server


class DatabaseUnavailable(Exception):
    """PostgreSQL did not answer within the deadline, or refused the connection. Whether the statement took effect is unknown."""


class Lane:
    """One connection in autocommit mode, reconnecting by itself.

    A black-holed server still acknowledges TCP, so no server-side timeout helps: when the deadline passes the socket is shut down under
    libpq, which makes the pending call fail at once. `options` are libpq's ("-c synchronous_commit=off").
    """

    def __init__(self, conninfo: str, *, deadline_seconds: float, options: str = "") -> None:
        self._conninfo = conninfo
        self._deadline = deadline_seconds
        self._options = options
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._down_until = 0.0
        self._busy = asyncio.Lock()

    async def fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Raises: DatabaseUnavailable; psycopg.Error for a statement that PostgreSQL refused.
        """
        async with self._busy:
            if time.monotonic() < self._down_until:
                raise DatabaseUnavailable("PostgreSQL failed a moment ago")
            connection = self._connection
            if connection is None or connection.closed:
                connection = await self._connect()
            watchdog = asyncio.get_running_loop().call_later(self._deadline, _shut_down, connection)
            try:
                cursor = await connection.execute(query, parameters, prepare=True, binary=True)
                return await cursor.fetchall()
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not connection.broken and not connection.closed and not isinstance(error, psycopg.errors.AdminShutdown):
                    raise  # the statement's own failure (a deadlock, a full disk), not the connection's
                await self._discard(error)
                raise DatabaseUnavailable(str(error)) from error
            except asyncio.CancelledError:
                await self._discard(None)
                raise
            finally:
                watchdog.cancel()

    async def close(self) -> None:
        """Close the connection; the lane may be used again afterwards."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        try:
            async with asyncio.timeout(self._deadline):
                self._connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=2, options=self._options, application_name="tollgate"
                )
        except (psycopg.Error, OSError, TimeoutError) as error:
            await self._discard(error)
            raise DatabaseUnavailable(str(error) or "connecting timed out") from error
        return self._connection

    async def _discard(self, error: BaseException | None) -> None:
        self._down_until = time.monotonic() + FAIL_FAST_SECONDS if error is not None else 0.0
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
        if error is not None:
            log.warning("database_lane_lost", error=str(error))


def _shut_down(connection: psycopg.AsyncConnection[Any]) -> None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        pass  # already gone: that is what was wanted
