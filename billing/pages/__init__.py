"""The pages on which members see and manage an account's money: each view reads what is asked, makes one call of a rule, and shows the answer."""
