"""Where the gateway refuses to connect to: every address that is not the public Internet, however it is written."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_site.addresses import is_private
from proxy.egress import AddressForbidden, GuardedResolver, check_base_url

PRIVATE = """0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255
    192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
    64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
    fe80::1%eth0 fec0::1 ff02::1""".split()
PUBLIC = """1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.255.255 172.15.255.255 172.32.0.1
    192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 223.255.255.255 2606:4700:4700::1111 2a00:1450:4001:81b::200e 2620:fe::fe""".split()


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_known_as_one(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_known_as_one(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "1.1.1.1:80", "[::1]", "１.１.１.１"]
)
def test_what_is_no_address_counts_as_private(text: str) -> None:
    assert is_private(text)


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_private_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not address.is_global and not (address.version == 4 and address in ipaddress.ip_network("192.0.0.0/24")):
        assert is_private(str(address))


@given(st.ip_addresses(v=4))
def test_an_address_dressed_as_ipv6_is_not_let_through(address: ipaddress.IPv4Address) -> None:
    assert is_private(f"::ffff:{address}")
    assert is_private(f"64:ff9b::{address}")
    assert is_private(f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::")


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://1.1.1.1/v1", "https://[2606:4700:4700::1111]:8443/v1"])
def test_a_plain_https_address_is_accepted(url: str) -> None:
    check_base_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.openai.com/v1",
        "https://127.0.0.1/v1",
        "https://[::1]/v1",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://user:secret@api.openai.com/v1",
        "https://api.openai.com/v1?key=1",
        "https://api.openai.com/v1#x",
        "ftp://api.openai.com",
        "file:///etc/passwd",
        "gopher://api.openai.com",
        "https://",
        "api.openai.com",
        "",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(AddressForbidden):
        check_base_url(url, allow_private=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/v1", "http://localhost/v1", "https://10.0.0.1"])
def test_the_operator_may_allow_a_private_provider(url: str) -> None:
    check_base_url(url, allow_private=True)


@pytest.mark.parametrize("url", ["http://user@127.0.0.1/", "file:///etc/passwd", "http://127.0.0.1/?a"])
def test_even_a_private_provider_has_a_plain_address(url: str) -> None:
    with pytest.raises(AddressForbidden):
        check_base_url(url, allow_private=True)


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "①②⑦.0.0.1", "127.0.0.1", "::1"])
async def test_a_name_that_stands_for_a_private_address_is_refused_where_it_is_resolved(name: str) -> None:
    resolver = GuardedResolver()
    try:
        with pytest.raises(AddressForbidden):
            await resolver.resolve(name, 443, socket.AF_INET6 if ":" in name else socket.AF_INET)
    finally:
        await resolver.close()
