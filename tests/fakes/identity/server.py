"""The server: `/login/oauth/…` and `/api/v3/…` as a GitHub Enterprise server has them, `/google/…` as Google's four addresses.

It is strict: a wrong client, redirect, code or PKCE verifier is refused as the real ones do, and noted in `mistakes`.
https://docs.github.com/apps/oauth-apps, https://developers.google.com/identity/protocols/oauth2/web-server
"""

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt

from tests.fakes.identity.people import FAULTS, Person

CLIENT_ID, CLIENT_SECRET = "tollgate-at-the-fake", "a-secret-of-the-fake"
ISSUER = "https://accounts.google.com"
AUTHORIZE = {"/login/oauth/authorize": "github", "/google/auth": "google"}
TOKEN = {"/login/oauth/access_token": "github", "/google/token": "google"}


@dataclass(frozen=True)
class Grant:
    """What somebody has allowed."""

    person: Person
    redirect_uri: str
    challenge: str


class FakeIdentity:
    """The provider; `with` runs it. Whoever shall be able to sign in there is `add`ed first."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.mistakes: list[str] = []
        self.codes: dict[str, Grant] = {}
        self.tokens: dict[str, Person] = {}
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, person: Person) -> Person:
        """Give somebody an account here."""
        self.people[person.login] = person
        return person

    def __enter__(self) -> "FakeIdentity":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    # -- what the pages and the API say

    def consent_page(self, query: dict[str, str]) -> str:
        """One button for each person, as if all of them sat at this browser."""
        kept = "".join(f'<input type="hidden" name="{name}" value="{html.escape(value)}">' for name, value in query.items())
        people = "".join(f'<button name="person" value="{one.login}">Continue as {one.login}</button>' for one in self.people.values())
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Authorize</title><link rel="icon" href="data:,"></head><body>'
            f'<h1>Authorize Tollgate</h1><form method="post" action="/consent">{kept}{people}<button name="cancel" value="1">Cancel</button>'
            "</form></body></html>"
        )

    def decide(self, form: dict[str, str]) -> str:
        """Where the browser goes after the consent page."""
        said = {"state": form.get("state", "")}
        if "cancel" in form:
            said |= {"error": "access_denied", "error_description": "The user has denied your application access."}
        else:
            said["code"] = secrets.token_urlsafe(20)
            self.codes[said["code"]] = Grant(self.people[form["person"]], form["redirect_uri"], form.get("code_challenge", ""))
        return f"{form['redirect_uri']}?{urlencode(said)}"

    def check_authorize(self, query: dict[str, str]) -> str:
        """What is wrong with a request for the consent page."""
        wanted = {"client_id": CLIENT_ID, "response_type": "code", "code_challenge_method": "S256"}
        wrong = [name for name, value in wanted.items() if query.get(name) != value]
        return ", ".join(wrong + [name for name in ("redirect_uri", "scope", "state", "code_challenge") if not query.get(name)])

    def exchange(self, form: dict[str, str]) -> Grant | None:
        """Take a code, which works once."""
        grant = self.codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        wrong = {
            "client": (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET),
            "code": grant is None,
            "redirect_uri": grant is not None and form.get("redirect_uri") != grant.redirect_uri,
            "code_verifier": grant is not None and base64.urlsafe_b64encode(verifier).rstrip(b"=").decode() != grant.challenge,
        }
        if any(wrong.values()):
            self.mistakes.append(f"token: {[name for name, is_so in wrong.items() if is_so]}")
            return None
        return grant

    def id_token(self, person: Person) -> str:
        """What Google says of somebody, signed by nobody whom the reader asks: it came over TLS."""
        now = int(time.time())
        claims: dict[str, Any] = {"iss": ISSUER, "aud": CLIENT_ID, "sub": str(person.uid), "iat": now, "exp": now + 3600, **info(person)}
        return jwt.encode({**claims, **person.claims}, secrets.token_hex(32), algorithm="HS256")


def info(person: Person) -> dict[str, Any]:
    """A Google profile, as an id_token has it."""
    address, is_verified = person.emails[0] if person.emails else ("", False)
    first, _, last = (person.name or "").partition(" ")
    return {"email": address, "email_verified": is_verified, "name": person.name, "given_name": first, "family_name": last}


def _handler(fake: FakeIdentity) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            if parts.path in AUTHORIZE:
                wrong = fake.check_authorize(query)
                if wrong:
                    fake.mistakes.append(f"authorize: {wrong}")
                return self.say(400 if wrong else 200, wrong or fake.consent_page(query), "text/html; charset=utf-8")
            person = fake.tokens.get(self.headers.get("Authorization", "").partition(" ")[2])
            if person is None:
                return self.say_json({"message": "Bad credentials"}, 401)
            if parts.path == "/api/v3/user":
                return self.step("profile", person, {"id": person.uid, "login": person.login, "name": person.name, "email": person.email})
            if parts.path == "/api/v3/user/emails":
                emails = [{"email": each, "verified": good, "primary": at == 0} for at, (each, good) in enumerate(person.emails)]
                return self.step("emails", person, emails)
            if parts.path == "/google/userinfo":
                told = info(person)
                return self.step("profile", person, {"id": str(person.uid), "verified_email": told.pop("email_verified"), **told})
            return self.say_json({"message": "Not Found"}, 404)

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))
            if self.path == "/consent":
                self.send_response(302)
                self.send_header("Location", fake.decide(form))
                self.send_header("Content-Length", "0")
                return self.end_headers()
            grant = fake.exchange(form)
            is_google = TOKEN[self.path] == "google"
            if grant is None:
                refusal = {"error": "invalid_grant" if is_google else "bad_verification_code"}
                return self.say_json(refusal, 400 if is_google else 200)
            token = secrets.token_urlsafe(20)
            fake.tokens[token] = grant.person
            answer = {"access_token": token, "token_type": "bearer", "scope": "user:email"}
            if is_google:
                answer |= {"expires_in": "3599"} | ({"id_token": fake.id_token(grant.person)} if grant.person.has_id_token else {})
                return self.step("token", grant.person, answer)
            return self.step("token", grant.person, urlencode(answer))

        def step(self, name: str, person: Person, answer: Any) -> None:
            """Answer, unless something shall go wrong for this person here."""
            if name not in person.faults:
                return self.say(200, answer, "application/x-www-form-urlencoded") if isinstance(answer, str) else self.say_json(answer)
            status, body = FAULTS[person.faults[name]]
            if status == -1:
                fake.closing.wait(30)
            if status <= 0:
                self.close_connection = True
                return None
            return self.say(status, body, "application/json; charset=utf-8")

        def say_json(self, answer: Any, status: int = 200) -> None:
            self.say(status, json.dumps(answer), "application/json; charset=utf-8")

        def say(self, status: int, body: str, kind: str) -> None:
            raw = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
