"""What the settings show to whom: where the gateway listens, under which names, and whether it is spoken to over TLS."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import validate_host

from gateway_site.diagnosis.findings import Finding, error, some, warning


def check_exposure() -> Iterator[Finding]:
    """What the settings show to whom."""
    listens = [name for name in ("HOST", "BIND") if not _is_loopback(_host_of(os.environ.get(name, "")))]
    names = [host for host in settings.ALLOWED_HOSTS if not _is_loopback(host)]
    public = urlsplit(settings.PUBLIC_URL)
    if settings.DEBUG and (listens or names):
        where = f"{listens[0]}={os.environ[listens[0]]}" if listens else f"ALLOWED_HOSTS={some(names)}"
        yield error(
            "debug",
            f"DEBUG is on and {where} reaches beyond this machine: error pages show source code and settings to anybody.",
            "Set DEBUG=false (with `make run`: in the environment or in .env), or listen on 127.0.0.1 only.",
        )
    if not settings.DEBUG and not settings.HTTPS_ONLY:
        yield warning("https", "HTTPS_ONLY is off: cookies and passwords may travel in the clear.", "Remove HTTPS_ONLY=false.")
    if not settings.DEBUG and public.scheme == "http" and not _is_loopback(public.hostname or ""):
        yield warning("https", f"PUBLIC_URL={settings.PUBLIC_URL} is without TLS: API keys travel in the clear.", "Serve it as https://.")
    if settings.HTTPS_ONLY and public.scheme == "https" and not os.environ.get("TRUSTED_PROXIES"):
        yield warning(
            "https",
            "HTTPS_ONLY is on and no proxy is trusted to say that a request came over TLS: pages redirect to themselves for ever.",
            "Set TRUSTED_PROXIES to the address of the proxy that ends TLS.",
        )
    if public.hostname and not validate_host(public.hostname, settings.ALLOWED_HOSTS or ["localhost"]):
        yield warning(
            "hosts",
            f"PUBLIC_URL names {public.hostname}, which ALLOWED_HOSTS does not: pages there answer 400.",
            f"Add {public.hostname} to ALLOWED_HOSTS.",
        )


def _host_of(address: str) -> str:
    """The host of `host:port`, `[::1]:port` or a host alone."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] or "0.0.0.0" if address.count(":") == 1 else address  # noqa: S104  compared, not bound


def _is_loopback(host: str) -> bool:
    host = host.strip("[]").lower()
    if host in ("", "localhost", "unix") or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
