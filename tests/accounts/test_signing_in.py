"""Signing up and in: by code, password, authenticator app and recovery code; who may, and what a stranger learns of who has an account."""

import io
import os
import re
import secrets
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import form_tokens, invitations
from accounts.models import Account, Membership, OutboxMessage, User
from catalog import vault
from gateway_site import second_factors, tasks
from tests.accounts.people import PASSWORD, House, browser_of, code_in, new_person


def stranger() -> Client:
    """A browser in a network of its own, so that limits by address (of IPv6, by its first half) are its own too."""
    return Client(REMOTE_ADDR=f"fd00:{secrets.token_hex(2)}:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1")


def new_address() -> str:
    return f"{uuid.uuid4().hex[:20]}@example.com"


def mail_to(address: str) -> OutboxMessage:
    return OutboxMessage.objects.filter(recipient=address).latest("pk")


def sign_up(client: Client, address: str) -> Any:
    return client.post(reverse("account_signup"), {"name": "Ada", "email": address, "password1": PASSWORD})


def sign_in(client: Client, address: str, password: str = PASSWORD) -> Any:
    return client.post(reverse("account_login"), {"login": address, "password": password})


def is_signed_in(client: Client) -> bool:
    return bool(client.get(reverse("profile")).status_code == 200)


def code_now(secret: str) -> str:
    return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30)))


# -- Signing up -------------------------------------------------------------------------------------------------------------------


def test_a_person_is_in_once_the_code_from_the_mail_is_typed() -> None:
    client, address = stranger(), new_address()
    assert sign_up(client, address)["Location"] == reverse("account_email_verification_sent")
    assert not is_signed_in(client)
    wrong = client.post(reverse("account_email_verification_sent"), {"code": "AAAAAA"})
    assert wrong.status_code == 200
    assert not is_signed_in(client)
    client.post(reverse("account_email_verification_sent"), {"code": code_in(mail_to(address))})
    assert is_signed_in(client)
    assert User.objects.get(email=address).name == "Ada"
    assert re.fullmatch(r"/a/ada-[0-9a-f]{8}/", client.get("/")["Location"])


def test_who_signs_up_with_a_known_address_is_answered_as_anybody_and_the_owner_gets_a_mail() -> None:
    known = new_person(password=PASSWORD).email
    answers = [sign_up(stranger(), address) for address in (known, new_address())]
    assert {(answer.status_code, answer["Location"]) for answer in answers} == {(302, reverse("account_email_verification_sent"))}
    assert mail_to(known).subject == "You have a Tollgate account already"


def test_a_password_must_be_long_and_not_common() -> None:
    for password in ("short", "q1w2e3r4t5y6"):
        address = new_address()
        answer = stranger().post(reverse("account_signup"), {"name": "Ada", "email": address, "password1": password})
        assert answer.status_code == 200
        assert not User.objects.filter(email=address).exists()


def test_sign_up_may_be_closed_or_for_the_invited_alone(settings: Any) -> None:
    house = House()
    for mode in ("invite", "closed"):
        settings.SIGN_UP = mode
        address = new_address()
        assert "Sign-up is closed" in stranger().get(reverse("account_signup")).content.decode()
        assert sign_up(stranger(), address).status_code == 200
        assert not User.objects.filter(email=address).exists()
    settings.SIGN_UP = "invite"
    guest = new_address()
    invitations.invite(by=house.members["owner"], email=guest, role="developer", link="L{secret}L", now=timezone.now())
    secret = re.search(r"L([\w-]{43})L", mail_to(guest).content["text"])[1]  # type: ignore[index]
    client = stranger()
    client.get(reverse("invitation", args=[secret]))
    other = new_address()
    assert "address that the invitation went to" in sign_up(client, other).content.decode()
    answer = sign_up(client, guest)  # following the link has proved the address
    assert answer["Location"] == reverse("invitation", args=[secret])
    client.post(answer["Location"])
    assert Membership.objects.get(user__email=guest).account == house.account
    assert client.get("/")["Location"] == f"{house.base}/"


# -- Signing in -------------------------------------------------------------------------------------------------------------------


def test_a_wrong_password_and_an_unknown_address_look_alike_and_are_slowed_down() -> None:
    known = new_person(password=PASSWORD).email
    pages = [sign_in(stranger(), address, "not the password").content.decode() for address in (known, new_address())]
    told = [re.findall(r'<ul class="problems".*?</ul>', page, re.DOTALL) for page in pages]
    assert told[0] == told[1] != []
    for _ in range(5):
        sign_in(stranger(), known, "not the password")
    client = stranger()
    sign_in(client, known)  # right, and too late
    assert not is_signed_in(client)


def test_nobodys_mailbox_is_filled_by_strangers(settings: Any) -> None:
    settings.ACCOUNT_RATE_LIMITS = {"mail": settings.ACCOUNT_RATE_LIMITS["mail"].replace("20/", "3/")}
    user, done = new_person(password=PASSWORD), reverse("account_reset_password_done")
    for _ in range(5):  # each from an address of its own; the answer does not tell
        assert stranger().post(reverse("account_reset_password"), {"email": user.email})["Location"] == done
    assert OutboxMessage.objects.filter(recipient=user.email).count() == 3
    sign_up(stranger(), other := new_address())
    assert mail_to(other)


