"""Signing in with GitHub and Google, the whole road: consent, code, token, profile, addresses. The gateway and the provider are real servers."""

import itertools
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from allauth.socialaccount.models import SocialAccount, SocialToken
from django.conf import settings as site
from django.test import Client
from django.utils import timezone

from accounts import invitations
from accounts.models import Membership, OutboxMessage, User
from tests.accounts.people import PASSWORD, House, code_in, new_person
from tests.conftest import Gateway
from tests.fakes.identity import FAULTS, FakeIdentity, Person
from tests.fakes.identity.server import CLIENT_ID, CLIENT_SECRET

CALLBACK = "/user/{}/login/callback/"
NOT_SIGNED_IN = "<h1>Not signed in</h1>"
NO_ADDRESS = {"null", "an empty object", "a list"}  # what GitHub may say of addresses without being wrong: that there are none
Site = Callable[[str], Gateway]


@pytest.fixture(scope="module")
def identity() -> Iterator[FakeIdentity]:
    with FakeIdentity() as fake:
        yield fake
    assert fake.mistakes == []


@pytest.fixture(scope="module")
def at(identity: FakeIdentity, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The gateway with this SIGN_UP, whose GitHub and Google are the fake."""
    running: dict[str, Gateway] = {}

    def start(sign_up: str) -> Gateway:
        if sign_up not in running:
            environ = {
                "SIGN_UP": sign_up,
                "ADMIN_MFA": "1",
                "DJANGO_SETTINGS_MODULE": "tests.fakes.identity.settings",
                "FAKE_IDENTITY_URL": identity.url,
                "GITHUB_URL": identity.url,
                **{f"{name}_CLIENT_ID": CLIENT_ID for name in ("GITHUB", "GOOGLE")},
                **{f"{name}_CLIENT_SECRET": CLIENT_SECRET for name in ("GITHUB", "GOOGLE")},
            }
            running[sign_up] = Gateway(tmp_path_factory.mktemp(sign_up) / "gateway.log", environ).start()
        return running[sign_up]

    yield start
    for gateway in running.values():
        gateway.stop()


class Visitor:
    """A browser at the gateway, and somebody's consent at the provider."""

    def __init__(self, gateway: Gateway, identity: FakeIdentity, user: User | None = None) -> None:
        self.gateway, self.identity = gateway, identity
        self.browser = httpx.Client(base_url=gateway.origin, follow_redirects=True, timeout=60)
        if user is not None:
            client = Client()
            client.force_login(user)
            self.browser.cookies.set(site.SESSION_COOKIE_NAME, client.cookies[site.SESSION_COOKIE_NAME].value, domain="127.0.0.1")

    def send(self, page: str, address: str, **fields: str) -> httpx.Response:
        """Send a form of a page."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.browser.get(page).text)
        assert token
        return self.browser.post(
            address, data={"csrfmiddlewaretoken": token[1], **fields}, headers={"Referer": f"{self.gateway.origin}{page}"}
        )

    def go(self, provider: str, *, process: str = "login", page: str = "/user/login/") -> httpx.Response:
        """Press the button and stand before the provider's consent page."""
        shown = self.send(page, f"/user/{provider}/login/?process={process}")
        assert str(shown.url).startswith(self.identity.url), shown.text
        assert shown.status_code == 200, shown.text
        return shown

    def decide(self, consent: httpx.Response, **choice: str) -> str:
        """Press a button there; returns the address that the browser is sent back to."""
        kept = dict(parse_qsl(urlsplit(str(consent.url)).query))
        answer = httpx.post(f"{self.identity.url}/consent", data={**kept, **choice}, timeout=60)
        return answer.headers["Location"]

    def sign_in(self, provider: str, person: Person, **more: str) -> httpx.Response:
        """The whole road; returns the page that it ends at."""
        self.identity.add(person)
        return self.browser.get(self.decide(self.go(provider, **more), person=person.login))

    @property
    def user(self) -> User | None:
        """Who is signed in here."""
        page = self.browser.get("/user/profile", follow_redirects=False)
        if page.status_code != 200:
            return None
        return User.objects.get(email=re.search(r"[\w.-]+@example\.com", page.text)[0])  # type: ignore[index]


@pytest.fixture
def visit(at: Site, identity: FakeIdentity) -> Callable[..., Visitor]:
    return lambda sign_up="open", **more: Visitor(at(sign_up), identity, **more)


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    return visit()


def new_address() -> str:
    return f"{uuid.uuid4().hex[:20]}@example.com"


def mails_to(address: str) -> list[OutboxMessage]:
    return list(OutboxMessage.objects.filter(recipient=address).order_by("pk"))


def path_of(answer: httpx.Response) -> str:
    return urlsplit(str(answer.url)).path


# -- New people -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "more"),
    [("github", {}), ("github", {"email": "public@elsewhere.example"}), ("google", {}), ("google", {"has_id_token": False})],
    ids=["github", "github with another public address", "google by id_token", "google by userinfo"],
)
def test_a_new_person_whose_address_the_provider_has_verified_is_in_at_once(visitor: Visitor, provider: str, more: dict[str, Any]) -> None:
    address = new_address()
    page = visitor.sign_in(provider, person := Person(emails=((address, True),), **more))
    assert page.status_code == 200, page.text
    assert re.fullmatch(r"/a/grace-hopper-[0-9a-f]{8}/", path_of(page))
    user = User.objects.get(email=address)
    assert (visitor.user, user.name, user.has_usable_password()) == (user, "Grace Hopper", False)
    assert EmailAddress.objects.filter(user=user, verified=True).get().email == address
    assert Membership.objects.get(user=user).role == "owner"
    assert SocialAccount.objects.get(user=user).uid == str(person.uid)
    assert not SocialToken.objects.filter(account__user=user).exists(), "what opens their account elsewhere is not kept"
    assert not [mail for mail in mails_to(address) if "code" in mail.subject]


