"""Keys and their budgets over the management API. A management key can neither make nor change one of its own kind."""

from datetime import timedelta
from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from accounts.permissions import Permission
from billing import key_totals
from billing.management_api import key_shapes, shapes
from billing.management_api.door import ManagementView, answer
from billing.management_api.key_shapes import show_key
from keys import custody
from keys.authentication import WrongKeyKind
from keys.models import ApiKey
from keys.repeats import Made

MISSING = shapes.not_found("key_not_found")


def find_manageable(key_id: int, view: ManagementView) -> ApiKey:
    """The key to be changed. Raises: KeyNotFound, WrongKeyKind."""
    key = custody.find(key_id, account=view.account)
    if key.kind == ApiKey.Kind.MANAGEMENT:
        raise WrongKeyKind(key.kind)
    return key


class Keys(ManagementView):
    """/v1/keys."""

    needs: ClassVar = {"GET": Permission.READ, "POST": Permission.MANAGE_KEYS}

    @extend_schema(
        operation_id="listKeys",
        summary="List keys",
        tags=["keys"],
        parameters=[key_shapes.KeyQuery],
        responses={200: key_shapes.KeyList, **shapes.REFUSALS},
    )
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002 - the framework's signature
        """The account's keys, the newest first."""
        asked, now = self.asked(key_shapes.KeyQuery), timezone.now()
        page = key_totals.page(
            account=self.account, now=now, text=asked["name"], ended=asked["include_ended"], before=asked["before"], rows=asked["limit"]
        )
        return answer({"data": [show_key(row, now=now) for row in page.rows], "next": page.older or None})

    @extend_schema(
        operation_id="createKey",
        summary="Create a key",
        tags=["keys"],
        parameters=[shapes.IDEMPOTENCY],
        request=key_shapes.NewKey,
        examples=shapes.example(name="ci", limit="25.00", limit_reset="monthly", allowed_models=["openai/*"], rpm=60),
        responses={201: key_shapes.IssuedKey, **shapes.REFUSALS, **shapes.conflict("secret_shown_before"), **shapes.REUSED},
    )
    def post(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """Issue a key. Its secret is in this answer and nowhere else."""
        said, now = self.said(key_shapes.NewKey), timezone.now()
        kind, disabled = said.pop("kind"), said.pop("disabled", False)
        settings = key_shapes.settings_of({"limit_reset": None, **said})

        def issue() -> Made:
            who: dict[str, Any] = {"by": self.key.created_by, "now": now, "ip": self.address, "through": self.key}
            key, secret = custody.issue(account=self.account, kind=kind, **who, **settings)
            if disabled:
                key = custody.switch(key=key, is_disabled=True, **who)
            return Made(201, {"data": show_key(key_totals.of(key, now=now), now=now)}, {"key": secret})

        return self.make_once(issue, now=now)


class KeyView(ManagementView):
    """/v1/keys/{key_id}."""

    needs: ClassVar = {"GET": Permission.READ, "PATCH": Permission.MANAGE_KEYS, "DELETE": Permission.MANAGE_KEYS}

    @extend_schema(
        operation_id="getKey",
        summary="Get a key",
        tags=["keys"],
        responses={200: key_shapes.KeyAnswer, **shapes.REFUSALS, **MISSING},
    )
    def get(self, request: Request, key_id: int) -> HttpResponse:  # noqa: ARG002
        """One key, whatever its kind and state."""
        now = timezone.now()
        return answer({"data": show_key(key_totals.of(custody.find(key_id, account=self.account), now=now), now=now)})

    @extend_schema(
        operation_id="updateKey",
        summary="Change a key",
        tags=["keys"],
        request=key_shapes.KeyChange,
        examples=shapes.example(limit="50.00", disabled=False),
        responses={200: key_shapes.KeyAnswer, **shapes.REFUSALS, **MISSING, **shapes.conflict("key_ended")},
    )
    def patch(self, request: Request, key_id: int) -> HttpResponse:  # noqa: ARG002
        """Change what is named: name, limits, scopes, budget, expiry, whether it is disabled. It takes effect within a second everywhere."""
        key, now = find_manageable(key_id, self), timezone.now()
        settings = key_shapes.settings_of(self.said(key_shapes.KeyChange, partial=True))
        key = custody.change(key=key, by=self.key.created_by, now=now, ip=self.address, through=self.key, **settings)
        return answer({"data": show_key(key_totals.of(key, now=now), now=now)})

    @extend_schema(
        operation_id="deleteKey",
        summary="Revoke a key",
        tags=["keys"],
        responses={200: key_shapes.RevokedKey, **shapes.REFUSALS, **MISSING},
    )
    def delete(self, request: Request, key_id: int) -> HttpResponse:  # noqa: ARG002
        """Stop a key for ever. What it was used for stays in usage and ledger; one that is revoked already stays so."""
        key, now = find_manageable(key_id, self), timezone.now()
        key = custody.revoke(key=key, by=self.key.created_by, now=now, ip=self.address, through=self.key)
        return answer({"deleted": True, "data": show_key(key_totals.of(key, now=now), now=now)})


class KeyReroll(ManagementView):
    """/v1/keys/{key_id}/reroll."""

    needs: ClassVar = {"POST": Permission.MANAGE_KEYS}

    @extend_schema(
        operation_id="rerollKey",
        summary="Reroll a key",
        tags=["keys"],
        parameters=[shapes.IDEMPOTENCY],
        request=key_shapes.Reroll,
        examples=shapes.example(overlap_seconds=3600),
        responses={
            201: key_shapes.IssuedKey,
            **shapes.REFUSALS,
            **MISSING,
            **shapes.conflict("key_ended", "secret_shown_before"),
            **shapes.REUSED,
        },
    )
    def post(self, request: Request, key_id: int) -> HttpResponse:  # noqa: ARG002
        """Issue a key with the same settings in the place of this one, which works for `overlap_seconds` longer."""
        key, now = find_manageable(key_id, self), timezone.now()
        overlap = timedelta(seconds=self.said(key_shapes.Reroll)["overlap_seconds"])

        def reroll() -> Made:
            new, secret = custody.reroll(key=key, overlap=overlap, by=self.key.created_by, now=now, ip=self.address, through=self.key)
            return Made(201, {"data": show_key(key_totals.of(new, now=now), now=now)}, {"key": secret})

        return self.make_once(reroll, now=now)


class Budgets(ManagementView):
    """/v1/budgets."""

    needs: ClassVar = {"GET": Permission.READ}

    @extend_schema(
        operation_id="listBudgets",
        summary="List budgets",
        tags=["keys"],
        parameters=[shapes.PageQuery],
        responses={200: key_shapes.BudgetList, **shapes.REFUSALS},
    )
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """The budgets of the account's keys that work, with what is spent and held in the current window."""
        asked = self.asked(shapes.PageQuery)
        page = key_totals.page(account=self.account, now=timezone.now(), before=asked["before"], rows=asked["limit"], budgeted=True)
        return answer({"data": [key_shapes.show_key_budget(row) for row in page.rows], "next": page.older or None})
