"""Health: /healthz says that the process answers, /readyz that it can serve, /metrics how it has been doing."""

import os

import prometheus_client
import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import multiprocess

from proxy import engine


def healthz(_request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return JsonResponse({"status": "ok"})


def readyz(_request: HttpRequest) -> HttpResponse:
    """200 when requests can be served (`degraded` names what works less well), 503 when not."""
    problems: dict[str, str] = {}
    catalog_version = 0
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        problems["database"] = "unreachable"
    try:
        running = engine.current()
    except RuntimeError:
        problems["data_plane"] = "not started"
        degraded: list[str] = []
    else:
        degraded = running.degraded
        catalog_version = running.catalog.current.version
        if running.streams.draining:
            problems["data_plane"] = "draining"
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.25, socket_connect_timeout=0.25).ping()
    except redis.RedisError:
        degraded = sorted({*degraded, "valkey"})
    status = "unavailable" if problems else "degraded" if degraded else "ok"
    return JsonResponse(
        {"status": status, "problems": problems, "degraded": degraded, "catalog_version": catalog_version}, status=503 if problems else 200
    )


def metrics(_request: HttpRequest) -> HttpResponse:
    """Prometheus's text format, of all processes together when PROMETHEUS_MULTIPROC_DIR is set."""
    registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return HttpResponse(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)
