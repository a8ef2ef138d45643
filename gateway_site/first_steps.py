"""A member's first steps in an account: what is done already, and the first request as soon as there is one. Queries, and hiding the list."""

from dataclasses import dataclass
from datetime import datetime

from allauth.account.models import EmailAddress
from django.db.models import Q

from accounts.models import Account, Membership
from billing import reports
from billing.models import UsageRecord, UsageSlot
from billing.payments import stripe_client
from keys import playground
from keys.models import ApiKey


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What is done. `key` is the newest that can call models; `pays` is whether the installation takes payments at all."""

    has_verified: bool
    key: ApiKey | None
    first: UsageRecord | None
    has_budget: bool
    has_topped_up: bool
    pays: bool

    @property
    def mark(self) -> str:
        """What is done, as one word: it changes when something of it does."""
        done = (self.has_verified, self.key is not None, self.first is not None, self.has_budget, self.has_topped_up)
        return "".join("1" if each else "0" for each in done)

    @property
    def are_done(self) -> bool:
        """Whether nothing is left to do."""
        return (
            self.has_verified
            and self.key is not None
            and self.first is not None
            and self.has_budget
            and (self.has_topped_up or not self.pays)
        )


def look(*, membership: Membership, now: datetime) -> FirstSteps | None:
    """What is done of the list that `membership`'s person sees; None when they have put it away."""
    if membership.first_steps_hidden_at is not None:
        return None
    account = membership.account
    keys = ApiKey.objects.filter(account=account, revoked_at=None).exclude(kind=ApiKey.Kind.MANAGEMENT).exclude(name=playground.NAME)
    return FirstSteps(
        has_verified=EmailAddress.objects.filter(user=membership.user, verified=True).exists(),
        key=keys.filter(Q(expires_at=None) | Q(expires_at__gt=now)).order_by("-created_at").first(),
        first=first_request(account=account),
        has_budget=keys.filter(budget_nano__isnull=False).exists(),
        has_topped_up=reports.has_paid(account),
        pays=stripe_client.is_configured(),
    )


def first_request(*, account: Account, key_id: int | None = None) -> UsageRecord | None:
    """The first request of an account, or of one of its keys, that was answered; None while there is none."""
    slots = UsageSlot.objects.filter(account=account)
    if key_id is not None:
        slots = slots.filter(key_id=key_id)
    begins = slots.order_by("starts_at").values_list("starts_at", flat=True).first()  # an index leads there, however long ago it was
    if begins is None:
        return None
    records = UsageRecord.objects.filter(account=account, started_at__gte=begins).exclude(status="error")
    if key_id is not None:
        records = records.filter(key_id=key_id)
    return records.order_by("started_at").first()


def hide(*, membership: Membership, now: datetime) -> None:
    """Show this member the list no more."""
    Membership.objects.filter(pk=membership.pk, first_steps_hidden_at=None).update(first_steps_hidden_at=now)
