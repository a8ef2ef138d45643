"""People, accounts and memberships: who may act, and for which tenant."""

from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import Group, Permission, PermissionsMixin
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, RegexValidator
from django.db import connection, models
from django.db.models.functions import Lower
from django.utils.timezone import now as current_time

from accounts import permissions
from gateway_site import markdown

MOST_CONTENT_DAYS = 30
SLUG = RegexValidator(r"^[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?$", "Use lower-case letters, digits and hyphens, at most 50, not at the ends.")


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create a person who signs in with `email`; without a password they cannot sign in until they set one."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create a person who may do everything in the admin."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        """Find a person by e-mail in any letter case: that is how people type it."""
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person. Signs in with an e-mail address, stored in lower case."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=150, blank=True)
    is_staff = models.BooleanField(default=False, help_text="May sign in to the admin.")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=current_time, editable=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(email=Lower("email")), name="user_email_lower")]

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        super().clean()
        self.email = self.email.strip().lower()


class Account(models.Model):
    """A tenant: it owns a wallet, keys and usage. Closing one stops its keys; its ledger stays."""

    slug = models.CharField(max_length=50, unique=True, validators=[SLUG])
    name = models.CharField(max_length=150)
    timezone = models.CharField(max_length=64, default="UTC", help_text="IANA name; where this account's days and months begin.")
    billing_email = models.EmailField(blank=True)
    is_active = models.BooleanField(default=True, help_text="Off: no key of this account works.")
    is_sample = models.BooleanField(
        default=False, editable=False, help_text="Invented, to look at; it is born so, and can be removed with all of its ledger."
    )
    content_days = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="How long what is asked and answered is stored (`billing.stored_content`); 0: never."
    )
    created_at = models.DateTimeField(default=current_time, editable=False)
    members: "models.ManyToManyField[User, Membership]" = models.ManyToManyField(User, through="Membership", related_name="accounts")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(content_days__gte=0, content_days__lte=MOST_CONTENT_DAYS), name="account_content_days"
            )
        ]

    def __str__(self) -> str:
        return self.slug


class Membership(models.Model):
    """One person's role in one account."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        BILLING = "billing"
        DEVELOPER = "developer"
        VIEWER = "viewer"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.DEVELOPER)
    created_at = models.DateTimeField(default=current_time, editable=False)
    first_steps_hidden_at = models.DateTimeField(null=True, editable=False, help_text="When they put the list of first steps away.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "user"], name="membership_once")]
        permissions = (("impersonate", "Can look at accounts as their members do, reading only"),)

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.account}"

    def may(self, permission: permissions.Permission) -> bool:
        """Whether this member's role grants `permission`."""
        return permissions.role_grants(self.role, permission)


class Invitation(models.Model):
    """An open offer to join an account, sent to an address. Whoever holds the link and signs in with that address may take it, once."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=16, choices=Membership.Role.choices, default=Membership.Role.DEVELOPER)
    digest = models.BinaryField(unique=True, editable=False, max_length=32, help_text="SHA-256 of the link's secret.")
    invited_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=current_time, editable=False)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(email=Lower("email")), name="invitation_email_lower"),
            models.UniqueConstraint(
                fields=["account", "email"],
                condition=models.Q(accepted_at__isnull=True, revoked_at__isnull=True),
                name="one_open_invitation",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} to {self.account}"


class AuditEvent(models.Model):
    """Who did what in an account, and when. Appended only; the account's members can read it."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="audit_events")
    at = models.DateTimeField(default=current_time)
    actor = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    actor_text = models.CharField(max_length=254, help_text="Their address then, `staff`, or what acted by itself.")
    action = models.CharField(max_length=60, help_text="Such as key.created, member.invited, wallet.topped_up.")
    subject = models.CharField(max_length=200, blank=True)
    details = models.JSONField(default=dict, blank=True, help_text="Names and figures, never a secret.")
    ip = models.GenericIPAddressField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["account", "-at", "-id"], name="audit_by_account")]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"


class SpentFormTokenManager(models.Manager["SpentFormToken"]):
    def spend(self, *, user: User, token: str, now: datetime, forget_before: datetime) -> bool:
        """Spend a token; False when it is spent already. Waits for whoever is spending the same one just now."""
        self.filter(user=user, spent_at__lt=forget_before).delete()
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO accounts_spentformtoken (user_id, token, spent_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [user.pk, token, now],
            )
            return bool(cursor.rowcount == 1)


