"""A task that grows by updates. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from a2a.types import Artifact, StreamResponse, Task, TaskArtifactUpdateEvent, TaskStatus
from google.protobuf.struct_pb2 import Value


class GrowingTask:
    """A task and the updates since.

    Texts are put together when the task is told, once: a message of protobuf keeps the room of
    every text that it has ever had, so one that grew in it by pieces would take its square.
    """

    def __init__(self, task: Task) -> None:
        self._id, self._context = task.id, task.context_id
        self._status = task.status
        self._metadata: dict[str, Value] = dict(task.metadata.fields)
        self._artifacts: dict[str, Artifact] = {}
        self._texts: dict[str, list[str]] = {}
        """What was added to the text of an artifact's last part."""
        for artifact in task.artifacts:
            self._artifacts[artifact.artifact_id] = artifact

    def add(self, updates: Sequence[StreamResponse]) -> None:
        """Bring it up to date."""
        for update in updates:
            if update.HasField("status_update"):
                self._status = update.status_update.status
                self._metadata.update(update.status_update.metadata.fields)
            elif update.HasField("artifact_update"):
                self._add_artifact(update.artifact_update)

    def told(self, *, with_artifacts: bool = True) -> Task:
        """The task as it is now."""
        status = TaskStatus()
        status.CopyFrom(self._status)
        task = Task(id=self._id, context_id=self._context, status=status)
        for name, value in self._metadata.items():
            task.metadata.fields[name].CopyFrom(value)
        if with_artifacts:
            for id, artifact in self._artifacts.items():
                task.artifacts.append(artifact)
                if added := self._texts.get(id):
                    part = task.artifacts[-1].parts[-1]
                    part.text = "".join((part.text, *added))
        return task

    def _add_artifact(self, update: TaskArtifactUpdateEvent) -> None:
        id = update.artifact.artifact_id
        if update.append and id in self._artifacts:
            self._texts.setdefault(id, []).extend(part.text for part in update.artifact.parts)
        else:
            self._artifacts[id] = update.artifact
