"""What Celery's tasks have done last, so that a beat which has stopped is noticed."""

from django.db import models


class TaskRun(models.Model):
    """The last run of one task. `last_finished_at` is when one last ended well: a task that fails each time has not finished."""

    name = models.CharField(max_length=100, unique=True)
    last_started_at = models.DateTimeField()
    last_finished_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True, help_text="What the last run ended with; empty when it ended well.")
    runs = models.BigIntegerField(default=0)
    findings = models.BigIntegerField(default=0, help_text="What the last run found that needs a person: for the audit, broken invariants.")

    def __str__(self) -> str:
        return self.name
