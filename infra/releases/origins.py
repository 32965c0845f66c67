"""Which servers an installed agent may name: hosts, as an operator lists them. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}


def origin_of(url: str) -> str | None:
    """`https://host:port` of a URL, in one spelling; None if it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or not host.isascii() or "@" in parts.netloc:
        return None
    shown = f"[{host}]" if ":" in host else host.rstrip(".")
    return f"{parts.scheme}://{shown.lower()}:{port or _PORTS[parts.scheme]}"


def is_listed(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether an operator's list has the URL's host.

    `example.org` means https and its usual port, `example.org:8443` another port, `http://…` that
    it may be asked in the clear, and `.example.org` its subdomains as well.
    """
    origin = origin_of(url)
    return origin is not None and any(_is_meant(origin, host) for host in hosts)


def _is_meant(origin: str, listed: str) -> bool:
    scheme, found, rest = listed.rpartition("://")
    if listed.startswith(".") or rest.startswith("."):
        base = origin_of(f"{scheme or 'https'}://{rest.removeprefix('.')}")
        if base is None:
            return False
        its_scheme, _, its_rest = base.partition("://")
        return origin == base or (
            origin.startswith(f"{its_scheme}://") and origin.endswith(f".{its_rest}")
        )
    return origin == origin_of(listed if found else f"https://{listed}")
