"""What people and their programs are told: mails, signed webhooks, and the alerts that call for them."""
