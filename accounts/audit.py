"""The audit log of an account: who did what, appended in the transaction of the deed. The database refuses to change or delete a line."""

from collections.abc import Mapping
from datetime import datetime

from accounts.models import Account, AuditEvent, User


def record(
    *,
    account: Account,
    actor: User | None,
    action: str,
    subject: str = "",
    details: Mapping[str, object] | None = None,
    now: datetime,
    ip: str | None = None,
    actor_text: str = "",
) -> None:
    """Append an event. `details` holds names and figures, never a secret.

    `actor_text` names what acted when nobody did ("stripe", "auto top-up"); a person's own address is used otherwise.
    """
    text = actor_text or (actor.email if actor is not None else "system")
    AuditEvent.objects.create(
        account=account,
        at=now,
        actor=actor,
        actor_text=text[:254],
        action=action,
        subject=subject[:200],
        details=dict(details or {}),
        ip=ip,
    )
