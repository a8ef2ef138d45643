"""The tables of money and of what it was spent on."""

from billing.models.gifts import Adjustment, Redemption, RedemptionCode
from billing.models.notices import Alert, AlertSettings, WalletArming, WebhookEndpoint
from billing.models.payments import AutoTopUp, Reversal, StripeCustomer, StripeEvent, Subscription, TopUp
from billing.models.plans import Plan, PlanAssignment
from billing.models.rollups import UsageSlot
from billing.models.tasks import TaskRun
from billing.models.usage import UsageRecord
from billing.models.wallet import CreditGrant, Hold, HoldOwner, SpendWindow, Transfer, Wallet

__all__ = [
    "Adjustment",
    "Alert",
    "AlertSettings",
    "AutoTopUp",
    "CreditGrant",
    "Hold",
    "HoldOwner",
    "Plan",
    "PlanAssignment",
    "Redemption",
    "RedemptionCode",
    "Reversal",
    "SpendWindow",
    "StripeCustomer",
    "StripeEvent",
    "Subscription",
    "TaskRun",
    "TopUp",
    "Transfer",
    "UsageRecord",
    "UsageSlot",
    "Wallet",
    "WalletArming",
    "WebhookEndpoint",
]
