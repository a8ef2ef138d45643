"""Members and invitations: who may do what to whom, and what a link is worth."""

import re
import uuid
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts import invitations, members
from accounts.models import AuditEvent, Invitation, Membership, OutboxMessage, User
from tests.accounts.people import House, browser_of, new_person

TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@pytest.fixture
def house() -> House:
    return House()


def token_of(client: Client, address: str) -> str:
    found = TOKEN.search(client.get(address).content.decode())
    assert found
    return found[1]


def invite(house: House, email: str, *, role: str = "developer", by: str = "owner") -> str:
    """Invite over the page; returns the path of the link in the mail."""
    client, page = house.browser(by), f"{house.base}/members"
    answer = client.post(page, {"email": email, "role": role, "form_token": token_of(client, page)})
    assert answer.status_code == 302, answer.content.decode()
    mail = OutboxMessage.objects.filter(recipient=email.lower()).latest("pk")
    return re.search(r"http://testserver(/invitations/[\w-]+)", mail.content["text"])[1]  # type: ignore[index]


def actions(house: House) -> list[str]:
    return list(AuditEvent.objects.filter(account=house.account).order_by("pk").values_list("action", flat=True))


def role_of(house: House, user: User) -> str | None:
    return Membership.objects.filter(account=house.account, user=user).values_list("role", flat=True).first()


# -- Invitations ------------------------------------------------------------------------------------------------------------------


def test_an_invitation_makes_its_address_a_member_once_and_is_written_down(house: House) -> None:
    guest = new_person()
    link = invite(house, guest.email.upper(), role="billing")
    client = browser_of(guest)
    assert client.get(link).status_code == 200
    assert client.post(link)["Location"] == f"{house.base}/"
    assert role_of(house, guest) == "billing"
    assert client.post(link).status_code == 404  # replayed
    assert actions(house) == ["member.invited", "member.joined"]


def test_the_links_secret_is_nowhere_but_in_the_mail(house: House) -> None:
    guest = new_person()
    secret = invite(house, guest.email).rpartition("/")[2]
    row = Invitation.objects.get(account=house.account)
    assert secret.encode() not in bytes(row.digest)
    assert not AuditEvent.objects.filter(account=house.account, details__icontains=secret).exists()
    assert secret not in house.browser("owner").get(f"{house.base}/members").content.decode()


def test_another_address_cannot_take_an_invitation(house: House) -> None:
    guest, thief = new_person(), new_person()
    link = invite(house, guest.email)
    client = browser_of(thief)
    assert "You are signed in as" in client.get(link).content.decode()
    client.post(link)
    assert role_of(house, thief) is None
    unverified = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")  # has the address, has not proved it
    link = invite(house, unverified.email)
    browser_of(unverified).post(link)
    assert role_of(house, unverified) is None


def test_an_expired_revoked_or_replaced_invitation_and_that_of_a_closed_account_open_nothing(house: House) -> None:
    guest = new_person()
    client = browser_of(guest)
    replaced = invite(house, guest.email)
    expired = invite(house, guest.email)
    Invitation.objects.filter(account=house.account, revoked_at=None).update(expires_at=timezone.now() - timedelta(seconds=1))
    revoked = invite(house, guest.email)
    row = Invitation.objects.get(account=house.account, revoked_at=None)
    house.browser("admin").post(f"{house.base}/invitations/{row.pk}/revoke")
    closed = invite(house, guest.email)
    house.account.is_active = False
    house.account.save()
    for link in (replaced, expired, revoked, closed, "/invitations/nonsense"):
        assert client.get(link).status_code == client.post(link).status_code == 404
    assert role_of(house, guest) is None


def test_nobody_revokes_an_invitation_of_another_account(house: House) -> None:
    invite(house, new_person().email)
    row = Invitation.objects.get(account=house.account)
    other = House()
    other.browser("owner").post(f"{other.base}/invitations/{row.pk}/revoke")
    row.refresh_from_db()
    assert row.revoked_at is None


def test_an_admin_cannot_invite_an_owner_nor_anybody_a_member(house: House) -> None:
    client, page = house.browser("admin"), f"{house.base}/members"
    answer = client.post(page, {"email": "x@example.com", "role": "owner", "form_token": token_of(client, page)})
    assert answer.status_code == 400
    member = house.user("viewer").email
    answer = client.post(page, {"email": member, "role": "viewer", "form_token": token_of(client, page)})
    assert "member already" in answer.content.decode()
    with pytest.raises(members.RoleTooHigh):
        invitations.invite(by=house.members["admin"], email="x@example.com", role="owner", link="{secret}", now=timezone.now())
    assert not Invitation.objects.filter(account=house.account).exists()


