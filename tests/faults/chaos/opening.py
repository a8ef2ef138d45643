"""What there is before the first request: the tables, customers of every kind, models at the fake provider, codes and plans."""

import json
from pathlib import Path

from django.core.management import call_command
from django.utils import timezone

from tests.faults.chaos import films
from tests.faults.chaos.load import UPSTREAM_MODELS

USD = 1_000_000_000
SOLD = {"chaos-small": (10, 8), "chaos-large": (30, 25)}  # dollars a month, and dollars of credit in it


def prepare(told: Path, base_url: str) -> None:
    """Migrate and open accounts: some rich, some soon spent, some with a budget, some that pay. Writes what people have to know to `told`."""
    from accounts.models import User  # not above: the harness itself, which has other settings or none, imports this module's neighbours
    from billing.gifts import codes
    from billing.models import Plan
    from tests.conftest import make_customer, make_model

    call_command("migrate", verbosity=0)
    User.objects.create_user("staff@chaos.test", is_staff=True, is_superuser=True)
    spenders = [
        make_customer(usd="50"),
        make_customer(usd="50", budget_nano=20_000_000),
        make_customer(usd="0.02"),
        make_customer(usd="0.002"),
        make_customer(usd="50", budget_nano=10**12, budget_window="day"),
    ]
    payers, automatic = [make_customer(usd="1") for _ in range(4)], [make_customer(usd="1") for _ in range(2)]
    models = [make_model(base_url, name) for name in UPSTREAM_MODELS]
    made = codes.create_codes(count=1000, amount_nano=700_000_000, most_uses=3, user=None, now=timezone.now())
    plans = [Plan.objects.create(slug=slug, monthly_output_tokens=tokens).slug for slug, tokens in (("chaos-a", None), ("chaos-b", 10**9))]
    subscribers = [make_customer(usd="1") for _ in range(3)]
    directors = [make_customer(usd="1000"), make_customer(usd="1000", budget_nano=10**12, budget_window="day"), make_customer(usd="2")]
    delivers = {}
    for knobs, delivered in films.KINDS.items():
        model = make_model(base_url, f"chat:{knobs}", kind="google", model_kind="video", image_usd=films.USD_PER_SECOND)
        delivers[model] = delivered
    Plan.objects.get_or_create(is_default=True, defaults={"slug": "chaos-default"})
    for slug, (price, included) in SOLD.items():
        Plan.objects.create(slug=slug, price_nano=price * USD, included_credit_nano=included * USD)
    shop = {
        "secrets": [one.secret for one in (*spenders, *payers, *automatic)],
        "models": models,
        "payers": [one.account.pk for one in payers],
        "automatic": [one.account.pk for one in automatic],
        "directors": [one.secret for one in directors],
        "films": delivers,
        "subscribers": [one.account.pk for one in subscribers],
        "codes": [one.code for one in made],
        "plans": plans,
    }
    unfinished = told.with_suffix(".new")
    unfinished.write_text(json.dumps(shop))
    unfinished.rename(told)
