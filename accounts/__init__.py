"""Who uses the gateway: people, accounts (the tenants) and what a member's role may do."""
