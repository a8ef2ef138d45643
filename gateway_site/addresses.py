"""Which IP addresses are the public Internet and which are somebody's own network. Whatever connects where a customer says asks here.

`ipaddress.is_global` lets NAT64, 6to4, site-local and multicast addresses through, so the ranges are listed.
"""

import ipaddress

PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 "
        "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 ::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 "
        "2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
    ).split()
)


def is_private(address: str) -> bool:
    """Whether an IP address belongs to a network that is not the public Internet; True for what is not an address at all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    return any(ip in network for network in PRIVATE if network.version == ip.version)
