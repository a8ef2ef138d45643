"""The end of sessions: what is kept of a sign-in is removed once it is over."""

from datetime import datetime

from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session

from accounts import form_tokens


def drop_ended(*, now: datetime) -> int:
    """Remove ended sessions, the lines that listed them, and spent form tokens past their time; returns how many sessions there were."""
    dropped, _ = Session.objects.filter(expire_date__lt=now).delete()
    UserSession.objects.exclude(session_key__in=Session.objects.values("session_key")).filter(
        created_at__lt=now - form_tokens.KEPT
    ).delete()
    form_tokens.forget(before=now - form_tokens.KEPT)
    return dropped
