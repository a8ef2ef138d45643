"""Payments: money from outside into wallets, and back. Stripe is asked, and what it says is booked once, whichever road the news takes."""