def test_the_link_in_a_mail_leads_to_our_own_address_whatever_host_asked_for_it(settings: Any) -> None:
    settings.ALLOWED_HOSTS, settings.PUBLIC_URL = ["*"], "https://gateway.example"
    user, house = new_person(password=PASSWORD), House()
    thief = Client(headers={"Host": "evil.example"})
    thief.post(reverse("account_reset_password"), {"email": user.email})
    text = mail_to(user.email).content["text"]
    assert "https://gateway.example/user/password/reset/key/" in text and "evil.example" not in text
    thief.post(reverse("account_signup"), {"name": "Ada", "email": user.email, "password1": PASSWORD})
    text = mail_to(user.email).content["text"]
    assert "https://gateway.example/user/password/reset/" in text and "evil.example" not in text
    client, guest = house.browser("owner"), new_address()
    form = {"email": guest, "role": "viewer", "form_token": form_tokens.new()}
    assert client.post(f"{house.base}/members", form, headers={"Host": "evil.example"}).status_code == 302
    text = mail_to(guest).content["text"]
    assert "https://gateway.example/invitations/" in text and "evil.example" not in text


def test_somebody_whom_the_operator_made_signs_in_without_a_mail() -> None:
    user = User.objects.create_user(new_address(), PASSWORD)
    client = stranger()
    sign_in(client, user.email)
    assert is_signed_in(client)
    assert not OutboxMessage.objects.filter(recipient=user.email).exists()


def test_a_forgotten_password_is_set_anew_by_a_link_that_works_once_and_ends_other_sessions() -> None:
    user = new_person(password=PASSWORD)
    elsewhere = browser_of(user)
    client = stranger()
    for address in (user.email, unknown := new_address()):
        assert client.post(reverse("account_reset_password"), {"email": address})["Location"] == reverse("account_reset_password_done")
    assert mail_to(unknown).subject == "No Tollgate account has this address"
    link = re.search(r"http://testserver(/user/password/reset/key/\S+)", mail_to(user.email).content["text"])[1]  # type: ignore[index]
    form = client.get(link)["Location"]
    new = "another horse, another battery"
    assert client.post(form, {"password1": new, "password2": new}).status_code == 302
    assert not is_signed_in(elsewhere)
    again = stranger()
    assert "password1" not in again.get(link, follow=True).content.decode()
    sign_in(again, user.email, new)
    assert is_signed_in(again)


# -- Second factors ---------------------------------------------------------------------------------------------------------------


def enrol(client: Client) -> str:
    """Set up an authenticator app, having confirmed the password; returns its secret."""
    client.post(reverse("account_reauthenticate"), {"password": PASSWORD})
    page = client.get(reverse("mfa_activate_totp")).content.decode()
    secret = re.search(r'id="authenticator_secret" value="([A-Z2-7]+)"', page)
    assert secret
    assert client.post(reverse("mfa_activate_totp"), {"code": "000000"}).status_code == 200
    assert client.post(reverse("mfa_activate_totp"), {"code": code_now(secret[1])}).status_code == 302
    return secret[1]


def test_an_authenticator_app_is_set_up_and_from_then_on_asked_for() -> None:
    user = new_person(password=PASSWORD)
    client = stranger()
    sign_in(client, user.email)
    enrol(client)
    again = stranger()
    assert sign_in(again, user.email)["Location"] == reverse("mfa_authenticate")
    assert not is_signed_in(again)
    again.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert not is_signed_in(again)
    codes = RecoveryCodes(Authenticator.objects.get(user=user, type="recovery_codes")).get_unused_codes()
    again.post(reverse("mfa_authenticate"), {"code": codes[0]})
    assert is_signed_in(again)
    third = stranger()
    sign_in(third, user.email)
    third.post(reverse("mfa_authenticate"), {"code": codes[0]})  # each works once
    assert not is_signed_in(third)


def test_the_secrets_of_second_factors_are_sealed_and_survive_a_new_encryption_key(settings: Any) -> None:
    user = new_person(password=PASSWORD)
    client = stranger()
    sign_in(client, user.email)
    secret = enrol(client)
    rows = {row.type: row for row in Authenticator.objects.filter(user=user)}
    assert secret not in str([row.data for row in rows.values()])
    codes = RecoveryCodes(rows["recovery_codes"]).get_unused_codes()
    settings.ENCRYPTION_KEYS = [f"2:{secrets.token_hex(32)}", *settings.ENCRYPTION_KEYS]
    with transaction.atomic():  # undone afterwards: it re-seals everybody's, under a key that ends with this test
        after = None
        while (batch := second_factors.reseal_batch(after=after, limit=1)).last is not None:
            after = batch.last
        rows = {row.type: row for row in Authenticator.objects.filter(user=user)}
        assert {vault.sealed_under(rows["totp"].data["secret"]), vault.sealed_under(rows["recovery_codes"].data["seed"])} == {"2"}
        assert TOTP(rows["totp"]).validate_code(code_now(secret))
        assert RecoveryCodes(rows["recovery_codes"]).get_unused_codes() == codes
        transaction.set_rollback(True)


