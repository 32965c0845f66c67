"""The addresses that an agent's tools may never reach, whatever the policy. Pure, except for one
probe.

IPv4 uses a list of refused ranges. IPv6 uses a list of allowed ranges: only today's global unicast,
without ranges in it that embed IPv4 addresses or lead nowhere.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED_V4 = {
    ipaddress.IPv4Network(net): why
    for net, why in {
        "0.0.0.0/8": "unspecified",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "carrier-grade NAT",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "a cloud's metadata",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
    }.items()
}
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = {
    ipaddress.IPv6Network(net): why
    for net, why in {
        "2001::/23": "reserved (Teredo among them)",
        "2001:db8::/32": "documentation",
        "2002::/16": "6to4",
        "3fff::/20": "documentation",
    }.items()
}
_NAMED_V6 = {
    ipaddress.IPv6Network(net): why
    for net, why in {
        "::/128": "unspecified",
        "::1/128": "loopback",
        "::ffff:0:0/96": "IPv4-mapped",
        "64:ff9b::/96": "NAT64",
        "64:ff9b:1::/48": "NAT64",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
    }.items()
}


def why_refused(address: IPAddress) -> str | None:
    """The kind of a refused address; None for a public one."""
    if isinstance(address, ipaddress.IPv4Address):
        return _first(_REFUSED_V4, address)
    if address.scope_id is not None:
        return "link-local"
    if address not in _GLOBAL_V6:
        return _first(_NAMED_V6, address) or "reserved"
    return _first(_REFUSED_V6, address)


def why_refused_here(address: IPAddress) -> str | None:
    """The same, but also refuses this machine's own public addresses, because its services are not
    the internet."""
    return why_refused(address) or ("of this machine" if is_own(address) else None)


def but_not(
    denied: Sequence[IPNetwork], why: Callable[[IPAddress], str | None]
) -> Callable[[IPAddress], str | None]:
    """The same check, but also refuses these networks, the cluster's own."""

    def judge(address: IPAddress) -> str | None:
        return why(address) or ("of this cluster" if any(address in n for n in denied) else None)

    return judge


def is_own(address: IPAddress) -> bool:
    """Whether an interface of this machine has the address; only then it can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _first(
    table: dict[ipaddress.IPv4Network, str] | dict[ipaddress.IPv6Network, str],
    address: IPAddress,
) -> str | None:
    return next((why for net, why in table.items() if address in net), None)
