"""Money and its history in the admin: shown, never written. One module for each thing that is administered; importing them registers them."""

from billing.admin import accounts, holds, margins, notices, payments, plans, subscriptions, transfers, usage, wallets
from billing.gifts import admin as gifts

__all__ = ["accounts", "gifts", "holds", "margins", "notices", "payments", "plans", "subscriptions", "transfers", "usage", "wallets"]
