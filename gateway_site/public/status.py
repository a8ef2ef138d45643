"""The page that says how the service is doing, for everybody: its own parts as they answer now, models and providers by real traffic."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from threading import Lock

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts import announcements
from billing import service_health
from billing.service_health import Health, State
from catalog import listing
from gateway_site import navigation, probes
from gateway_site.public.health_bars import bars

# Whoever asks sooner again gets the same figures: by window, in seconds.
FRESH = {"hour": 30, "day": 60, "week": 300}
SAID: dict[State, str] = {"good": "Working", "warn": "Some trouble", "bad": "Trouble", "none": "Too little traffic"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the gateway, and how it is."""

    name: str
    state: State
    text: str


@require_safe
def status(request: HttpRequest) -> HttpResponse:
    """How everything is doing."""
    now = timezone.now()
    chosen = request.GET.get("window", "")
    window = chosen if chosen in service_health.WINDOWS else "day"
    parts = our_parts()
    models, providers = _traffic(window, now=now)
    tabs = [{"label": each.label, "href": f"?window={name}", "is_current": name == window} for name, each in service_health.WINDOWS.items()]
    account = partial(navigation.account_of, request)
    planned = announcements.maintenance(is_signed_in=request.user.is_authenticated, account=account, now=now)
    context = {
        "maintenance": [(each, each.has_begun(now)) for each in planned],
        "zone": found.timezone if planned and (found := account()) else "UTC",
        "parts": parts,
        "worst": worst([part.state for part in parts]),
        "tables": [("Models", _shown(models)), ("Providers", _shown(providers))],
        "has_traffic": bool(models or providers),
        "tabs": tabs,
        "now": now,
    }
    return render(request, "status/status.html", context)


def our_parts() -> list[Part]:
    """The gateway's own parts, asked now."""
    found = probes.readiness()
    reachable = "database" not in found.problems
    return [
        Part(
            "Requests",
            "bad" if found.problems else "good",
            "Requests are answered." if not found.problems else "Requests are refused for now.",
        ),
        Part("Database", "good" if reachable else "bad", "Wallets, keys and usage can be read." if reachable else "It does not answer."),
        Part(
            "Rate limits",
            "warn" if {"valkey", "rate_limits"} & found.degraded else "good",
            "Counted for each process alone." if {"valkey", "rate_limits"} & found.degraded else "Counted together.",
        ),
        Part(
            "Background work",
            "warn" if "beat" in found.degraded or not reachable else "good",
            "Late: mails, webhooks and checks come later." if "beat" in found.degraded or not reachable else "On time.",
        ),
    ]


def worst(states: list[State]) -> State:
    """The worst of some states."""
    order: tuple[State, ...] = ("bad", "warn", "good", "none")
    return min(states, key=order.index, default="none")


def recent(dimension: str, window: str, *, now: datetime) -> Mapping[str, Health]:
    """How each model or provider has been doing, as old as `FRESH` allows. Of those who ask at once, one reads and the others wait for it."""
    with _READING:
        return _recent(dimension, window, int(now.timestamp()) // FRESH[window])


_READING = Lock()


@lru_cache(maxsize=12)
def _recent(dimension: str, window: str, moment: int) -> Mapping[str, Health]:
    now = datetime.fromtimestamp((moment + 1) * FRESH[window] - 1, tz=UTC)
    return service_health.by(dimension, service_health.WINDOWS[window], now=now)


def _traffic(window: str, *, now: datetime) -> tuple[list[Health], list[Health]]:
    """How the models that are for sale, and the providers, have been doing; nothing while the database is away."""
    try:
        for_sale = {offer.slug for offer in listing.for_sale(now=now)}
        models = [each for each in recent("model", window, now=now).values() if each.name in for_sale]
        providers = recent("provider", window, now=now).values() if settings.STATUS_SHOWS_PROVIDERS else ()
    except DatabaseError:
        return [], []
    return models, list(providers)


def _shown(found: list[Health]) -> list[dict[str, object]]:
    return [{"health": each, "said": SAID[each.state], "bars": bars(each)} for each in sorted(found, key=lambda each: each.name)]
