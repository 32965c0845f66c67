"""What `agcluster doctor` says of the file store: whether it answers, and whether all share it.

Changes nothing: a store that was never used is left without an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from infra.cli.findings import Finding, Verdict
from infra.files.open import open_file_store
from infra.runtime.settings import Settings
from infra.store.open import open_store
from infra.wire.errors import AgClusterError

NAME = "files"


async def look_at_files(settings: Settings) -> Finding:
    """The finding for this machine's programs."""
    folder = settings.data_dir / "files"
    if settings.file_store is None and not folder.is_dir():
        return Finding(NAME, Verdict.OK, f"will be kept in {folder}")
    try:
        store = open_file_store(settings, data_dir=settings.data_dir)
        identity = await store.known_identity()
    except AgClusterError as error:
        remedy = "mend AGCLUSTER_FILE_STORE and AGCLUSTER_FILE_STORE_OPTIONS, or the store"
        return Finding(NAME, Verdict.MISSING, str(error), remedy)
    in_use = await _in_use(settings)
    others = [one for one in in_use if one != identity]
    if (told := store.warning(others)) is not None:
        return Finding(NAME, Verdict.NOTE, told)
    return Finding(NAME, Verdict.OK, f"{store.place} answers")


async def _in_use(settings: Settings) -> Sequence[str]:
    """The stores that programs of the cluster use; none if its Redis does not answer, which is
    told elsewhere."""
    if settings.redis_url is None:
        return ()
    try:
        async with aclosing(open_store(settings, name="agcluster-cli")) as store:
            return await store.files.stores_in_use()
    except AgClusterError:
        return ()