def test_who_comes_again_is_the_same_person_whatever_address_the_provider_tells_by_then(
    visit: Callable[..., Visitor], visitor: Visitor
) -> None:
    first = Person(emails=((new_address(), True),))
    visitor.sign_in("github", first)
    again = visit()
    again.sign_in("github", Person(emails=((new_address(), True),), uid=first.uid))
    assert again.user == visitor.user is not None


@pytest.mark.parametrize("provider", ["github", "google"])
def test_an_address_that_the_provider_has_not_verified_is_proved_by_a_code(visitor: Visitor, provider: str) -> None:
    address = new_address()
    page = visitor.sign_in(provider, Person(emails=((address, False),)))
    assert path_of(page) == "/user/confirm-email/"
    assert visitor.user is None
    assert not EmailAddress.objects.filter(email=address, verified=True).exists()
    done = visitor.send("/user/confirm-email/", "/user/confirm-email/", code=code_in(mails_to(address)[-1]))
    assert done.status_code == 200
    assert visitor.user == User.objects.get(email=address)


@pytest.mark.parametrize("emails_say", ["", *sorted(NO_ADDRESS)])
def test_who_has_no_address_at_github_is_asked_for_one_and_proves_it(visitor: Visitor, emails_say: str) -> None:
    page = visitor.sign_in("github", Person(faults={"emails": emails_say} if emails_say else {}))
    assert path_of(page) == "/user/3rdparty/signup/"
    assert "no address that we can write to" in page.text
    address = new_address()
    asked = visitor.send("/user/3rdparty/signup/", "/user/3rdparty/signup/", name="Grace", email=address)
    assert path_of(asked) == "/user/confirm-email/", asked.text
    assert visitor.user is None
    visitor.send("/user/confirm-email/", "/user/confirm-email/", code=code_in(mails_to(address)[-1]))
    assert visitor.user == User.objects.get(email=address, name="Grace")


