"""Where the gateway may connect to: no address of its own networks, unless the operator said so for that provider.

`ipaddress.is_global` lets NAT64, 6to4, site-local and multicast addresses through, so the ranges are listed here. The check is made on the
addresses that a name resolves to, in the resolver itself, so that what was checked is what is connected to: one look-up, no rebinding.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 "
        "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 ::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 "
        "2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
    ).split()
)


class AddressForbidden(OSError):
    """The provider's address is one the gateway must not connect to."""


def is_private(address: str) -> bool:
    """Whether an IP address belongs to a network that is not the public Internet; True for what is not an address at all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    return any(ip in network for network in PRIVATE if network.version == ip.version)


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
