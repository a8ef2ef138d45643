"""Opens an account: the tenant, its wallet, its first owner and its plan, all or nothing."""

from datetime import datetime

from django.db import transaction

from accounts.models import Account, Membership, User
from billing import ledger
from billing.gifts.welcome import grant_welcome
from billing.models import Plan, PlanAssignment


class PlanNotFound(Exception):
    """No plan has this slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is no plan {slug!r}")
        self.slug = slug


@transaction.atomic
def open_account(
    *, slug: str, name: str, now: datetime, owner_email: str | None = None, plan_slug: str | None = None, welcome: bool = False
) -> Account:
    """Open the account `slug`, or complete it: what it has already (a name, a plan, a member's role) stays as it is.

    The owner is made without a usable password when nobody has this address yet. Without `plan_slug` the default plan is assigned; where
    there is none, the account has no plan and so no quota. `welcome`: with the welcome credit, for staff who vouch for the owner.

    Raises: PlanNotFound, django.core.exceptions.ValidationError.
    """
    plan = Plan.objects.filter(is_default=True).first()
    if plan_slug is not None:
        plan = Plan.objects.filter(slug=plan_slug).first()
        if plan is None:
            raise PlanNotFound(plan_slug)
    account = Account.objects.filter(slug=slug).first()
    if account is None:
        Account(slug=slug, name=name, created_at=now).full_clean(validate_unique=False)
        account, _ = Account.objects.get_or_create(slug=slug, defaults={"name": name, "created_at": now})
    ledger.open_wallet(account=account)
    if owner_email:
        email = owner_email.strip().lower()
        user = User.objects.filter(email=email).first()
        if user is None:
            User(email=email, created_at=now).full_clean(exclude=["password"], validate_unique=False)
            user = User.objects.create_user(email)
        Membership.objects.get_or_create(account=account, user=user, defaults={"role": Membership.Role.OWNER, "created_at": now})
    if plan is not None and not PlanAssignment.objects.filter(account=account).exists():
        PlanAssignment.objects.get_or_create(account=account, starts_at=now, defaults={"plan": plan})
    if welcome:
        grant_welcome(account=account, now=now)
    return account
