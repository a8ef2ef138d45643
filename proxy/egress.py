"""Where the gateway may connect to: no address of its own networks, unless the operator said so for that provider.

The check is made on the addresses that a name resolves to, in the resolver itself, so that what was checked is what is connected to: one
look-up, no rebinding. Which addresses those are is in `gateway_site.addresses`.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from gateway_site.addresses import is_private


class AddressForbidden(OSError):
    """The provider's address is one the gateway must not connect to."""


def check_base_url(url: str, *, allow_private: bool) -> None:
    """Refuse a provider address that could not be right.

    Raises: AddressForbidden.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise AddressForbidden(f"{url!r} is not a plain https address")
    if allow_private:
        return
    if parts.scheme != "https":
        raise AddressForbidden("plain http is only for providers with `allow_private`")
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        return  # a name: the resolver checks what it stands for
    if is_private(parts.hostname):
        raise AddressForbidden(f"{parts.hostname} is a private address")


class GuardedResolver(AbstractResolver):
    """Resolves names and refuses those that stand for a private address."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of `host`. Raises: AddressForbidden."""
        results = await self._inner.resolve(host, port, family)
        if any(is_private(result["host"]) for result in results):
            raise AddressForbidden(f"{host} resolves to a private address")
        return results

    async def close(self) -> None:
        """Nothing to close."""
        await self._inner.close()
