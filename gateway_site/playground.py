"""The playground: a member talks to models from a page of the account, with a short-lived key (`keys.playground`), as any program would."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from billing.models import Wallet
from catalog import listing, shop
from catalog.models import Model
from keys import playground as keys
from keys.snippets import origin_of


@require_safe
@account_page(Permission.MANAGE_KEYS)
def playground(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the door's signature
    """The page, with the models that can be talked to. Which of them the plan includes is said when one is asked."""
    offers = [offer for offer in listing.for_sale(now=timezone.now()) if offer.kind == Model.Kind.TEXT]
    models = {
        offer.slug: {
            "input": shop.per_million(offer.price.rates.input, offer.price),
            "output": shop.per_million(offer.price.rates.output, offer.price),
            "most": offer.max_output,
        }
        for offer in offers
    }
    wallet = Wallet.objects.filter(account=account).first()
    context = {
        "models": models,
        "offers": offers,
        "first": _first_asked(offers),
        "free_nano": wallet.free if wallet is not None else 0,
        "origin": origin_of(request),
        "budget_nano": keys.BUDGET_NANO,
        "minutes": int(keys.LASTS.total_seconds() // 60),
    }
    return render_page(request, "playground/playground.html", context)


def _first_asked(offers: list[listing.Offer]) -> str:
    """What the page asks unless another model is chosen: a real one where there is any, and of the demo models the one that does no harm."""
    return next((offer.slug for offer in offers if not offer.slug.startswith("demo/")), "demo/echo")


@require_POST
@never_cache
@account_page(Permission.MANAGE_KEYS)
def playground_key(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """A key for the page that asks, once: the page keeps it in memory and nowhere else."""
    now = timezone.now()
    key, secret = keys.open_page(account=account, by=membership.user, now=now, ip=request.META.get("REMOTE_ADDR") or None)
    return JsonResponse({"key": secret, "lasts_seconds": int(((key.expires_at or now) - now).total_seconds())})