# -- People who are here already ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["github", "google"])
@pytest.mark.parametrize("is_verified", [True, False])
def test_an_address_at_a_provider_opens_nobodys_account_but_tells_its_owner_by_mail(
    visitor: Visitor, provider: str, *, is_verified: bool
) -> None:
    owner = new_person(name="the owner", password=PASSWORD)
    page = visitor.sign_in(provider, person := Person(emails=((owner.email, is_verified),)))
    assert page.status_code == 200
    assert visitor.user is None
    assert not SocialAccount.objects.filter(uid=str(person.uid)).exists()
    (mail,) = mails_to(owner.email)
    assert mail.subject == "You have a Tollgate account already"
    owner.refresh_from_db()
    assert owner.check_password(PASSWORD)


def test_an_address_that_is_typed_after_github_told_none_opens_nobodys_account_either(visitor: Visitor) -> None:
    owner = new_person(password=PASSWORD)
    visitor.sign_in("github", person := Person())
    visitor.send("/user/3rdparty/signup/", "/user/3rdparty/signup/", name="Mallory", email=owner.email)
    assert visitor.user is None
    assert not SocialAccount.objects.filter(uid=str(person.uid)).exists()
    assert mails_to(owner.email)[-1].subject == "You have a Tollgate account already"


def test_who_is_signed_in_connects_github_with_the_password_and_signs_in_with_it_from_then_on(
    visit: Callable[..., Visitor], settings: Any
) -> None:
    settings.PASSWORD_HASHERS = settings.PASSWORD_HASHERS[1:]  # as the gateway's process has them

    def connect(user: User, person: Person) -> httpx.Response:
        browser = visit(user=user)
        page = browser.sign_in("github", person, process="connect", page="/user/3rdparty/")
        assert path_of(page) == "/user/reauthenticate/"
        return browser.send("/user/reauthenticate/", "/user/reauthenticate/", password=PASSWORD)

    owner, thief = new_person(name="Grace", password=PASSWORD), new_person(password=PASSWORD)
    person = Person(emails=((new_address(), True),))
    page = connect(owner, person)
    assert (page.status_code, path_of(page)) == (200, "/user/3rdparty/")
    assert SocialAccount.objects.get(uid=str(person.uid)).user == owner
    later = visit()
    later.sign_in("github", person)
    assert later.user == owner
    assert connect(thief, person).status_code == 200
    assert SocialAccount.objects.get(uid=str(person.uid)).user == owner


# -- What goes wrong ----------------------------------------------------------------------------------------------------------------------


def test_who_cancels_is_told_what_else_there_is(visitor: Visitor) -> None:
    page = visitor.browser.get(visitor.decide(visitor.go("github"), cancel="1"))
    assert (page.status_code, path_of(page)) == (200, "/user/3rdparty/login/cancelled/")
    assert NOT_SIGNED_IN in page.text
    assert "Continue with GitHub" in page.text
    assert visitor.user is None


@pytest.mark.parametrize("provider", ["github", "google"])
def test_a_return_that_was_not_asked_for_in_this_browser_signs_nobody_in(
    visit: Callable[..., Visitor], visitor: Visitor, provider: str
) -> None:
    person = visitor.identity.add(Person(emails=((new_address(), True),)))
    good = visitor.decide(visitor.go(provider), person=person.login)
    address, _, query = good.partition("?")
    without_state = f"{address}?code={dict(parse_qsl(query))['code']}"
    for who, where in (
        (visit(), good),  # handed to somebody else, who would be signed in as another
        (visitor, without_state),
        (visitor, f"{without_state}&state=forged"),
        (visitor, address),
    ):
        page = who.browser.get(where)
        assert (page.status_code, NOT_SIGNED_IN in page.text) == (401, True), where
        assert who.user is None
    assert visitor.browser.get(good).status_code == 200
    assert visitor.user is not None
    assert visitor.browser.get(good).status_code == 401, "a return works once"


STEPS = {"github": ("token", "profile", "emails"), "google": ("token", "profile")}


