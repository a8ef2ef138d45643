"""Issuing, rerolling, revoking and switching keys: what is stored, what is refused, and who is told."""

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts.models import Account, User
from gateway_site.changes import CHANNEL
from keys import issuing, secret
from keys.models import ApiKey

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def account() -> Account:
    return Account.objects.create(slug=f"k-{uuid4().hex[:12]}", name="Keys")


@pytest.fixture
def heard() -> Iterator[Any]:
    """The topics announced since the test began."""
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=5)  # the confirmation

        def until(topic: str) -> bool:
            for _ in range(1000):
                message = channel.get_message(timeout=30)
                if message is None:
                    return False
                if message["data"].decode() == topic:
                    return True
            return False

        yield until


def issue(account: Account, **settings_: Any) -> tuple[ApiKey, str]:
    return issuing.issue(account=account, now=NOW, **{"name": "mine", **settings_})


# -- Issuing -------------------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_stored_as_a_digest_and_as_nothing_else(account: Account) -> None:
    key, text = issue(account)
    row = ApiKey.objects.filter(pk=key.pk).values().get()
    assert secret.is_well_formed(text)
    pepper = secret.read_peppers(settings.KEY_PEPPERS)[0]
    assert bytes(row["digest"]) == secret.digest(text, pepper)
    assert row["pepper_version"] == pepper.version
    assert text.startswith(row["start"])
    assert text.endswith(row["last_four"])
    assert not any(text[10:40] in str(value) for value in row.values())


def test_every_setting_is_kept(account: Account) -> None:
    person = User.objects.create_user(f"{uuid4().hex[:10]}@example.com")
    given: dict[str, Any] = {
        "allowed_models": ["openai/*", "demo/echo"],
        "allowed_endpoints": ["chat", "embeddings"],
        "rpm": 60,
        "tpm": 100_000,
        "concurrency": 4,
        "budget_nano": 5_000_000_000,
        "budget_window": "week",
        "expires_at": NOW + DAY,
    }
    key, _ = issue(account, created_by=person, kind="test", allowed_ips=["203.0.113.7/24", "2001:db8::1"], **given)
    row = ApiKey.objects.get(pk=key.pk)
    assert {name: getattr(row, name) for name in given} == given
    assert row.allowed_ips == ["203.0.113.0/24", "2001:db8::1/128"]
    assert (row.created_by, row.kind, row.created_at, row.account) == (person, "test", NOW, account)


def test_the_text_tells_the_kind(account: Account) -> None:
    assert issue(account, kind="test")[1].startswith("sk-gw-test-")
    assert issue(account, kind="management")[1].startswith("sk-gw-admin-")


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"name": " "}, issuing.BadName),
        ({"name": "x" * 101}, issuing.BadName),
        ({"name": "a\x00b"}, issuing.BadName),
        ({"kind": "root"}, issuing.BadChoice),
        ({"budget_window": "year"}, issuing.BadChoice),
        ({"allowed_models": ["openai/gpt 4"]}, issuing.BadModelPattern),
        ({"allowed_models": [""]}, issuing.BadModelPattern),
        ({"allowed_endpoints": ["/v1/chat"]}, issuing.BadEndpoint),
        ({"allowed_ips": ["203.0.113.0/33"]}, issuing.BadNetwork),
        ({"allowed_ips": ["localhost"]}, issuing.BadNetwork),
        ({"rpm": -1}, issuing.BadLimit),
        ({"tpm": 0}, issuing.BadLimit),
        ({"concurrency": 2**31}, issuing.BadLimit),
        ({"budget_nano": -1}, issuing.BadLimit),
        ({"budget_nano": 2**63}, issuing.BadLimit),
        ({"expires_at": NOW}, issuing.ExpiryInThePast),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(
    account: Account, given: dict[str, Any], refusal: type[issuing.InvalidSetting]
) -> None:
    with pytest.raises(refusal) as caught:
        issue(account, **given)
    assert caught.value.field == next(iter(given))
    assert not ApiKey.objects.filter(account=account).exists()


# -- Rerolling -----------------------------------------------------------------------------------------------------------------------


def test_a_rerolled_key_keeps_its_settings_and_the_old_one_ends_after_the_overlap(account: Account) -> None:
    same = {"name": "ci", "rpm": 7, "budget_nano": 9, "budget_window": "total", "allowed_models": ["demo/*"], "expires_at": NOW + 30 * DAY}
    old, old_text = issue(account, **same)
    new, new_text = issuing.reroll(key=old, overlap=DAY, now=NOW)
    old.refresh_from_db()
    assert old.expires_at == NOW + DAY
    assert old.revoked_at is None
    assert new.replaces == old
    assert new_text != old_text
    row = ApiKey.objects.get(pk=new.pk)
    assert {name: getattr(row, name) for name in same} == same


