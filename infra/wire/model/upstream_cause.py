"""Why the model's service did not answer. Pure data."""

from __future__ import annotations

from enum import StrEnum


class UpstreamCause(StrEnum):
    """Why the model's service did not answer."""

    NAME = "name"
    """Its name is not known."""
    REFUSED = "refused"
    """It refuses the connection."""
    TIMEOUT = "timeout"
    """It does not answer in time."""
    CERTIFICATE = "certificate"
    """Its certificate is not trusted."""
    TLS = "tls"
    """It does not speak TLS as it should, or at all."""
    PROXY = "proxy"
    """The operator's proxy does not let through."""
    BROKEN = "broken"
    """The connection broke off."""
