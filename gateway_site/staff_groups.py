"""The groups that staff are put into, and what each may do in the admin. A superuser may do everything and needs none.

`Support` reads everything that is not a provider's credential, looks at accounts as their members do, and grants credit up to
ADJUSTMENT_LIMIT; above it a second person decides, who is not of this group. `Finance` also refunds, debits, and is that second person.

They are made after every `migrate`, whoever runs it: the only step that each way of installing and upgrading has. What operators changed
stays: a group that exists gets only what was never its usual permission before (`accounts.models.UsualPermission` remembers).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.contrib.auth.models import Group, Permission
from django.db import DEFAULT_DB_ALIAS, transaction

from accounts.models import UsualPermission

READ = (
    "accounts.view_account accounts.view_user accounts.view_membership accounts.view_auditevent accounts.view_outboxmessage "
    "accounts.view_announcement "
    "keys.view_apikey catalog.view_model catalog.view_price catalog.view_route catalog.view_alias catalog.view_provider "
    "billing.view_plan billing.view_planassignment billing.view_wallet billing.view_transfer billing.view_creditgrant billing.view_hold "
    "billing.view_holdowner billing.view_usagerecord billing.view_spendwindow billing.view_taskrun billing.view_alert "
    "billing.view_alertsettings billing.view_webhookendpoint billing.view_topup billing.view_reversal billing.view_stripeevent "
    "billing.view_stripecustomer billing.view_adjustment billing.view_redemption billing.view_subscription"
).split()
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Support": (
        *READ,
        "billing.add_creditgrant",
        "billing.change_subscription",
        "accounts.impersonate",
        "accounts.add_announcement",
        "accounts.change_announcement",
    ),
    "Finance": (
        *READ,
        "billing.add_creditgrant",
        "billing.add_transfer",
        "billing.change_wallet",
        "billing.change_topup",
        "billing.change_subscription",
        "billing.change_stripeevent",
        "billing.change_adjustment",
        "billing.view_redemptioncode",
        "billing.view_providerinvoice",
        "billing.add_providerinvoice",
        "billing.change_providerinvoice",
    ),
}


@transaction.atomic
def make() -> dict[str, int]:
    """Make the groups, or bring their permissions back to what stands here; returns how many each has. Who is in them stays."""
    made = {}
    for name, found in _usual().items():
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.set(found)
        _remember(group, found)
        made[name] = len(found)
    return made


@transaction.atomic
def keep_up() -> dict[str, int]:
    """Make the groups that are not there, and give the others what is usual for the first time; returns how many permissions each was given.

    What an operator took away is not given again, what they added stays, and so does who is in the groups.
    """
    given = {}
    for name, found in _usual().items():
        group, _ = Group.objects.get_or_create(name=name)
        known = set(UsualPermission.objects.filter(group=group).values_list("permission", flat=True))
        fresh = [permission for permission in found if permission.pk not in known]
        group.permissions.add(*fresh)
        _remember(group, fresh)
        given[name] = len(fresh)
    return given


def after_migrate(sender: AppConfig, using: str = DEFAULT_DB_ALIAS, apps: Any = installed, **_said: Any) -> None:
    """Keep the groups up, once all apps have their permissions: Django tells of each app that has models, one after the other.

    `apps` is what the database has tables for: after a migration back there may be none for this.
    """
    last = [each for each in installed.get_app_configs() if each.models_module is not None][-1]
    tables = {model._meta.label for model in apps.get_models()}  # noqa: SLF001 - Django's own name for it
    if sender == last and using == DEFAULT_DB_ALIAS and {"auth.Group", "accounts.UsualPermission"} <= tables:
        keep_up()


def _usual() -> dict[str, list[Permission]]:
    """What is usual, of what there is: a migration back takes permissions away."""
    usual = {}
    for name, wanted in GROUPS.items():
        named = Permission.objects.select_related("content_type").filter(codename__in=[each.partition(".")[2] for each in wanted])
        usual[name] = [each for each in named if f"{each.content_type.app_label}.{each.codename}" in wanted]
    return usual


def _remember(group: Group, given: Iterable[Permission]) -> None:
    UsualPermission.objects.bulk_create(
        [UsualPermission(group=group, permission=permission) for permission in given], ignore_conflicts=True
    )