def test_without_an_overlap_the_old_key_is_revoked_at_once(account: Account) -> None:
    old, _ = issue(account)
    new, _ = issuing.reroll(key=old, overlap=timedelta(), now=NOW)
    old.refresh_from_db()
    assert old.revoked_at == NOW
    assert new.revoked_at is None


def test_an_overlap_never_makes_the_old_key_live_longer(account: Account) -> None:
    old, _ = issue(account, expires_at=NOW + timedelta(hours=1))
    issuing.reroll(key=old, overlap=DAY, now=NOW)
    old.refresh_from_db()
    assert old.expires_at == NOW + timedelta(hours=1)


def test_a_key_that_has_ended_or_is_replaced_cannot_be_rerolled(account: Account) -> None:
    revoked, _ = issue(account)
    issuing.revoke(key=revoked, now=NOW)
    expired, _ = issue(account, expires_at=NOW + DAY)
    replaced, _ = issue(account)
    issuing.reroll(key=replaced, overlap=DAY, now=NOW)
    for key, moment in ((revoked, NOW), (expired, NOW + DAY), (replaced, NOW)):
        with pytest.raises(issuing.KeyEnded):
            issuing.reroll(key=key, overlap=DAY, now=moment)
    with pytest.raises(issuing.BadOverlap):
        issuing.reroll(key=issue(account)[0], overlap=-DAY, now=NOW)


def test_a_key_whose_replacement_was_revoked_can_be_rerolled_again(account: Account) -> None:
    old, _ = issue(account)
    lost, _ = issuing.reroll(key=old, overlap=DAY, now=NOW)
    issuing.revoke(key=lost, now=NOW)
    new, _ = issuing.reroll(key=old, overlap=DAY, now=NOW)
    assert new.replaces == old


# -- Stopping ------------------------------------------------------------------------------------------------------------------------


def test_revoking_twice_keeps_the_first_moment(account: Account) -> None:
    key, _ = issue(account)
    issuing.revoke(key=key, now=NOW)
    issuing.revoke(key=key, now=NOW + DAY)
    assert ApiKey.objects.get(pk=key.pk).revoked_at == NOW == key.revoked_at


def test_a_disabled_key_can_be_enabled_and_a_revoked_one_cannot(account: Account) -> None:
    key, _ = issue(account)
    issuing.disable(key=key)
    assert ApiKey.objects.get(pk=key.pk).is_disabled
    issuing.enable(key=key)
    assert not ApiKey.objects.get(pk=key.pk).is_disabled
    issuing.revoke(key=key, now=NOW)
    with pytest.raises(issuing.KeyEnded):
        issuing.enable(key=key)


def test_every_change_of_a_key_is_announced_once_it_is_committed(account: Account, heard: Any) -> None:
    key, _ = issue(account)
    assert heard(f"key:{key.pk}")
    issuing.disable(key=key)
    assert heard(f"key:{key.pk}")
    issuing.enable(key=key)
    assert heard(f"key:{key.pk}")
    new, _ = issuing.reroll(key=key, overlap=DAY, now=NOW)
    assert heard(f"key:{new.pk}")
    assert heard(f"key:{key.pk}")
    issuing.revoke(key=new, now=NOW)
    assert heard(f"key:{new.pk}")


def test_what_was_rolled_back_is_neither_stored_nor_announced(account: Account, heard: Any) -> None:
    with transaction.atomic():
        lost, _ = issue(account)
        transaction.set_rollback(True)
    kept, _ = issue(account)
    assert not ApiKey.objects.filter(pk=lost.pk).exists()
    assert heard(f"key:{kept.pk}")


# -- Finding, and the commands -------------------------------------------------------------------------------------------------------


def test_a_key_is_found_by_id_by_its_ends_and_by_itself(account: Account) -> None:
    key, text = issue(account)
    for meant in (str(key.pk), f"{key.start}…{key.last_four}", f"{key.start}...{key.last_four}", text, f" {text} "):
        assert issuing.find(meant) == key
    for nothing in ("0", "sk-gw-zzzz…zzzz", secret.generate(), "sk-gw-", "mine", "9" * 30):
        with pytest.raises(issuing.KeyNotFound):
            issuing.find(nothing)


def run(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=io.StringIO())
    return out.getvalue().strip()


