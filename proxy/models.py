"""The tables of stored responses, one row for each turn that a later request may build on, and of open operations."""

from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models

from accounts.models import Account
from keys.models import ApiKey


class StoredResponses(models.QuerySet["StoredResponse"]):
    """Questions about stored responses."""

    def kept(self, response_id: str, *, account_id: int, now: datetime) -> "StoredResponses":
        """The account's response of this id, unless it has expired."""
        return self.filter(account_id=account_id, response_id=response_id, expires_at__gt=now)


class StoredResponse(models.Model):
    """A response of the Responses API, of one account: what its turn said, and what was answered.

    `input` are this turn's own items and `output` the answer's, each a JSON list; `item_ids` are the ids of the latter, under which a later
    request may name them; `document` is the response as the client saw it, a JSON object
    with its output left out. They are kept as text: jsonb would refuse a NUL in a string and forget the order of names.
    """

    pk = models.CompositePrimaryKey("account_id", "response_id")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+")
    response_id = models.CharField(max_length=200)
    key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    model = models.CharField(max_length=200)
    status = models.CharField(max_length=20)
    previous_id = models.CharField(max_length=200, blank=True)
    input = models.TextField()
    output = models.TextField()
    item_ids = ArrayField(models.CharField(max_length=200), default=list, db_default=[])
    document = models.TextField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = StoredResponses.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["expires_at"], name="response_by_expiry"),
            GinIndex(fields=["item_ids"], name="response_by_item"),
        ]

    def __str__(self) -> str:
        return self.response_id


class OpenOperation(models.Model):
    """A long-running operation that a provider accepted and whose end nobody has seen yet: the gateway looks by itself.

    `name` is the one that its account knows it by, which holds all that is needed to ask (`proxy.operations`), sealed for the account.
    """

    request_id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+")
    name = models.TextField()
    created_at = models.DateTimeField()
    next_look_at = models.DateTimeField()
    looks = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = "open video"
        indexes = [models.Index(fields=["next_look_at"], name="open_operation_by_look")]

    def __str__(self) -> str:
        return str(self.request_id)
