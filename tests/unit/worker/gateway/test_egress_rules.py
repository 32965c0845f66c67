"""The deployment's egress policy."""

from __future__ import annotations

import pytest

from infra.runtime.settings import EgressPolicy
from worker.gateway.egress.carrying import EgressRefused
from worker.gateway.egress.proxy import EgressRules
from worker.gateway.egress.request import ProxyRequest

ALLOWLIST = EgressRules(EgressPolicy.ALLOWLIST, ("pypi.org", ".Example.org", "1.1.1.1"))


def to(host: str, port: int = 443) -> ProxyRequest:
    return ProxyRequest(host, port, is_tunnel=True)


@pytest.mark.parametrize("host", ["pypi.org", "PyPI.org", "example.org", "a.b.example.org"])
def test_listed_hosts_pass(host: str) -> None:
    ALLOWLIST.check(to(host))


@pytest.mark.parametrize(
    "host", ["x.pypi.org", "pypi.org.evil.net", "notexample.org", "8.8.8.8", "org"]
)
def test_hosts_beside_the_list_are_refused(host: str) -> None:
    with pytest.raises(EgressRefused, match="allowlist"):
        ALLOWLIST.check(to(host))


def test_public_means_any_name() -> None:
    EgressRules(EgressPolicy.PUBLIC).check(to("anything.example"))


def test_none_means_none() -> None:
    with pytest.raises(EgressRefused, match="no internet access"):
        EgressRules(EgressPolicy.NONE, ("pypi.org",)).check(to("pypi.org"))


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
def test_only_web_ports_are_open(port: int) -> None:
    with pytest.raises(EgressRefused, match=f"port {port}"):
        EgressRules(EgressPolicy.PUBLIC).check(to("example.org", port))
