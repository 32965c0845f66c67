"""How an answer shows the files that its turn made. Pure."""

from __future__ import annotations

from enum import StrEnum


class ArtifactDisplay(StrEnum):
    """How an answer shows the files that its turn made."""

    LINKS = "links"
    ANNOTATIONS = "annotations"
    OFF = "off"
