"""The page of the installation in the admin: the operator's first steps, what the doctor finds, and what is running in which version."""

import platform
from typing import Any

import django
import redis
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.models import User
from gateway_site import diagnosis, set_up
from gateway_site.admin_base import Table, badge, link
from gateway_site.diagnosis import Finding, Severity

SECONDS = 2  # for Valkey to answer
TONES = {Severity.ERROR: "danger", Severity.WARNING: "warning", Severity.NOTE: "info"}


def may_look(request: HttpRequest) -> bool:
    """Whether this person may see it: findings name files, settings and hosts, so superusers alone."""
    return isinstance(request.user, User) and request.user.is_active and request.user.is_superuser


def system_view(request: HttpRequest) -> HttpResponse:
    """What is left to do, what is wrong, and what is running. A POST sends a test mail to whoever asks."""
    user = request.user
    if not may_look(request) or not isinstance(user, User):
        raise PermissionDenied
    now = timezone.now()
    if request.method == "POST":
        set_up.send_test_mail(to=user, now=now)
        messages.success(request, f"A test mail to {user.email} is on its way. Reload this page to see what became of it.")
        return redirect("admin:system")
    steps = set_up.look(user=user, now=now)
    context = {
        **admin.site.each_context(request),
        "title": "System",
        "left": sum(not step.is_done and not step.is_optional for step in steps),
        "tables": [_steps(steps), _findings(diagnosis.diagnose(now=now, fast=True)), _versions()],
        "mail": set_up.last_test_mail(to=user),
        "address": user.email,
    }
    return TemplateResponse(request, "admin/system.html", context)


def _steps(steps: list[set_up.Step]) -> Table:
    return Table("Before customers come", ("Step", "State", "How"), [(_title(step), _state(step), step.remedy) for step in steps])


def _title(step: set_up.Step) -> SafeString | str:
    return link(reverse(step.place), step.title) if step.place else step.title


def _state(step: set_up.Step) -> SafeString:
    if step.is_done:
        return badge("done", "success")
    return badge("optional") if step.is_optional else badge("to do", "warning")


def _findings(found: list[Finding]) -> Table:
    rows = [(badge(finding.severity.value, TONES[finding.severity]), finding.subject, finding.problem, finding.remedy) for finding in found]
    return Table(
        "What the doctor finds", ("", "Where", "What", "Remedy"), rows or [(badge("well", "success"), "", "Nothing is wrong.", "")]
    )


def _versions() -> Table:
    with connection.cursor() as cursor:
        cursor.execute("SELECT split_part(version(), ' on ', 1), pg_size_pretty(pg_database_size(current_database()))")
        postgresql, size = cursor.fetchone()
    rows: list[tuple[Any, ...]] = [
        ("Python, Django", f"{platform.python_version()}, {django.get_version()}"),
        ("PostgreSQL", f"{postgresql.removeprefix('PostgreSQL ')}, {size} of data"),
        ("Valkey or Redis", _valkey()),
    ]
    return Table("What is running", ("Part", "Version"), rows)


def _valkey() -> str:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
            found = client.info()
    except redis.RedisError as error:
        return f"away: {type(error).__name__}"
    return f"{found.get('valkey_version') or found['redis_version']}, {found['used_memory_human']} in memory"
