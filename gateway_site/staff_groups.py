"""The groups that staff are put into, and what each may do in the admin. A superuser may do everything and needs none.

`Support` reads everything that is not a provider's credential, looks at accounts as their members do, and grants credit up to
ADJUSTMENT_LIMIT; above it a second person decides, who is not of this group. `Finance` also refunds, debits, and is that second person.
"""

from collections.abc import Mapping

from django.contrib.auth.models import Group, Permission
from django.db import transaction

READ = (
    "accounts.view_account accounts.view_user accounts.view_membership accounts.view_auditevent accounts.view_outboxmessage "
    "keys.view_apikey catalog.view_model catalog.view_price catalog.view_route catalog.view_alias catalog.view_provider "
    "billing.view_plan billing.view_planassignment billing.view_wallet billing.view_transfer billing.view_creditgrant billing.view_hold "
    "billing.view_holdowner billing.view_usagerecord billing.view_spendwindow billing.view_taskrun billing.view_alert "
    "billing.view_alertsettings billing.view_webhookendpoint billing.view_topup billing.view_reversal billing.view_stripeevent "
    "billing.view_stripecustomer billing.view_adjustment billing.view_redemption"
).split()
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Support": (*READ, "billing.add_creditgrant", "accounts.impersonate"),
    "Finance": (
        *READ,
        "billing.add_creditgrant",
        "billing.add_transfer",
        "billing.change_wallet",
        "billing.change_topup",
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
    for name, wanted in GROUPS.items():
        found = {
            f"{permission.content_type.app_label}.{permission.codename}": permission
            for permission in Permission.objects.select_related("content_type").filter(
                codename__in=[each.partition(".")[2] for each in wanted]
            )
        }
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.set([found[each] for each in wanted])
        made[name] = len(wanted)
    return made
