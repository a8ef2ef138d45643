"""The tables of money and of what it was spent on."""

from billing.models.plans import Plan, PlanAssignment
from billing.models.tasks import TaskRun
from billing.models.usage import UsageRecord
from billing.models.wallet import CreditGrant, Hold, HoldOwner, SpendWindow, Transfer, Wallet

__all__ = ["CreditGrant", "Hold", "HoldOwner", "Plan", "PlanAssignment", "SpendWindow", "TaskRun", "Transfer", "UsageRecord", "Wallet"]