class SpentFormToken(models.Model):
    """A form that has acted: sent again, it acts no more (`accounts.form_tokens`)."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    token = models.CharField(max_length=32)
    spent_at = models.DateTimeField()

    objects = SpentFormTokenManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "token"], name="form_token_once")]

    def __str__(self) -> str:
        return f"a form of {self.user}"


class OutboxMessage(models.Model):
    """Something that has to leave the house: a mail or a call to a customer's webhook. Written in the transaction of what it tells of.

    `dedupe_key` says what it is about: asking for the same message again is one message.
    """

    class Kind(models.TextChoices):
        MAIL = "mail"
        WEBHOOK = "webhook"

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        FAILED = "failed", "given up"

    kind = models.CharField(max_length=7, choices=Kind.choices)
    dedupe_key = models.CharField(max_length=200, unique=True)
    account = models.ForeignKey(Account, null=True, blank=True, on_delete=models.CASCADE, related_name="outbox_messages")
    recipient = models.CharField(max_length=500, help_text="An address of e-mail, or a webhook endpoint's id.")
    subject = models.CharField(max_length=200, help_text="Of the mail, or the kind of the event.")
    content = models.JSONField(help_text="For a mail: text and html. For a webhook: the body.")
    state = models.CharField(max_length=7, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(default=current_time)
    last_error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=current_time, editable=False)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["next_try_at"], condition=models.Q(state="waiting"), name="outbox_due"),
            models.Index(fields=["account", "-created_at"], name="outbox_by_account"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} to {self.recipient}: {self.subject}"


def check_announcement(text: str) -> None:
    """Let through a few paragraphs, with lists and links: whatever makes ids or headings belongs to the page it would stand on.

    Raises: ValidationError.
    """
    if markdown.headings(text) or "```" in text or "<a id=" in text or any(line.lstrip().startswith("|") for line in text.splitlines()):
        raise ValidationError("Paragraphs, lists, links, **strong** and `code` only: no headings, tables or blocks of code.")


class AnnouncementQuerySet(models.QuerySet["Announcement"]):
    def not_over(self, *, now: datetime) -> "AnnouncementQuerySet":
        """Those that run or are to come, the last to begin first."""
        return self.filter(models.Q(ends_at=None) | models.Q(ends_at__gt=now)).order_by("-starts_at", "-pk")


class Announcement(models.Model):
    """A short notice of the operator's, shown on the pages from `starts_at` until `ends_at`; of a maintenance these are when it is."""

    class Kind(models.TextChoices):
        INFO = "info", "information"
        WARNING = "warning"
        MAINTENANCE = "maintenance"

    class Audience(models.TextChoices):
        EVERYBODY = "everybody", "everybody, strangers too"
        SIGNED_IN = "signed_in", "people who are signed in"
        ACCOUNT = "account", "members of one account"

    kind = models.CharField(
        max_length=11,
        choices=Kind.choices,
        default=Kind.INFO,
        help_text="Maintenance stands on the status page as well, and is shown from a day before it begins.",
    )
    title = models.CharField(max_length=120)
    text = models.TextField(
        blank=True,
        validators=[MaxLengthValidator(2000), check_announcement],
        help_text="Markdown: paragraphs, lists, [links](https://…), **strong** and `code`. Whoever has dismissed it sees it again when it is changed.",
    )
    audience = models.CharField(max_length=9, choices=Audience.choices, default=Audience.EVERYBODY)
    account = models.ForeignKey(Account, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    starts_at = models.DateTimeField(default=current_time)
    ends_at = models.DateTimeField(null=True, blank=True, help_text="Empty: until it is ended.")
    created_at = models.DateTimeField(default=current_time, editable=False)

    objects = AnnouncementQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="announcement_ends_after_it_starts",
                violation_error_message="It has to end after it starts.",
            ),
            models.CheckConstraint(
                condition=models.Q(audience="account", account__isnull=False) | (~models.Q(audience="account") & models.Q(account=None)),
                name="announcement_names_its_account",
                violation_error_message="Choose the account of an announcement to one account's members, and none for others.",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class UsualPermission(models.Model):
    """A permission that a group of staff was once given as usual (`gateway_site.staff_groups`): taken away since, it is not given again."""

    group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="+")
    permission = models.ForeignKey(Permission, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "permission"], name="usual_permission_once")]

    def __str__(self) -> str:
        return f"{self.permission} of {self.group}"