def test_a_form_sent_twice_invites_once(house: House) -> None:
    client, page, email = house.browser("owner"), f"{house.base}/members", f"{uuid.uuid4().hex}@example.com"
    form = {"email": email, "role": "viewer", "form_token": token_of(client, page)}
    assert [client.post(page, form).status_code for _ in range(2)] == [302, 302]
    assert OutboxMessage.objects.filter(recipient=email).count() == 1


def test_a_form_without_a_token_of_ours_is_refused(house: House) -> None:
    for token in ("", "x", "x" * 22 + "\n"):
        answer = house.browser("owner").post(f"{house.base}/members", {"email": "x@example.com", "role": "viewer", "form_token": token})
        assert answer.status_code == 400


# -- Roles ------------------------------------------------------------------------------------------------------------------------


def change(house: House, by: str, whom: str, role: str) -> None:
    house.browser(by).post(f"{house.base}/members/{house.members[whom].pk}/role", {"role": role})


def test_a_role_is_changed_by_who_may_and_written_down(house: House) -> None:
    change(house, "admin", "viewer", "developer")
    assert role_of(house, house.user("viewer")) == "developer"
    event = AuditEvent.objects.get(account=house.account)
    assert (event.action, event.details) == ("member.role_changed", {"from": "viewer", "to": "developer"})


def test_nobody_gives_or_takes_a_role_above_their_own(house: House) -> None:
    for by, whom, role in (
        ("admin", "viewer", "owner"),
        ("admin", "admin", "owner"),
        ("admin", "owner", "viewer"),
        ("owner", "viewer", "god"),
    ):
        change(house, by, whom, role)
        assert role_of(house, house.user(whom)) == whom
    house.browser("admin").post(f"{house.base}/members/{house.members['owner'].pk}/remove")
    house.browser("viewer").post(f"{house.base}/members/{house.members['developer'].pk}/remove")
    assert Membership.objects.filter(account=house.account).count() == 5
    assert actions(house) == []


def test_a_member_of_another_account_is_out_of_reach(house: House) -> None:
    other = House()
    victim = other.members["viewer"]
    client = house.browser("owner")
    client.post(f"{house.base}/members/{victim.pk}/role", {"role": "owner"})
    client.post(f"{house.base}/members/{victim.pk}/remove")
    victim.refresh_from_db()
    assert victim.role == "viewer"


def test_an_account_keeps_an_owner(house: House) -> None:
    change(house, "owner", "owner", "viewer")
    house.browser("owner").post(f"{house.base}/members/{house.members['owner'].pk}/remove")
    assert role_of(house, house.user("owner")) == "owner"
    change(house, "owner", "admin", "owner")
    house.browser("owner").post(f"{house.base}/members/{house.members['owner'].pk}/remove")
    assert role_of(house, house.user("owner")) is None
    assert role_of(house, house.user("admin")) == "owner"
    assert actions(house)[-1] == "member.left"


def test_everybody_may_leave_and_then_finds_nothing(house: House) -> None:
    client = house.browser("viewer")
    assert client.post(f"{house.base}/members/{house.members['viewer'].pk}/remove")["Location"] == "/"
    assert client.get(f"{house.base}/").status_code == 404


def test_nobody_sends_the_world_mails_in_our_name(house: House) -> None:
    now, by, victim = timezone.now(), house.members["owner"], f"{uuid.uuid4().hex}@example.com"

    def invite_over(member: Membership, email: str) -> None:
        invitations.invite(by=member, email=email, role="viewer", link="{secret}", now=now)

    for _ in range(invitations.MOST_TO_ONE_A_DAY):
        invite_over(by, victim)
    with pytest.raises(invitations.TooManyInvitations):
        invite_over(by, victim)
    elsewhere = Membership.objects.create(account=House().account, user=by.user, role="owner")  # another account is no way around it
    with pytest.raises(invitations.TooManyInvitations):
        invite_over(elsewhere, victim)
    for number in range(invitations.MOST_A_DAY - invitations.MOST_TO_ONE_A_DAY):
        invite_over((by, elsewhere)[number % 2], f"{uuid.uuid4().hex}@example.com")
    client, page = house.browser("owner"), f"{house.base}/members"
    answer = client.post(page, {"email": "x@example.com", "role": "viewer", "form_token": token_of(client, page)})
    assert answer.status_code == 400 and "too many invitations" in answer.content.decode()
    invite_over(house.members["admin"], victim)  # others of the account may
    invitations.invite(by=by, email=victim, role="viewer", link="{secret}", now=now + timedelta(days=1, seconds=1))
