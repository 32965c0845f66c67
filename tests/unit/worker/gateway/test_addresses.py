"""Addresses that agents may and may not reach."""

from __future__ import annotations

import ipaddress

import pytest

from worker.gateway.egress.addresses import is_own, why_refused, why_refused_here


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
        "2001:4860:4860::8888",
    ],
)
def test_public_addresses_are_open(address: str) -> None:
    assert why_refused(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "unspecified"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("100.127.255.254", "carrier-grade NAT"),
        ("127.0.0.1", "loopback"),
        ("127.8.9.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "a cloud's metadata"),
        ("172.16.0.1", "private"),
        ("172.31.255.254", "private"),
        ("192.0.0.192", "reserved"),
        ("192.168.1.1", "private"),
        ("192.88.99.1", "a 6to4 relay"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.254", "benchmarking"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:8.8.8.8", "IPv4-mapped"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b::808:808", "NAT64"),
        ("64:ff9b:1::1", "NAT64"),
        ("100::1", "reserved"),
        ("2001::1", "reserved (Teredo among them)"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::1", "6to4"),
        ("2002:a9fe:a9fe::1", "6to4"),
        ("3fff::1", "documentation"),
        ("5f00::1", "reserved"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2606:4700::1%eth0", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
    ],
)
def test_other_addresses_are_refused_by_their_kind(address: str, why: str) -> None:
    assert why_refused(ipaddress.ip_address(address)) == why


def test_addresses_of_this_machine_are_its_own() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("8.8.8.8"))


def test_public_addresses_of_others_stay_open_here() -> None:
    assert why_refused_here(ipaddress.ip_address("8.8.8.8")) is None
    assert why_refused_here(ipaddress.ip_address("127.0.0.1")) == "loopback"
