"""TLS for Redis and its Sentinels: one context for all connections of a client.

Differences from redis-py, on purpose: redis-py does not check the host name by default, reads all
CAs of the system again for each connection, and trusts them in addition to the given CA.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio.connection import Connection

_FALSE = ("0", "f", "false", "n", "no")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the only trusted CA (none: the system's), our certificate and its key."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        return any((self.ca, self.certificate, self.key))


def take_tls(options: dict[str, Any], files: TlsFiles) -> ssl.SSLContext:
    """The context for a URL's `ssl_*` options, which are removed, and the files.

    The URL's files win. Certificate and host name are checked, unless the URL says
    `ssl_cert_reqs=none`; the host name is checked unless it says `ssl_check_hostname=false`. Raises
    `ValueError`, naming what is wrong.
    """
    said = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    ca = said.pop("ssl_ca_certs", files.ca)
    certificate = said.pop("ssl_certfile", files.certificate)
    key = said.pop("ssl_keyfile", files.key)
    demand = said.pop("ssl_cert_reqs", "required")
    is_name_checked = str(said.pop("ssl_check_hostname", True)).lower() not in _FALSE
    if said:
        raise ValueError(f"unknown TLS option in the URL: {', '.join(sorted(said))}")
    if demand not in ("required", "none"):
        raise ValueError(f"ssl_cert_reqs is required or none, not {demand}")
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        named = ", ".join(str(file) for file in (ca, certificate, key) if file is not None)
        raise ValueError(f"no TLS with {named}: {error}") from error
    context.check_hostname = is_name_checked and demand == "required"
    if demand == "none":
        context.verify_mode = ssl.CERT_NONE
    return context


class TlsConnection(Connection):
    """A TCP connection secured by a context that was created once."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


def tls_fault(error: BaseException | None) -> str | None:
    """What is wrong with TLS, if that caused an error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is refused: {error.verify_message} (the CA to trust is named by "
                "AGCLUSTER_REDIS_CA_FILE, the host name by the URL)"
            )
        if isinstance(error, ssl.SSLError):
            return f"no TLS with it: {error.reason or error} (is this its TLS port?)"
        error = error.__cause__ or error.__context__
    return None
