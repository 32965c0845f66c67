"""Reports containers that end, by following the Docker engine's events."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from docker.errors import DockerException
from requests.exceptions import RequestException

from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError
from infra.wire.ids import ConversationKey
from worker.hosts.docker.engine import KILLED, LABEL, DockerEngine, Json
from worker.hosts.host import Container, ContainerExit, ContainerId

_REWATCH_S = 1.0

log = logging.getLogger(__name__)


@dataclass
class ExitWatch:
    """One thread that follows the engine's events, and compares containers after each gap.

    `_known` has every container that is known to run. One that no longer runs is reported once and
    removed from it. So nothing is lost while the engine restarts, and nothing is reported twice.
    """

    _engine: DockerEngine
    _labels: dict[str, str]
    _tell: Callable[[ContainerExit], None]
    _known: dict[ContainerId, ConversationKey] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _events: Any = None

    def expect(self, containers: Iterable[Container]) -> None:
        """These containers run, or will in a moment."""
        with self._lock:
            self._known.update((c.id, c.conversation) for c in containers)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="docker-events", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        # Wakes the thread from its read.
        self._let_go()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._events = self._engine.events(self._labels)
                self._compare()
                for event in self._events:
                    self._take(event)
                    if self._stopped.is_set():
                        return
            except (DockerException, RequestException, OSError, AgClusterError) as error:
                if not self._stopped.is_set():
                    log.warning("container events broke off", extra=fields(error=error))
            except Exception:
                # The thread must survive whatever the engine answers; otherwise no exit is seen
                # again.
                log.exception("container event not understood")
            finally:
                self._let_go()
            self._stopped.wait(_REWATCH_S)

    def _let_go(self) -> None:
        """Close a stream that has ended or should end."""
        if self._events is not None:
            # The SDK cannot close a stream that is already closed.
            with contextlib.suppress(DockerException, OSError, AttributeError, ValueError):
                self._events.close()

    def _compare(self) -> None:
        running = {c.id: c.conversation for c in self._engine.list(self._labels) if c.is_running}
        with self._lock:
            missing = self._known.keys() - running.keys()
            self._known |= running
        for id in missing:
            if self._has_ended(id):
                self._end(id, None)

    def _has_ended(self, id: ContainerId) -> bool:
        """Whether it is gone or has ended; a container that was created but not started yet has
        not."""
        found = self._engine.find(id)
        return found is None or found["State"]["Status"] in ("exited", "dead", "removing")

    def _take(self, event: Json) -> None:
        id = ContainerId(event["Actor"]["ID"])
        attributes = event["Actor"].get("Attributes") or {}
        if event["Action"] == "start":
            with self._lock:
                self._known[id] = ConversationKey(attributes.get(LABEL + "conv", ""))
        elif event["Action"] == "die":
            code = attributes.get("exitCode")
            self._end(id, None if code is None else int(code))

    def _end(self, id: ContainerId, code: int | None) -> None:
        with self._lock:
            conversation = self._known.pop(id, None)
        if conversation is None:
            return
        ended = self._engine.exit(id, conversation)
        if ended.exit_code is None and code is not None:
            ended = ContainerExit(id, conversation, code, code == KILLED)
        self._tell(ended)