@pytest.mark.parametrize(
    ("provider", "step", "fault"),
    [
        (provider, step, fault)
        for provider, steps in STEPS.items()
        for step, fault in itertools.product(steps, FAULTS)
        if (step, fault) not in {("emails", each) for each in NO_ADDRESS}
    ],
)
def test_a_provider_that_answers_nonsense_or_not_at_all_is_a_page_with_a_remedy(
    visitor: Visitor, provider: str, step: str, fault: str
) -> None:
    page = visitor.sign_in(provider, Person(emails=((new_address(), True),), has_id_token=False, faults={step: fault}))
    assert (page.status_code, NOT_SIGNED_IN in page.text) == (401, True), page.text
    assert "Try it again, or sign in another way." in page.text
    assert f'action="/user/{provider}/login/' in page.text
    assert visitor.user is None


@pytest.mark.parametrize(
    "claims", [{"aud": "somebody-else"}, {"iss": "https://evil.example"}, {"exp": 1_600_000_000}, {"sub": None}], ids=str
)
def test_an_id_token_that_is_not_for_us_or_over_is_refused(visitor: Visitor, claims: dict[str, object]) -> None:
    page = visitor.sign_in("google", Person(emails=((address := new_address(), True),), claims=claims))
    assert (page.status_code, NOT_SIGNED_IN in page.text) == (401, True), page.text
    assert visitor.user is None
    assert not User.objects.filter(email=address).exists()


# -- Second factors and staff -------------------------------------------------------------------------------------------------------------


def linked(**powers: bool) -> tuple[User, Person]:
    """Somebody who has connected GitHub."""
    user = new_person(name="Grace", password=None, **powers)
    person = Person(emails=((user.email, True),))
    SocialAccount.objects.create(user=user, provider="github", uid=str(person.uid), extra_data={})
    return user, person


def test_a_second_factor_is_asked_for_all_the_same(visitor: Visitor) -> None:
    user, person = linked()
    TOTP.activate(user, secret := generate_totp_secret())
    page = visitor.sign_in("github", person)
    assert path_of(page) == "/user/2fa/authenticate/"
    assert visitor.user is None
    code = format_hotp_value(hotp_value(secret, int(time.time()) // 30))
    visitor.send("/user/2fa/authenticate/", "/user/2fa/authenticate/", code=str(code))
    assert visitor.user == user


def test_staff_enters_the_admin_with_a_second_factor_only(visitor: Visitor) -> None:
    user, person = linked(is_staff=True, is_superuser=True)
    visitor.sign_in("github", person)
    assert visitor.user == user
    page = visitor.browser.get("/admin/")
    assert path_of(page) == "/user/2fa/"
    assert "asks for two-step sign-in" in page.text


# -- Who may sign up ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign_up", ["closed", "invite"])
def test_where_sign_up_is_closed_nobody_new_comes_in_by_another_site_and_who_is_here_does(
    visit: Callable[..., Visitor], sign_up: str
) -> None:
    stranger = visit(sign_up)
    for person in (Person(emails=((address := new_address(), True),)), Person()):
        page = stranger.sign_in("github", person)
        assert "Sign-up is closed" in page.text
        assert stranger.user is None
    assert not User.objects.filter(email=address).exists()
    user, person = linked()
    member = visit(sign_up)
    member.sign_in("github", person)
    assert member.user == user


def test_where_only_the_invited_may_sign_up_the_address_has_to_be_the_invited_one(visit: Callable[..., Visitor]) -> None:
    house, guest = House(), new_address()
    invitations.invite(
        by=house.members["owner"], email=guest, role="developer", link="L{secret}L", now=timezone.now() - timedelta(minutes=1)
    )
    secret = re.search(r"L([\w-]{43})L", mails_to(guest)[-1].content["text"])[1]  # type: ignore[index]
    other = visit("invite")
    other.browser.get(f"/invitations/{secret}")
    assert "Sign-up is closed" in other.sign_in("github", Person(emails=((new_address(), True),))).text
    invited = visit("invite")
    invited.browser.get(f"/invitations/{secret}")
    page = invited.sign_in("github", Person(emails=((guest, True),)))
    assert path_of(page) == f"/invitations/{secret}", page.text
    invited.send(f"/invitations/{secret}", f"/invitations/{secret}")
    assert Membership.objects.get(user__email=guest).account == house.account
