"""Money: wallets, holds, settlement, the ledger, plans and their quotas, and the reports on them."""
