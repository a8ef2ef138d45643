"""What a process under chaos does differently from a real one: it is impatient, and it has failpoints."""

from datetime import timedelta

from django.apps import AppConfig


class Planting(AppConfig):
    """Plants all of it when Django is ready, in every process of the run, web and Celery alike."""

    name = "tests.faults.chaos"
    label = "chaos"

    def ready(self) -> None:
        """Shorten the waits, install the failpoints."""
        from billing.payments import auto_top_up, inbox, strikes  # not above: the apps have to be there first
        from proxy import open_operations
        from tests.faults.chaos import failpoints

        inbox.LEASE = timedelta(seconds=2)
        inbox.FIRST_PAUSE = timedelta(seconds=0.5)
        inbox.LONGEST_PAUSE = timedelta(seconds=4)
        auto_top_up.COOLDOWN = timedelta(seconds=3)
        auto_top_up.RESEND_AFTER = timedelta(seconds=1)
        strikes.RETRY_AFTER = timedelta(seconds=1)
        open_operations.FIRST_WAIT = timedelta(seconds=0.5)
        open_operations.LONGEST_WAIT = timedelta(seconds=2)
        failpoints.install()
