"""The pages about models, for everybody: the list with its filters, and one page for each model. What was asked is in the address."""

from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from catalog import listing, shop
from gateway_site.public import status
from gateway_site.public.health_bars import bars
from keys.snippets import origin_of


@require_safe
def model_list(request: HttpRequest) -> HttpResponse:
    """What is for sale, as the address asks for it."""
    now = timezone.now()
    offers = listing.for_sale(now=now)
    wish = read_wish(request.GET)
    health = status.recent("model", "day", now=now)
    shown = [(offer, shop.headline(offer), health.get(offer.slug)) for offer in shop.choose(offers, wish)]
    context = {"shown": shown, "count": len(offers), "wish": wish, "choices": shop.choices(offers), "orders": shop.ORDERS}
    return render(request, "models/list.html", {**context, "contexts": shop.CONTEXTS})


@require_safe
def model_page(request: HttpRequest, name: str) -> HttpResponse:
    """One model: its prices, limits, capabilities, how to call it, and how it has been doing."""
    now = timezone.now()
    offer = next(iter(listing.for_sale(now=now, name=name)), None)
    if offer is None:
        raise Http404
    if offer.slug != name:
        return redirect("model_page", offer.slug)
    health = status.recent("model", "week", now=now).get(offer.slug)
    context = {
        "offer": offer,
        "lines": shop.lines(offer),
        "health": health,
        "bars": bars(health) if health is not None else None,
        "origin": origin_of(request),
        "is_free": shop.is_free(offer),
    }
    return render(request, "models/model.html", context)


def read_wish(asked: QueryDict) -> shop.Wish:
    """What an address asks for; what makes no sense in it is left out."""
    context = asked.get("context", "")
    order = asked.get("order", "")
    return shop.Wish(
        text=asked.get("q", "").strip()[:100],
        kind=asked.get("kind", "")[:20],
        maker=asked.get("provider", "")[:150],
        capability=asked.get("capability", "")[:50],
        context=int(context) if context.isascii() and context.isdecimal() and len(context) < 10 else 0,
        free=asked.get("free") == "yes",
        order=order if order in shop.ORDERS else "name",
    )
