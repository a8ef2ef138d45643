"""Providers in the admin, with what the proxy knows of them: whether an address is allowed, a trial request, and their breakers."""

import time
from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from catalog import admin as catalog_admin
from catalog.models import Provider, ProviderKey, Route
from gateway_site.admin_base import Page, PageForm, Table, badge, change_url, link_to
from proxy import breakers, egress, trials

MOST_ROUTES = 500


class ProviderForm(catalog_admin.ProviderForm):
    """A provider whose address the proxy would send to."""

    def problem_with_url(self, url: str, *, allow_private: bool) -> str:
        """What the proxy has against `url`."""
        try:
            egress.check_base_url(url, allow_private=allow_private)
        except (egress.AddressForbidden, ValueError) as error:
            return f"{error}."
        return ""


class TrialForm(PageForm):
    """Which route to try, with which key."""

    route = forms.ModelChoiceField(Route.objects.none(), empty_label=None)
    key = forms.ModelChoiceField(ProviderKey.objects.none(), required=False, empty_label="none")

    def __init__(self, *args: Any, provider: Provider, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        routes = Route.objects.filter(provider=provider, model__kind__in=("text", "embedding")).select_related("model", "provider")
        self.fields["route"].queryset = routes.order_by("model__slug")[:MOST_ROUTES] if not self.is_bound else routes  # type: ignore[attr-defined]
        keys = ProviderKey.objects.filter(provider=provider).order_by("-is_enabled", "name")
        self.fields["key"].queryset = keys  # type: ignore[attr-defined]
        self.initial.setdefault("key", keys.first())
        self.initial.setdefault("route", routes.filter(model__slug="demo/echo").first())  # the first of the demo ones breaks off on purpose


@admin.register(Provider)
class ProviderAdmin(catalog_admin.ProviderAdmin):
    """Providers, with the proxy's word on them."""

    form = ProviderForm
    pages = (
        Page("send_test_request", "Send a test request", ("catalog.change_provider",), icon="network_check"),
        Page("close_breakers", "Close breakers now", ("catalog.change_provider",), icon="restart_alt"),
    )

    def tables(self, request: HttpRequest, obj: Provider) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What rests at this provider, in which process."""
        resting = _resting(obj)
        headers = ("What", "Process", "Again in", "Why")
        if resting is None:
            yield Table("Breakers", headers, [("not known: Valkey is away", "-", "-", "-")])
        elif resting:
            subjects = _subjects(obj)
            rows = [
                (
                    link_to(subjects.get((one.kind, one.ident)), ""),
                    one.process,
                    f"{one.seconds_left} s",
                    "the provider asked to wait" if one.asked_to_wait else badge("failed", "danger"),
                )
                for one in resting
            ]
            yield Table("Breakers that are open", headers, rows)

    def send_test_request(self, request: HttpRequest, provider: Provider) -> HttpResponse:
        """Send a tiny real request and tell how it went; the provider charges for it as for any other."""
        form = TrialForm(request.POST or None, provider=provider)
        if request.method == "POST" and form.is_valid():
            route, key = form.cleaned_data["route"], form.cleaned_data["key"]
            try:
                trial = trials.try_route(route=route, key=key)
            except trials.CannotTry as error:
                form.add_error(None, str(error))
            else:
                status = f", status {trial.status}" if trial.status is not None else ""
                said = f"{route.model.slug}: {trial.result}{status}, {trial.milliseconds:,} ms: {trial.text}"
                self.log_change(request, provider, f"Sent a test request. {said}"[:500])
                (messages.success if trial.went_well else messages.error)(request, said)
                return HttpResponseRedirect(request.path)
        about = (
            f"A request of a few words goes to the provider now, as customers' requests do, for at most {trials.SECONDS:.0f} seconds. "
            "No wallet is charged; the provider charges for it as for any other."
        )
        return self.form_page(request, provider, title=f"Try {provider}", form=form, submit="Send", about=about)

    def close_breakers(self, request: HttpRequest, provider: Provider) -> HttpResponse:
        """Let every process try this provider again now."""
        if request.method == "POST":
            resting = _resting(provider)
            for kind, ident in {(one.kind, one.ident) for one in resting or ()}:
                breakers.close(kind, ident)
            if resting is None:
                messages.error(request, "Valkey does not answer: the processes cannot be told.")
            else:
                self.log_change(request, provider, f"Closed breakers: {len(resting)}.")
                messages.success(
                    request, f"{len(resting)} breaker{' was' if len(resting) == 1 else 's were'} open; requests try again at once."
                )
            return HttpResponseRedirect(change_url(provider))
        about = "What failed several times in a row rests for a while in each process. This makes all of them try again now."
        return self.form_page(request, provider, title=f"Close breakers of {provider}", form=PageForm(), submit="Close", about=about)


def _resting(provider: Provider) -> list[breakers.Resting] | None:
    found = breakers.read(now=time.time())
    if found is None:
        return None
    subjects = _subjects(provider)
    return [one for one in found if (one.kind, one.ident) in subjects]


def _subjects(provider: Provider) -> dict[tuple[str, str], Any]:
    """What of the provider may rest: its routes, the one that a prefix stands for, and its keys."""
    subjects: dict[tuple[str, str], Any] = {
        ("route", str(route.pk)): route for route in provider.routes.select_related("model", "provider")
    }
    subjects |= {("key", str(key.pk)): key for key in provider.keys.all()}
    return {**subjects, ("route", str(-provider.pk)): provider}
