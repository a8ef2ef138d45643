"""Forms that may be sent twice and act once: a hidden token, spent in the transaction of the deed.

A double click, a reload of the answer or a retry of the browser finds the token spent and is sent on to where the first one went. A deed
that fails leaves its token as it was, so that the corrected form can be sent again.
"""

import re
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.http import HttpRequest

from accounts.models import SpentFormToken, User

FIELD = "form_token"
KEPT = timedelta(days=2)  # longer than anybody's session, and with it the form, lives
_SHAPE = re.compile(r"[A-Za-z0-9_-]{22}")


class NoFormToken(SuspiciousOperation):
    """The form came without a token of ours: it is not one that a page of this site made. Django answers 400."""


def new() -> str:
    """Make a token for one form on one page."""
    return secrets.token_urlsafe(16)


def identify(request: HttpRequest, *, about: str) -> uuid.UUID:
    """The same id whenever this person sends this form `about` the same thing: for a deed whose own row keeps it. Raises: NoFormToken."""
    token = request.POST.get(FIELD, "")
    if not _SHAPE.fullmatch(token):
        raise NoFormToken
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{request.user.pk}:{about}:{token}")


@contextmanager
def once(request: HttpRequest, *, now: datetime) -> Iterator[bool]:
    """Run the deed of this form in a transaction; gives whether it is to be done, False when it was done before.

    Of two that arrive together one waits for the other's end. Raises: NoFormToken.
    """
    token = request.POST.get(FIELD, "")
    if not _SHAPE.fullmatch(token):
        raise NoFormToken
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - the pages that use this ask for a person first
    with transaction.atomic():
        yield SpentFormToken.objects.spend(user=user, token=token, now=now, forget_before=now - KEPT)


def forget(*, before: datetime) -> None:
    """Remove the tokens that were spent before: their forms are gone."""
    SpentFormToken.objects.filter(spent_at__lt=before).delete()
