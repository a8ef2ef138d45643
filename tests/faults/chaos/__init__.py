"""The chaos harness: real servers under load, killed with SIGKILL again and again, and afterwards every cent must be where it belongs.

    python -m tests.faults.chaos --rounds 1000 --seed 7      # the long form (`make chaos ROUNDS=1000`)

A round kills one of: a web worker, the whole web server, Celery with beat, PostgreSQL, Valkey; or whichever process comes first to a named
place in the middle of its work (`failpoints`). Meanwhile clients ask for completions and hang up (`load`), order videos of which not all
come (`films`), and pay, refund and dispute, redeem codes, change plans and are topped up automatically (`till`) at a fake Stripe that
delivers its webhooks twice, late, in any order or not at all (`bank`). A seed fixes the order of victims, moments and deeds. `--bug NAME`
breaks a function first (`bugs`): the run must then fail, which shows that it could.
"""
