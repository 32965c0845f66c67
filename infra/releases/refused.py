"""The error of everything that is published or installed."""

from __future__ import annotations

from infra.wire.errors import AgClusterError


class ReleaseRefused(AgClusterError):
    """It cannot be published, installed or used; the message has a line for each fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
