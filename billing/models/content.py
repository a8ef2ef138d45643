"""Stored content: what was asked and answered, of accounts that want it stored, and the keys that it is sealed with."""

from django.db import models

from accounts.models import Account


class ContentKey(models.Model):
    """What an account's stored content is sealed with. When the account wants nothing stored any more, it ends: its secret is destroyed.

    `sealed` is the key itself, sealed in the vault for its account (`billing.stored_content`).
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    sealed = models.CharField(max_length=250, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account"], condition=models.Q(ended_at__isnull=True), name="content_key_one_live"),
            models.CheckConstraint(
                condition=models.Q(ended_at__isnull=True) & ~models.Q(sealed="") | models.Q(ended_at__isnull=False, sealed=""),
                name="content_key_ended_destroyed",
            ),
        ]

    def __str__(self) -> str:
        return f"content key {self.pk}"


class StoredContent(models.Model):
    """What was asked and answered in one request, compressed and sealed for this account and request.

    Of what is longer than `CONTENT_MAX_BYTES` only the beginning is there, and it says so.
    """

    request_id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+")
    key = models.ForeignKey(ContentKey, on_delete=models.CASCADE, db_index=False, related_name="+")
    at = models.DateTimeField(help_text="When the request began.")
    expires_at = models.DateTimeField(help_text="When it is deleted, unless the account asks for less by then.")
    format = models.CharField(max_length=20)
    request = models.BinaryField()
    answer = models.BinaryField()
    request_cut = models.BooleanField()
    answer_cut = models.BooleanField()

    class Meta:
        indexes = [
            models.Index(fields=["expires_at"], name="content_by_expiry"),
            models.Index(fields=["key", "at"], name="content_by_key"),
        ]

    def __str__(self) -> str:
        return str(self.request_id)
