"""Health: /healthz says that the process answers, /readyz that it can serve, /metrics how it has been doing."""

import math
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import prometheus_client
import redis
from django.conf import settings
from django.db import DatabaseError, ProgrammingError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from prometheus_client import multiprocess

from billing import task_runs
from billing.models import Hold, TaskRun
from billing.settlement import Spool
from gateway_site import metrics as figures
from proxy import engine


def healthz(_request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return JsonResponse({"status": "ok"})


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be served: what keeps them from it, and what only works less well."""

    problems: dict[str, str]
    degraded: set[str]
    catalog_version: int


def readyz(_request: HttpRequest) -> HttpResponse:
    """200 when requests can be served (`degraded` names what works less well), 503 when not."""
    found = readiness()
    status = "unavailable" if found.problems else "degraded" if found.degraded else "ok"
    return JsonResponse(
        {"status": status, "problems": found.problems, "degraded": sorted(found.degraded), "catalog_version": found.catalog_version},
        status=503 if found.problems else 200,
    )


def readiness() -> Readiness:
    """Ask the parts that requests need."""
    problems: dict[str, str] = {}
    degraded: set[str] = set()
    catalog_version = 0
    try:
        if task_runs.is_late(now=timezone.now(), running_for=timedelta(seconds=time.monotonic() - figures.BEGAN)):
            degraded.add("beat")
    except ProgrammingError:
        problems["database"] = "not migrated"
    except DatabaseError:
        problems["database"] = "unreachable"
    try:
        running = engine.current()
    except RuntimeError:
        problems["data_plane"] = "not started"
    else:
        degraded.update(running.degraded)
        catalog_version = running.catalog.current.version
        if running.streams.draining:
            problems["data_plane"] = "draining"
    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.25, socket_connect_timeout=0.25).ping()
    except redis.RedisError:
        degraded.add("valkey")
    return Readiness(problems, degraded, catalog_version)


def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus's text format, of all processes together: for whoever has METRICS_TOKEN, or without one for this machine alone."""
    if settings.METRICS_TOKEN:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not constant_time_compare(token.strip(), settings.METRICS_TOKEN):
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    elif not _is_local(request):
        raise Http404
    _read_figures()
    registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return HttpResponse(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)


def _is_local(request: HttpRequest) -> bool:
    """Whether the client is on this machine; what a proxy on this machine hands over is not."""
    if any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP")):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:  # a unix socket has no address, and whoever comes through one is a proxy
        return False


def _read_figures() -> None:
    """Bring the figures up to date that lie in the database and on disk."""
    spool = Spool(Path(settings.SPOOL_DIR))
    for kind in ("settle", "refused"):
        figures.SPOOL_FILES.labels(kind).set(len(spool.files(kind)))
    try:
        figures.HOLDS.set(Hold.objects.count())
        for run in TaskRun.objects.all():
            figures.TASK_FINISHED.labels(run.name).set(run.last_finished_at.timestamp() if run.last_finished_at else math.nan)
            if run.name == task_runs.AUDIT:
                figures.DRIFT.set(run.findings if run.last_finished_at else math.nan)
    except DatabaseError:
        figures.HOLDS.set(math.nan)
        figures.DRIFT.set(math.nan)
