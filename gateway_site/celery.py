"""The Celery application: it wakes work that lies in the database, and carries nothing itself."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

from django.conf import settings

LEAST_PATIENCE = 30.0  # seconds: behind a slow task on a busy machine, a frequent one would expire every time and never run


def _every(task: str, seconds: float) -> dict[str, object]:
    # A wake-up that no worker took before the next ones are due is worth nothing: it must not queue up behind a pause.
    return {"task": task, "schedule": seconds, "options": {"expires": max(seconds, LEAST_PATIENCE)}}


app = Celery("tollgate")
app.conf.update(
    broker_url=settings.CELERY_BROKER_URL,
    broker_connection_retry_on_startup=True,
    result_backend=None,
    task_ignore_result=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    timezone="UTC",
    worker_hijack_root_logger=False,
    beat_schedule={
        "sweep-holds": _every("billing.tasks.sweep_holds", 5.0),
        "deliver-outbox": _every("billing.tasks.deliver_outbox", 5.0),
        "call-webhooks": _every("billing.tasks.call_webhooks", 5.0),
        "raise-alerts": _every("billing.tasks.raise_alerts", 60.0),
        "look-ahead": _every("billing.tasks.look_ahead", 3600.0),
        "drain-stripe": _every("billing.tasks.drain_stripe", 3.0),
        "refill-wallets": _every("billing.tasks.refill_wallets", 5.0),
        "attend-to-plans": _every("billing.tasks.attend_to_plans", 3600.0),
        "backfill-stripe": _every("billing.tasks.backfill_stripe", 600.0),
        "compare-with-stripe": {
            "task": "billing.tasks.compare_with_stripe",
            "schedule": crontab(hour="2", minute="41"),
            "options": {"expires": 3600},
        },
        "expire-grants": _every("billing.tasks.expire_grants", 60.0),
        "reconcile": _every("billing.tasks.reconcile", 300.0),
        "drop-dead-owners": _every("billing.tasks.drop_dead_owners", 3600.0),
        "drop-ended-sessions": _every("gateway_site.tasks.drop_ended_sessions", 3600.0),
        "drop-expired-responses": _every("proxy.tasks.drop_expired_responses", 3600.0),
        "drop-stored-content": _every("billing.tasks.drop_stored_content", 60.0),
        "look-after-videos": _every("proxy.tasks.look_after_videos", 300.0),
        "make-partitions": {
            "task": "billing.tasks.make_partitions",
            "schedule": crontab(hour="3", minute="17"),
            "options": {"expires": 3600},
        },
    },
)
app.autodiscover_tasks()
