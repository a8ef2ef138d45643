"""Credit that nobody bought: redemption codes, the welcome of a new customer, and what staff credit or debit by hand."""
