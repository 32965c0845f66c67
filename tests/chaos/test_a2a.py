"""Tasks outlive the programs that serve them: real processes, killed in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from a2a.client.errors import A2AClientError
from a2a.types import GetTaskRequest, SubscribeToTaskRequest, TaskState

from tests.chaos.client import KEY
from tests.chaos.cluster import Cluster, Shape, cluster
from tests.fakes.a2a_client import a2a_client, ask, folded, message, text_of
from tests.parts import need

pytestmark = [
    pytest.mark.redis,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    need("redis")
    agents: Path = tmp_path_factory.mktemp("agents")
    (agents / "counter.yaml").write_text("description: Counts.\n")
    shape = Shape(replicas=2, workers=(2,), settings={"a2a": True, "agents_dir": agents})
    async with cluster(shape, name="a2a") as made:
        yield made


async def test_a_task_survives_its_replica_and_its_worker(running: Cluster) -> None:
    """Each is killed while the answer streams; the other replica has every word, once."""
    first, second = running.urls
    async with (
        a2a_client(first, "counter", key=KEY) as here,
        a2a_client(second, "counter", key=KEY) as there,
    ):
        sent = message("stream 60 deltas every 100 ms", context_id="counted")
        updates = here.send_message(sent)
        seen = [await anext(updates)]
        while len(text_of(folded(seen)).split()) < 5:
            seen.append(await anext(updates))
        id = seen[0].task.id
        follows = there.subscribe(SubscribeToTaskRequest(id=id))
        resumed = [await anext(follows)]

        await running.replicas[0].kill()
        with pytest.raises(A2AClientError):
            seen += [update async for update in updates]
        repeated = there.send_message(sent)
        again = [await anext(repeated)]
        assert again[0].task.id == id

        owner = await running.owner_of(KEY, "counted")
        assert owner is not None
        await owner.kill()
        resumed += [update async for update in follows]
        again += [update async for update in repeated]
        got = await there.get_task(GetTaskRequest(id=id))
        for task in (folded(resumed), folded(again), got):
            assert task.status.state == TaskState.TASK_STATE_COMPLETED
            numbers = [int(word.partition("@")[0]) for word in text_of(task).split()]
            assert numbers == list(range(60))

        running.replicas[0].start()
        await running.ready(running.replicas[0])
        late = folded(await ask(here, sent))
        assert (late.id, text_of(late)) == (id, text_of(got))
