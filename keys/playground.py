"""The keys that the playground's page uses: a member's own, for an hour, with a small budget and low limits.

The page has no other way in than any program has, so what it shows is what a program gets. Its key is a live key of the account like others: it
stands in the list, can be revoked there, and what it spends is counted under its name. It may only do what the page does, and lives in the
page's memory alone; a page that is opened again asks for another.
"""

from datetime import datetime, timedelta

from django.db import transaction

from accounts.models import Account, User
from catalog import money
from keys import custody
from keys.models import ApiKey

NAME = "Playground"
LASTS = timedelta(hours=1)
BUDGET_NANO = 1 * money.NANO_PER_USD
RPM, CONCURRENCY = 30, 4
MOST_AT_ONCE = 3  # pages of one member; opening one more ends the oldest one's key


@transaction.atomic
def open_page(*, account: Account, by: User, now: datetime, ip: str | None = None) -> tuple[ApiKey, str]:
    """Issue a key for a page that `by` has open; return its row and its secret. Of the member's older ones the last few go on."""
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)  # two pages at once are counted one after the other
    open_ones = ApiKey.objects.filter(account=account, created_by=by, name=NAME, revoked_at=None, expires_at__gt=now)
    for old in open_ones.order_by("-created_at", "-pk")[MOST_AT_ONCE - 1 :]:
        custody.revoke(key=old, by=by, now=now, ip=ip)
    return custody.issue(
        account=account,
        kind=ApiKey.Kind.LIVE,
        by=by,
        now=now,
        ip=ip,
        name=NAME,
        allowed_endpoints=["chat"],
        rpm=RPM,
        concurrency=CONCURRENCY,
        budget_nano=BUDGET_NANO,
        budget_window=ApiKey.Window.TOTAL,
        expires_at=now + LASTS,
    )
