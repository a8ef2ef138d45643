"""Alerts: which thresholds were crossed, each exactly once, and how they become messages.

`billing_settle` writes the crossings of budgets and quotas; this module those of balances, of the days a balance lasts, and of keys that
expire. The unique row of `Alert` is the memory that a crossing was seen; `told_at` is set in the transaction that queues its messages.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import connection, transaction

from accounts.models import Account
from billing.models import Alert, AlertSettings, CreditGrant, Transfer, Wallet, WalletArming
from billing.notices import telling
from keys.models import ApiKey

log = structlog.get_logger(__name__)

TASK = "raise_alerts"
LONGEST_LOOK = timedelta(days=1)
OVERLAP = timedelta(minutes=5)  # clocks differ, and a settlement carries the time at which its request ended
BURN_DAYS = 7
LOOKED_AT_ONCE = 500  # wallets in a query
READ_AT_ONCE = 5000  # entries of a wallet's ledger in a query
TOLD_AT_MOST = 2000  # alerts in a run
KEY_STAGES = (1, 7)  # days before a key expires
DAY = timedelta(days=1)
ACCOUNT = "account"


def watch_and_tell(*, since: datetime | None, now: datetime) -> int:
    """Raise the alerts of balances and tell every alert that nobody was told of; returns how many were told.

    `since` is when this last ended well; None, or long ago, means a day ago: older movements are found with the wallet's next one.
    """
    began = now - LONGEST_LOOK if since is None else max(since - OVERLAP, now - LONGEST_LOOK)
    watch_balances(since=began, now=now)
    return tell_alerts(now=now)


def look_ahead(*, now: datetime) -> int:
    """Raise the alerts about what ends soon: balances, and keys. Returns how many."""
    return watch_days_left(now=now) + watch_keys(now=now)


# -- Low balance -----------------------------------------------------------------------------------------------------------------------


def watch_balances(*, since: datetime, now: datetime) -> int:
    """Raise low-balance alerts for the wallets whose ledger moved since then; returns how many.

    Each look reads on in the wallet's ledger where the last one ended, so that a crossing is found whenever somebody looks.
    """
    moved = Transfer.objects.filter(created_at__gte=since, wallet__isnull=False).order_by().values_list("wallet_id", flat=True).distinct()
    raised = 0
    for wallet_id in sorted(int(wallet_id) for wallet_id in moved if wallet_id is not None):
        raised += watch_balance(wallet_id=wallet_id, now=now)
    return raised


@transaction.atomic
def watch_balance(*, wallet_id: int, now: datetime) -> int:
    """Follow one wallet's ledger to its end and raise an alert if its balance fell below the threshold; returns 1 or 0.

    Falling below disarms, and a top-up that lifts the balance to the threshold arms again: so one alert for each crossing, however often the
    balance is looked at. A wallet that never had as much as the threshold is not armed yet.
    """
    wallet = Wallet.objects.select_related("account").get(pk=wallet_id)
    account = wallet.account
    WalletArming.objects.get_or_create(wallet=wallet, defaults={"is_armed": False, "seen_version": max(wallet.version - READ_AT_ONCE, 0)})
    arming = WalletArming.objects.select_for_update().get(wallet=wallet)
    threshold = _wishes(account).low_balance_nano
    crossed_at: int | None = None
    while True:
        entries = Transfer.objects.filter(wallet_id=wallet_id, wallet_version__gt=arming.seen_version).order_by("wallet_version")
        read = list(entries.values_list("wallet_version", "balance_after")[:READ_AT_ONCE])
        for version, balance in read:
            if version is None or balance is None:
                continue  # a wallet's own entries have both
            arming.seen_version = version
            if arming.is_armed and balance < threshold:
                arming.is_armed, crossed_at = False, balance
            elif not arming.is_armed and balance >= threshold:
                arming.is_armed, crossed_at = True, None  # what was crossed on the way is over
                arming.number += 1
        if len(read) < READ_AT_ONCE:
            break
    arming.save(update_fields=["is_armed", "number", "seen_version"])
    if crossed_at is None or threshold == 0:
        return 0
    return _raise(account, "low_balance", window=f"arming:{arming.number}", limit=threshold, value=crossed_at, now=now)


# -- Days left -------------------------------------------------------------------------------------------------------------------------


def watch_days_left(*, now: datetime) -> int:
    """Raise an alert for every wallet that ends soon at the pace of the last seven days: once for each top-up. Returns how many."""
    raised = 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT account_id, SUM(cost), MIN(starts_at) FROM billing_usageslot WHERE starts_at >= %s AND cost > 0 GROUP BY account_id",
            [now - BURN_DAYS * DAY],
        )
        burns: dict[int, int] = {account: _per_day(int(cost), since=first, now=now) for account, cost, first in cursor.fetchall()}
    ids = sorted(burns)
    for at in range(0, len(ids), LOOKED_AT_ONCE):
        wallets = Wallet.objects.filter(account_id__in=ids[at : at + LOOKED_AT_ONCE]).select_related("account")
        for wallet in wallets:
            raised += _watch_pace(wallet, burns[wallet.account_id], now)
    return raised


def _per_day(cost: int, *, since: datetime, now: datetime) -> int:
    """Nano-USD a day. Whoever began yesterday is not thought to have been silent for six days before."""
    seconds = max(now - since, DAY).total_seconds()
    return int(cost * DAY.total_seconds() / seconds)


def _watch_pace(wallet: Wallet, burn: int, now: datetime) -> int:
    wanted = _wishes(wallet.account).days_left
    if wanted == 0 or burn <= 0 or wallet.balance <= 0 or wallet.balance >= wanted * burn:
        return 0
    credit = CreditGrant.objects.filter(wallet=wallet).order_by("-id").values_list("id", flat=True).first()
    return _raise(wallet.account, "days_left", window=f"grant:{credit}", limit=wanted, value=burn, now=now)


# -- Keys ------------------------------------------------------------------------------------------------------------------------------


def watch_keys(*, now: datetime) -> int:
    """Raise an alert for each key that expires within 7 days, and one more within 1 day; returns how many.

    A key that was made to live no longer than that is nobody's surprise.
    """
    expiring = ApiKey.objects.filter(
        expires_at__gt=now, expires_at__lte=now + max(KEY_STAGES) * DAY, revoked_at=None, is_disabled=False, account__is_active=True
    ).select_related("account")
    raised = 0
    for key in expiring.iterator():
        if key.expires_at is None:
            continue
        stage = next(days for days in KEY_STAGES if key.expires_at <= now + days * DAY)
        if key.expires_at - key.created_at > stage * DAY:
            window = key.expires_at.isoformat()
            raised += _raise(key.account, "key_expiring", subject=f"key:{key.pk}", window=window, threshold=stage, now=now)
    return raised


def _raise(
    account: Account, kind: str, *, window: str, now: datetime, subject: str = ACCOUNT, limit: int = 0, threshold: int = 0, value: int = 0
) -> int:
    """Write an alert down, unless it is there already; returns 1 if it is new."""
    _, is_new = Alert.objects.get_or_create(
        account=account,
        kind=kind,
        subject=subject,
        window=window[:60],
        limit=limit,
        threshold=threshold,
        defaults={"value": value, "created_at": now},
    )
    return int(is_new)


# -- Telling ---------------------------------------------------------------------------------------------------------------------------


def tell_alerts(*, now: datetime) -> int:
    """Turn alerts that nobody was told of into messages; returns how many. Several workers may do so at once.

    An alert that cannot be told is left for the next run, and does not hold up the others.
    """
    told, last = 0, 0
    for _ in range(TOLD_AT_MOST):
        with transaction.atomic():
            untold = Alert.objects.select_for_update(skip_locked=True, of=("self",)).filter(told_at=None, id__gt=last)
            alert = untold.select_related("account").order_by("id").first()
            if alert is None:
                return told
            last = alert.pk
            try:
                with transaction.atomic():
                    told += _tell(alert, now)
            except Exception:  # one account's alert must not silence the others'
                log.exception("alert_not_told", alert=alert.pk, kind=alert.kind)
    return told


def _tell(alert: Alert, now: datetime) -> int:
    """Queue an alert's messages and note that it was told. Of several per cents crossed in one go only the highest is told."""
    Alert.objects.filter(pk=alert.pk).update(told_at=now)
    higher = Alert.objects.filter(
        account=alert.account,
        kind=alert.kind,
        subject=alert.subject,
        window=alert.window,
        limit=alert.limit,
        threshold__gt=alert.threshold,
    )
    if alert.kind in ("budget", "quota_input", "quota_output") and higher.exists():
        return 0
    described = DESCRIBED.get(alert.kind)
    if described is None:
        log.error("alert_of_unknown_kind", alert=alert.pk, kind=alert.kind)
        return 0
    event, context = described(alert, now)
    if event:
        telling.tell(account=alert.account, event=event, dedupe_key=f"alert:{alert.pk}", context=context, now=now)
    return int(bool(event))


