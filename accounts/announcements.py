"""Announcements as pages show them: which are live, for whom, and which a browser has dismissed.

Every page asks, so the list is kept in each process's memory, and read anew when it has changed (`gateway_site.changes`) or is older than
`FRESH`; who is shown what, and since when, is then decided without the database. What was dismissed is remembered by the browser, in one
cookie, for strangers and members alike: a mark is made of the words, so that changed words are shown again.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

import structlog
from django.db import DatabaseError
from django.utils.safestring import SafeString

from accounts.models import Account, Announcement
from gateway_site import markdown

FRESH = timedelta(seconds=10)
AHEAD = timedelta(days=1)  # how long before it begins a maintenance is shown
TOPIC = "announcements"  # of changes: every process then reads them anew
COOKIE = "dismissed_announcements"
REMEMBERED = timedelta(days=180)
MOST = 50  # live ones, and marks in the cookie
TONES = {Announcement.Kind.INFO: "", Announcement.Kind.WARNING: "warn", Announcement.Kind.MAINTENANCE: "warn"}
_MARK = re.compile(r"\d{1,19}-[0-9a-f]{10}", re.ASCII)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Banner:
    """An announcement as it is shown. `mark` is what a browser remembers of it."""

    mark: str
    kind: str
    title: str
    html: SafeString
    audience: str
    account_id: int | None
    starts_at: datetime
    ends_at: datetime | None

    @property
    def tone(self) -> str:
        """The class of its colour."""
        return TONES[Announcement.Kind(self.kind)]

    @property
    def is_maintenance(self) -> bool:
        """Whether its times are those of the work."""
        return self.kind == Announcement.Kind.MAINTENANCE

    def is_over(self, now: datetime) -> bool:
        """Whether it has ended."""
        return self.ends_at is not None and self.ends_at <= now

    def has_begun(self, now: datetime) -> bool:
        """Whether it runs, or has ended."""
        return self.starts_at <= now

    def is_running(self, now: datetime) -> bool:
        """Whether it has begun and not ended."""
        return self.has_begun(now) and not self.is_over(now)

    def is_shown(self, now: datetime) -> bool:
        """Whether pages show it now."""
        return self.starts_at - (AHEAD if self.is_maintenance else timedelta()) <= now and not self.is_over(now)

    def is_for(self, *, is_signed_in: bool, account: Callable[[], Account | None]) -> bool:
        """Whether somebody may see it; `account` says which account's page it is, and is only asked when that decides."""
        if self.audience == Announcement.Audience.ACCOUNT:
            return is_signed_in and (found := account()) is not None and found.pk == self.account_id
        return is_signed_in or self.audience == Announcement.Audience.EVERYBODY


def shown(*, is_signed_in: bool, account: Callable[[], Account | None], dismissed: str, now: datetime) -> list[Banner]:
    """What a page shows to this reader. `dismissed` is their cookie."""
    marks = frozenset(dismissed.split("."))
    return [
        one
        for one in live(now=now)
        if one.is_shown(now) and one.mark not in marks and one.is_for(is_signed_in=is_signed_in, account=account)
    ]


def maintenance(*, is_signed_in: bool, account: Callable[[], Account | None], now: datetime) -> list[Banner]:
    """The maintenance that runs or is to come, the first to begin first, dismissed or not."""
    found = [one for one in live(now=now) if one.is_maintenance and not one.is_over(now)]
    return sorted((one for one in found if one.is_for(is_signed_in=is_signed_in, account=account)), key=lambda one: one.starts_at)


def dismiss(dismissed: str, mark: str) -> str:
    """The cookie with one more mark in it; what is no mark leaves it as it is."""
    marks = [each for each in dismissed.split(".") if _MARK.fullmatch(each) and each != mark]
    return ".".join([*marks, *([mark] if _MARK.fullmatch(mark) else [])][-MOST:])


def end(announcement: Announcement, *, now: datetime) -> None:
    """Show a running announcement no more."""
    Announcement.objects.not_over(now=now).filter(pk=announcement.pk, starts_at__lt=now).update(ends_at=now)
    forget()


# -- What is live ----------------------------------------------------------------------------------------------------------------------


_READING = Lock()
_kept: tuple[datetime, tuple[Banner, ...]] | None = None


def live(*, now: datetime) -> tuple[Banner, ...]:
    """What is not over, as old as FRESH allows. While one page reads it others take what is there, as all do while the database is away."""
    global _kept
    kept = _kept
    if kept is not None and kept[0] <= now < kept[0] + FRESH:
        return kept[1]
    if _READING.acquire(blocking=kept is None):
        try:
            if _kept is kept:
                _kept = (now, _read(now))
        except DatabaseError as error:
            log.warning("announcements_not_read", error=str(error))
            _kept = (now, kept[1] if kept else ())
        finally:
            _READING.release()
    return _kept[1] if _kept is not None else ()


def forget() -> None:
    """Read them anew with the next page: they have changed."""
    global _kept
    _kept = None


def _read(now: datetime) -> tuple[Banner, ...]:
    return tuple(map(banner, Announcement.objects.not_over(now=now)[:MOST]))


def banner(announcement: Announcement) -> Banner:
    """An announcement as pages show it."""
    html = markdown.render(announcement.text, link=_link)
    said = [announcement.kind, announcement.title, announcement.text]
    if announcement.kind == Announcement.Kind.MAINTENANCE:  # another time is other news
        said += [announcement.starts_at.isoformat(), announcement.ends_at.isoformat() if announcement.ends_at else ""]
    digest = hashlib.sha256("\0".join(said).encode()).hexdigest()[:10]
    return Banner(
        mark=f"{announcement.pk}-{digest}",
        kind=announcement.kind,
        title=announcement.title,
        html=html,
        audience=announcement.audience,
        account_id=announcement.account_id,
        starts_at=announcement.starts_at,
        ends_at=announcement.ends_at,
    )


def _link(target: str) -> str | None:
    """Where a link may lead: a page here, another site, or a mail; never a script."""
    is_here = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_here or target.startswith(("https://", "mailto:")) else None
