"""The usage record: one row for every request that was admitted, with what it consumed, what it cost and why."""

from django.db import models

from accounts.models import Account
from billing.models.wallet import Transfer, Wallet
from catalog.models import Price
from keys.models import ApiKey


class UsageRecord(models.Model):
    """What happened in one request: its receipt. Partitioned by ranges of the UUIDv7 request id, which are months.

    `cost` is what was charged; `list_cost` what the usage costs at the price version. Of the difference `written_off` is what the wallet could
    not pay, the operator's loss; the rest was not charged by rule. `overrun_cost` is the part of `cost` that was booked after a sweep.
    """

    class Source(models.TextChoices):
        PROVIDER = "provider"
        ESTIMATED = "estimated"
        PARTIAL = "partial"
        NONE = "none"

    class Status(models.TextChoices):
        OK = "ok"
        CUT = "cut", "cut short by the provider"
        ABORTED = "aborted", "aborted by the client"
        STOPPED = "stopped", "stopped: the wallet or budget was spent"
        ERROR = "error"
        SWEPT = "swept", "the serving process died"

    request_id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    wallet = models.ForeignKey(Wallet, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    model = models.CharField(max_length=150)
    provider = models.CharField(max_length=50)
    upstream_model = models.CharField(max_length=200)
    endpoint = models.CharField(max_length=30)
    format = models.CharField(max_length=20)
    streamed = models.BooleanField()
    price = models.ForeignKey(Price, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")

    input_tokens = models.BigIntegerField(default=0)
    cached_input_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    audio_input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    audio_output_tokens = models.BigIntegerField(default=0)
    images = models.BigIntegerField(default=0)
    web_searches = models.BigIntegerField(default=0, db_default=0)

    cost = models.BigIntegerField()
    list_cost = models.BigIntegerField()
    overrun_cost = models.BigIntegerField(default=0)
    written_off = models.BigIntegerField(default=0)
    upstream_cost = models.BigIntegerField()
    reported_cost = models.BigIntegerField(null=True)
    hold_amount = models.BigIntegerField()
    usage_source = models.CharField(max_length=9, choices=Source.choices)
    status = models.CharField(max_length=7, choices=Status.choices)
    rule = models.CharField(max_length=40)
    finish_reason = models.CharField(max_length=40, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    status_code = models.PositiveSmallIntegerField()
    attempts = models.JSONField(default=list)
    flags = models.JSONField(default=list)
    user_tag = models.CharField(max_length=100, blank=True)
    latency_ms = models.IntegerField(null=True)
    first_token_ms = models.IntegerField(null=True)
    transfer = models.ForeignKey(Transfer, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(cost__gte=0, list_cost__gte=0, overrun_cost__gte=0, written_off__gte=0), name="usage_cost_not_negative"
            )
        ]
        indexes = [
            models.Index(fields=["account", "-started_at"], name="usage_by_account"),
            models.Index(fields=["key", "started_at"], name="usage_by_key"),
            models.Index(fields=["transfer"], name="usage_by_transfer"),
            models.Index(fields=["account", "user_tag", "-started_at"], condition=~models.Q(user_tag=""), name="usage_by_user"),
        ]

    def __str__(self) -> str:
        return str(self.request_id)

    @property
    def tokens_in(self) -> int:
        """Every token that went in, however it was billed."""
        cached = self.cached_input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
        return self.input_tokens + cached + self.audio_input_tokens

    @property
    def tokens_out(self) -> int:
        """Every token that came out, shown or not."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens
