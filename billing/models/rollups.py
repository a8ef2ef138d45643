"""Usage in slots of a quarter of an hour: what lists and charts read, so that no page sums records.

A slot is written by `billing_settle` in the transaction that books the record, so it is never late. Quarters of an hour, because every time
zone's days and hours begin on one.
"""

from django.db import models

from accounts.models import Account
from keys.models import ApiKey


class UsageSlot(models.Model):
    """The sum of the usage records of one key and model (at one provider) that started in one quarter of an hour."""

    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    model = models.CharField(max_length=150)
    provider = models.CharField(max_length=50)
    starts_at = models.DateTimeField()
    requests = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0, help_text="Records with the status error, cut or swept.")
    input_tokens = models.BigIntegerField(default=0)
    cached_input_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0, help_text="Both lifetimes.")
    audio_input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    audio_output_tokens = models.BigIntegerField(default=0)
    images = models.BigIntegerField(default=0)
    web_searches = models.BigIntegerField(default=0, db_default=0)
    cost = models.BigIntegerField(default=0)
    upstream_cost = models.BigIntegerField(default=0)
    reported_cost = models.BigIntegerField(default=0, help_text="Sum over `reported` records.")
    reported = models.BigIntegerField(default=0, db_default=0, help_text="Records with which the provider told what it charges.")
    reported_upstream_cost = models.BigIntegerField(default=0, db_default=0, help_text="Our upstream cost of `reported` records.")
    written_off = models.BigIntegerField(default=0)
    latency_ms = models.BigIntegerField(default=0, help_text="Sum over `timed` records.")
    timed = models.BigIntegerField(default=0)
    first_token_ms = models.BigIntegerField(default=0, help_text="Sum over `first_timed` records.")
    first_timed = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "starts_at", "key", "model", "provider"], name="slot_once")]
        indexes = [
            models.Index(fields=["key", "starts_at"], name="slot_by_key"),
            models.Index(fields=["starts_at"], name="slot_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.starts_at:%Y-%m-%d %H:%M}"