def test_dangerous_deeds_ask_for_the_password_anew() -> None:
    user = new_person(password=PASSWORD)
    client = browser_of(user)  # signed in, but not by a password just now
    for name in ("mfa_activate_totp", "mfa_add_webauthn"):
        assert client.get(reverse(name))["Location"].startswith(reverse("account_reauthenticate"))
    client.post(reverse("account_reauthenticate"), {"password": PASSWORD})
    for name in ("mfa_activate_totp", "mfa_add_webauthn"):
        assert client.get(reverse(name)).status_code == 200


def test_a_passkey_is_asked_for_with_a_fresh_challenge_for_this_host() -> None:
    asked = [stranger().get(reverse("mfa_login_webauthn"), headers={"Accept": "application/json"}).json() for _ in range(2)]
    keys = [each["request_options"]["publicKey"] for each in asked]
    assert keys[0]["rpId"] == "testserver"
    assert keys[0]["challenge"] != keys[1]["challenge"]


def test_who_has_lost_the_second_factor_is_let_in_by_the_operator() -> None:
    user = new_person(password=PASSWORD)
    client = stranger()
    sign_in(client, user.email)
    enrol(client)
    call_command("reset_second_factor", user.email, stdout=io.StringIO())
    assert not is_signed_in(client)
    again = stranger()
    sign_in(again, user.email)
    assert is_signed_in(again)
    with pytest.raises(CommandError, match="Nobody"):
        call_command("reset_second_factor", "nobody@example.com")


def test_ended_sessions_are_dropped_and_those_that_go_on_are_kept() -> None:
    user = new_person(password=PASSWORD)
    ended, going = stranger(), stranger()
    for client in (ended, going):
        sign_in(client, user.email)
    Session.objects.filter(session_key=ended.session.session_key).update(expire_date=timezone.now() - timedelta(seconds=1))
    tasks.drop_ended_sessions()
    assert not Session.objects.filter(session_key=ended.cookies["sessionid"].value).exists()
    assert is_signed_in(going)


def test_sessions_are_listed_and_the_others_can_be_ended() -> None:
    user = new_person(password=PASSWORD)
    here, there = stranger(), stranger()
    for client in (here, there):
        sign_in(client, user.email)
    assert here.get(reverse("usersessions_list")).content.decode().count("<tr>") == 3
    here.post(reverse("usersessions_list"))
    assert is_signed_in(here)
    assert not is_signed_in(there)


# -- The admin --------------------------------------------------------------------------------------------------------------------


def test_staff_enters_the_admin_with_a_second_factor_and_the_sign_in_of_everybody(settings: Any) -> None:
    settings.ADMIN_MFA = True
    boss = User.objects.create_superuser(new_address(), PASSWORD)
    client, index = stranger(), reverse("admin:index")
    sent = client.get(index, follow=True)
    assert sent.redirect_chain[-1][0].startswith(reverse("account_login"))
    answer = client.post(sent.redirect_chain[-1][0], {"login": boss.email, "password": PASSWORD, "next": index})
    assert answer["Location"] == index
    assert client.get(index)["Location"] == reverse("mfa_index")
    assert "asks for two-step sign-in" in client.get(reverse("mfa_index")).content.decode()
    enrol(client)
    assert client.get(index).status_code == 200


@pytest.mark.parametrize("mfa", [True, False])
def test_a_person_who_is_no_staff_never_enters_the_admin(settings: Any, mfa: bool) -> None:
    settings.ADMIN_MFA = mfa
    client = browser_of(new_person())
    assert client.get(reverse("admin:index"), follow=True).status_code == 403


def test_without_admin_mfa_a_password_opens_the_admin_as_the_quickstart_says(settings: Any) -> None:
    settings.ADMIN_MFA = False
    call_command("createsuperuser", email=(address := new_address()), interactive=False, verbosity=0)
    boss = User.objects.get(email=address)
    boss.set_password(PASSWORD)
    boss.save()
    client = stranger()
    sign_in(client, address)
    assert client.get(reverse("admin:index")).status_code == 200
    assert not Account.objects.filter(members=boss).exists()  # the admin opens no account; the first page does


# -- The sign-in of others --------------------------------------------------------------------------------------------------------


def test_google_and_github_are_offered_when_they_are_configured() -> None:
    """In a process of its own: which providers there are is settled at the start."""
    script = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        "html = Client().get('/user/login/').content.decode()\n"
        "answer = Client().post('/user/github/login/?process=login')\n"
        "print(html.count('Continue with'), answer['Location'].partition('?')[0], 'https://github.com' in answer['Content-Security-Policy'])\n"
    )
    configured = {f"{name}_CLIENT_{part}": "x" for name in ("GOOGLE", "GITHUB") for part in ("ID", "SECRET")}
    environ = {**os.environ, **configured, "DJANGO_SETTINGS_MODULE": "gateway_site.settings", "ALLOWED_HOSTS": "testserver"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "https://github.com/login/oauth/authorize", "True"], done.stderr[-2000:]
