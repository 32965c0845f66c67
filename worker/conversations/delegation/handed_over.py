"""Hands the files that a called agent made over to its caller: into a folder of its workspace."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from infra.store.files.files import FileRecords
from infra.wire.errors import StoreUnavailable
from infra.wire.events import Artifact, TurnFiles
from infra.wire.ids import FileId, TenantId
from infra.wire.turns import FileBlock
from worker.conversations.files.files_in import FilesIn
from worker.ownership import HeldLease
from worker.parts import ConversationParts

log = logging.getLogger(__name__)

FOLDER = "from-"
"""The beginning of the folder's name, with the agent's behind it."""


class HandedOver:
    """The files of agents that one conversation's agent has called."""

    def __init__(self, parts: ConversationParts, held: HeldLease) -> None:
        self._parts = parts
        self._files = FilesIn(parts, held)

    async def bring(
        self, made: TurnFiles | None, *, agent: str, tenant: TenantId
    ) -> Mapping[FileId, str]:
        """Bring them there, as many as there is room for. Returns their paths.

        Done again, by the next owner too, it finds what is there. Raises `LeaseLost`.
        """
        kept = self._parts.kept_files
        if made is None or not made.files or kept is None:
            return {}
        found = [await self._known(kept.records, one, tenant) for one in made.files]
        return await self._files.bring([one for one in found if one], into=FOLDER + agent)

    async def _known(
        self, records: FileRecords, made: Artifact, tenant: TenantId
    ) -> FileBlock | None:
        """The file as it is on record; None if it is not, or is another tenant's."""
        try:
            record = await records.get(made.file)
        except StoreUnavailable as error:
            log.warning("file not handed over: %s", error)
            return None
        if record is None or record.tenant != tenant:
            return None
        return FileBlock(
            media_type=made.media_type,
            bytes=record.bytes,
            digest=record.digest,
            filename=made.path,
            file=record.id,
            store=record.store,
        )
