"""Files that messages name by id: found on record, bounded, and passed on by reference.

Their bytes are not read here. The worker that runs the turn reads them from the file store, piece
by piece, so a message may name a file of any size. A client resends its history, and so names the
same files with each message; each is looked up once a request. Those of earlier messages are
recognised whatever a message may carry: one that was not would be another message than before, and
its agent would forget the conversation. The worker bounds how many of them it delivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from api.files.stored_files import StoredFiles
from api.http.auth import Caller
from infra.runtime.settings import FileSettings
from infra.store.files.files import FileRecord
from infra.wire.errors import FileNotKept
from infra.wire.text.words import Case, refused

EARLIER_MAX = 1000
"""Files of earlier messages that are looked up, the latest first."""


@dataclass(frozen=True)
class FileBounds:
    """What one message may carry."""

    files_max: int
    bytes_max: int
    are_urls_fetched: bool = False
    """Whether a message may name a file by its URL."""

    @classmethod
    def of(cls, settings: FileSettings) -> FileBounds:
        """As the settings say."""
        return cls(settings.request_files_max, settings.request_file_bytes_max, settings.fetch_urls)


async def find_files(
    newest: Iterable[str],
    earlier: Iterable[str],
    caller: Caller,
    stored: StoredFiles,
    *,
    bounds: FileBounds,
) -> Mapping[str, FileRecord]:
    """Those of the files that there are, by id: `newest` are in the newest message, `earlier` in
    those before it, the latest first.

    Raises `RequestRefused` if the newest message has too many, or too much. The bounds do not hold
    for the earlier ones, because a client cannot unsend them.
    """
    found = dict[str, FileRecord]()
    named = list(newest)
    if len(named) > bounds.files_max:
        raise refused(Case.REQUEST_FILES, files=bounds.files_max, param="messages")
    for id in named:
        with suppress(FileNotKept):
            found[id] = await stored.find(id, caller)
    total = sum(record.bytes for record in found.values())
    if total > bounds.bytes_max:
        raise refused(Case.REQUEST_FILE_BYTES, bytes=bounds.bytes_max, param="messages")
    others = [id for id in islice(earlier, EARLIER_MAX) if id not in found]
    return {**await stored.find_all(others, caller), **found}
