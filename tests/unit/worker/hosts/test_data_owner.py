"""One data folder, one cluster."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import WorkerId
from tests.fakes.worker_stage import Stage
from worker.hosts.folders.owner import DataFolderTaken, DataOwner, hold
from worker.process import WorkerProcess

OURS = DataOwner("default", "agc", "host-1", 1_700_000_000_000_000)
OTHERS = [
    replace(OURS, cluster="other"),
    replace(OURS, prefix="other"),
    replace(OURS, host="host-2"),
]


def test_workers_of_a_host_share_it(tmp_path: Path) -> None:
    with (
        closing(hold(tmp_path, OURS, has_siblings=False)),
        closing(hold(tmp_path, OURS, has_siblings=False)),
    ):
        pass


@pytest.mark.parametrize("other", OTHERS)
def test_another_cluster_or_host_is_refused_while_one_runs(
    tmp_path: Path, other: DataOwner
) -> None:
    held = hold(tmp_path, OURS, has_siblings=False)
    for has_siblings in (False, True):
        with pytest.raises(DataFolderTaken, match="cluster 'default' on host 'host-1'"):
            hold(tmp_path, other, has_siblings=has_siblings, patience_s=0)
    held.close()
    hold(tmp_path, other, has_siblings=False, patience_s=0).close()


def test_two_clusters_of_the_same_name_are_told_by_their_redis(tmp_path: Path) -> None:
    twin = replace(OURS, epoch=OURS.epoch + 1)
    with closing(hold(tmp_path, OURS, has_siblings=False)):
        with pytest.raises(DataFolderTaken):
            hold(tmp_path, twin, has_siblings=False, patience_s=0)
        # A Redis that lost what it had knows the workers that went on.
        hold(tmp_path, twin, has_siblings=True, patience_s=0).close()


@pytest.mark.slow
async def test_a_worker_of_another_cluster_does_not_start_on_the_folder(stage: Stage) -> None:
    around = (await stage.worker()).process._around
    settings = around.settings.model_copy(update={"cluster": "another"})
    other = WorkerProcess(WorkerId("host-1-another"), replace(around, settings=settings))

    with pytest.raises(DataFolderTaken, match="AGCLUSTER_DATA_DIR"):
        await other.run(asyncio.Event())
