"""Access tokens for Google's service accounts: a signed assertion is exchanged for a token, which is kept until shortly before it ends.

RFC 7523, as https://developers.google.com/identity/protocols/oauth2/service-account has it. One exchange at a time for each account, however
many requests wait for it; a token that will end soon is renewed beside the requests, which go on with it.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from catalog import service_accounts
from catalog.service_accounts import ServiceAccount
from proxy import failures

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ASSERTION_SECONDS = 3600
RENEW_SECONDS = 300.0  # before a token ends, a new one is asked for
LEAST_SECONDS = 30.0  # with less left it is not used any more
MOST_ACCOUNTS = 256

Exchange = Callable[[str, bytes], Awaitable[bytes]]
"""Posts a form to an address and returns the body of a 200. Raises: UpstreamFailure, RequestRefused."""


@dataclass(slots=True)
class _Token:
    value: str
    ends_at: float  # monotonic seconds


class AccessTokens:
    """The tokens of one process, by the secret that they were signed with."""

    def __init__(self) -> None:
        self._tokens: dict[str, _Token] = {}
        self._under_way: dict[str, asyncio.Task[_Token]] = {}

    async def token_for(self, secret: str, exchange: Exchange) -> str:
        """A token that is good for a while yet.

        Raises: ProviderKeyRefused when Google does not accept the account; another UpstreamFailure when it cannot be asked.
        """
        token = self._tokens.get(secret)
        left = token.ends_at - time.monotonic() if token is not None else 0.0
        if token is not None and left > RENEW_SECONDS:
            return token.value
        task = self._under_way.get(secret)
        if task is None:
            task = self._under_way[secret] = asyncio.create_task(self._renew(secret, exchange))
            task.add_done_callback(lambda done: self._ended(secret, done))
        if token is not None and left > LEAST_SECONDS:
            return token.value
        return (await asyncio.shield(task)).value

    def forget(self, secret: str) -> None:
        """Use this account's token no more: the provider refused it."""
        self._tokens.pop(secret, None)

    def _ended(self, secret: str, done: "asyncio.Task[_Token]") -> None:
        self._under_way.pop(secret, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; a renewal beside the requests is tried again by the next one

    async def _renew(self, secret: str, exchange: Exchange) -> _Token:
        try:
            account = service_accounts.read(secret)
            form = await asyncio.to_thread(_form, account, int(time.time()))  # reading a private key takes a while
        except ValueError as error:
            raise failures.ProviderKeyRefused(401, out_of_money=False) from error
        began = time.monotonic()
        try:
            answer = orjson.loads(await exchange(account.token_uri, form))
        except failures.RequestRefused as refusal:  # such as invalid_grant: the account is gone, or its key is
            raise failures.ProviderKeyRefused(refusal.status, out_of_money=False) from refusal
        except orjson.JSONDecodeError as error:
            raise failures.BrokenAnswer("the token server did not answer in JSON") from error
        value, seconds = (answer.get("access_token"), answer.get("expires_in")) if isinstance(answer, dict) else (None, None)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value or not value:
            raise failures.BrokenAnswer("the token server gave no token")
        lasts = float(seconds) if isinstance(seconds, int | float) and 0 < seconds <= 86_400 else RENEW_SECONDS
        token = _Token(value, began + lasts)
        while len(self._tokens) >= MOST_ACCOUNTS:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[secret] = token
        return token


def _form(account: ServiceAccount, now: int) -> bytes:
    """The request for a token: an assertion signed with the account's key. Raises: ValueError for a key that is none."""
    key = load_pem_private_key(account.private_key.encode(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 - the text is wrong, not its type
    claims = {"iss": account.email, "scope": SCOPE, "aud": account.token_uri, "iat": now, "exp": now + ASSERTION_SECONDS}
    head = {"alg": "RS256", "typ": "JWT", **({"kid": account.key_id} if account.key_id else {})}
    signed = f"{_part(orjson.dumps(head))}.{_part(orjson.dumps(claims))}"
    signature = key.sign(signed.encode(), PKCS1v15(), SHA256())
    return urlencode({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": f"{signed}.{_part(signature)}"}).encode()


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