def test_the_command_prints_the_key_alone(account: Account) -> None:
    text = run("issue_key", "--account", account.slug)
    assert secret.is_well_formed(text)
    assert issuing.find(text).account == account


def test_the_command_takes_every_setting_and_prints_json(account: Account) -> None:
    limits = ["--rpm", "60", "--tpm", "1000", "--concurrency", "2", "--budget", "12.50", "--window", "day", "--expires", "30d"]
    told = json.loads(
        run("issue_key", "--account", account.slug, "--name", "n", "--models", "demo/*, openai/gpt-x", *limits, "--test", "--json")
    )
    assert told["key"].startswith("sk-gw-test-")
    assert told["allowed_models"] == ["demo/*", "openai/gpt-x"]
    assert (told["rpm"], told["tpm"], told["concurrency"], told["budget_usd"], told["budget_window"]) == (60, 1000, 2, "12.50", "day")
    assert issuing.find(told["key"]).budget_nano == 12_500_000_000


@pytest.mark.parametrize(
    "options",
    [["--budget", "ten"], ["--budget", "-1"], ["--rpm", "0"], ["--window", "year"], ["--expires", "2020-01-01"], ["--expires", "soon"]],
)
def test_the_command_refuses_what_cannot_be(account: Account, options: list[str]) -> None:
    with pytest.raises(CommandError):
        run("issue_key", "--account", account.slug, *options)
    assert not ApiKey.objects.filter(account=account).exists()


def test_the_command_refuses_an_account_that_is_not_there() -> None:
    with pytest.raises(CommandError, match="no account"):
        run("issue_key", "--account", "nobody-here")


def test_the_commands_reroll_and_revoke(account: Account) -> None:
    key, text = issue(account)
    new = run("reroll_key", text, "--overlap", "2h")
    assert issuing.find(new).replaces == key
    assert "revoked" in run("revoke_key", str(key.pk))
    assert json.loads(run("reroll_key", new, "--overlap", "0", "--json"))["replaces"] == issuing.find(new).pk
    with pytest.raises(CommandError):
        run("reroll_key", text)
    with pytest.raises(CommandError):
        run("revoke_key", "sk-gw-zzzz…zzzz")


# -- Changing, and forms that are sent twice


def test_only_what_is_named_changes(account: Account, heard: Any) -> None:
    key, _ = issuing.issue(account=account, name="one", now=NOW, rpm=5, allowed_models=["a/b"], expires_at=NOW + DAY)
    changed = issuing.change(key=key, now=NOW + 2 * DAY, budget_nano=7, budget_window="day", allowed_ips=["203.0.113.7/24"])
    assert heard(f"key:{key.pk}")
    changed.refresh_from_db()
    assert (changed.name, changed.rpm, changed.allowed_models, changed.expires_at) == ("one", 5, ["a/b"], NOW + DAY)
    assert (changed.budget_nano, changed.budget_window, changed.allowed_ips) == (7, "day", ["203.0.113.0/24"])
    assert issuing.change(key=key, now=NOW, rpm=None, is_disabled=True, expires_at=None).is_disabled
    changed.refresh_from_db()
    assert (changed.rpm, changed.expires_at, changed.is_disabled) == (None, None, True)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""},
        {"allowed_models": ["two words"]},
        {"allowed_endpoints": ["Chat"]},
        {"allowed_ips": ["here"]},
        {"rpm": 0},
        {"budget_nano": -1},
        {"budget_window": "year"},
        {"expires_at": NOW},
    ],
)
def test_a_change_to_what_cannot_be_changes_nothing(account: Account, settings: Any) -> None:
    key, _ = issuing.issue(account=account, name="one", now=NOW)
    with pytest.raises(issuing.InvalidSetting) as refused:
        issuing.change(key=key, now=NOW, tpm=9, **settings)
    assert refused.value.field == next(iter(settings))
    key.refresh_from_db()
    assert (key.tpm, key.name) == (None, "one")


def test_a_revoked_key_stays_as_it_is(account: Account) -> None:
    key, _ = issuing.issue(account=account, name="one", now=NOW)
    issuing.revoke(key=key, now=NOW)
    with pytest.raises(issuing.KeyEnded):
        issuing.change(key=key, now=NOW, is_disabled=False)


def test_one_form_sent_many_times_at_once_issues_one_key(account: Account) -> None:
    token, gate = uuid4(), threading.Barrier(8)

    def send(_: int) -> bool:
        gate.wait()
        try:
            issuing.issue(account=account, name="one", now=NOW, form_token=token)
        except issuing.AlreadyIssued:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 1
    assert ApiKey.objects.filter(account=account).count() == 1
