"""The tables of money and of what it was spent on."""

from billing.models.content import ContentKey, StoredContent
from billing.models.gifts import Adjustment, CodeTries, Redemption, RedemptionCode, WelcomeGift
from billing.models.invoices import ProviderInvoice
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
    "CodeTries",
    "ContentKey",
    "CreditGrant",
    "Hold",
    "HoldOwner",
    "Plan",
    "PlanAssignment",
    "ProviderInvoice",
    "Redemption",
    "RedemptionCode",
    "Reversal",
    "SpendWindow",
    "StoredContent",
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
    "WelcomeGift",
]