Described = tuple[str, dict[str, Any]]
NOTHING: Described = ("", {})


def _low_balance(alert: Alert, _now: datetime) -> Described:
    return "balance.low", {"balance_nano": _balance(alert), "threshold_nano": alert.limit}


def _days_left(alert: Alert, _now: datetime) -> Described:
    balance = _balance(alert)
    return "balance.days_left", {"balance_nano": balance, "days_left": max(balance, 0) // max(alert.value, 1), "burn_nano": alert.value}


def _budget(alert: Alert, _now: datetime) -> Described:
    key = _key(alert)
    if key is None or key.revoked_at is not None:
        return NOTHING
    return "budget.threshold", {
        "key_id": key.pk,
        "key_name": key.name,
        "threshold_percent": alert.threshold,
        "spent_nano": alert.value,
        "budget_nano": alert.limit,
        "window": key.budget_window,
    }


def _quota(alert: Alert, _now: datetime) -> Described:
    return "quota.threshold", {
        "threshold_percent": alert.threshold,
        "direction": alert.kind.removeprefix("quota_"),
        "used_tokens": alert.value,
        "quota_tokens": alert.limit,
        "window": alert.window,
    }


def _key_expiring(alert: Alert, now: datetime) -> Described:
    key = _key(alert)
    if key is None or key.revoked_at is not None or key.expires_at is None or key.expires_at <= now:
        return NOTHING
    return "key.expiring", {"key_id": key.pk, "key_name": key.name, "expires_at": key.expires_at, "days": alert.threshold}


DESCRIBED: dict[str, Callable[[Alert, datetime], Described]] = {
    "low_balance": _low_balance,
    "days_left": _days_left,
    "budget": _budget,
    "quota_input": _quota,
    "quota_output": _quota,
    "key_expiring": _key_expiring,
}


def _balance(alert: Alert) -> int:
    return int(Wallet.objects.values_list("balance", flat=True).get(account=alert.account))


def _key(alert: Alert) -> ApiKey | None:
    return ApiKey.objects.filter(account=alert.account, pk=int(alert.subject.removeprefix("key:"))).first()


def _wishes(account: Account) -> AlertSettings:
    return AlertSettings.objects.filter(account=account).first() or AlertSettings(account=account)
