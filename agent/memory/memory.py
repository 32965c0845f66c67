"""What the agent remembers: which session a CLI is opened on, and what it gets before a prompt.

A turn continues the session as it is, a fork of it, or a new session made of sent messages
(`BaseKind`). What the base lacks is replayed into the CLI, message by message, before the prompt. A
turn that produced nothing leaves all of this unchanged.

The module works around two habits of the CLI. If it is opened on a session that ends with a user's
message, it answers "No response requested." on its own, unless it is told the entry to end at. And
a user's message without an answer cannot be replayed alone; it is sent with the next one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from claude_agent_sdk import project_key_for_directory

from agent.memory.calls import UnfinishedAnswer, answered, unfinished
from agent.memory.history import Json, Said, messages_of, transcript_of
from agent.memory.notes import UserDecisions, notes_in
from agent.memory.past import Past
from agent.memory.transcripts import Entry, PartKey, Transcripts
from infra.wire.link import BaseKind, StartTurn
from infra.wire.turns import HistoryMessage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mark:
    """What was remembered at some point: a session and its newest entry."""

    past: Past
    last_id: str | None


@dataclass
class ToTell:
    """What a CLI has to get before the turn's prompt."""

    frames: list[Said] = field(default_factory=list)
    """Messages with their answers, one after the other."""
    content: list[Json] = field(default_factory=list)
    """User messages without an answer; they are sent with the prompt."""


class AgentMemory:
    """The memory of one conversation. `past` is what a new CLI starts with; an open CLI has that
    and all turns since."""

    def __init__(self, transcripts: Transcripts, workspace: Path) -> None:
        self.past = Past()
        self.to_tell = ToTell()
        self._transcripts = transcripts
        self._workspace = workspace
        self._project = project_key_for_directory(workspace)

    @property
    def mark(self) -> Mark:
        """What is remembered now, for `go_back`."""
        return Mark(self.past, self._last_id())

    @property
    def is_lost(self) -> bool:
        """Whether the session was given up, and nothing is left to retry with."""
        session = self.past.session
        return session is not None and self._transcripts.entries(self._part(session)) is None

    @property
    def notes(self) -> UserDecisions:
        """What its user has decided, as far as the memory goes."""
        return self._noted()[0]

    def note(self, notes: UserDecisions, *, prompt_id: str) -> None:
        """Remember decisions of that prompt, in the session that has taken it in."""
        session, entry = self.past.session, notes.entry(after=prompt_id)
        if session is not None and entry is not None:
            self._transcripts.add(self._part(session), [entry])

    def opening(self, own: Container[str] = ()) -> tuple[Past, UnfinishedAnswer | None]:
        """What a new CLI is opened on, and the answer with open calls that it has to get after
        that. `own` are the names of the CLI's tools."""
        past = self.past
        if past.session is None:
            return past, None
        said, later = self._said_until(past.at)
        id = past.at or self._last_id()
        asked = self.notes.asked
        if (open_end := unfinished(said, id=id, later=later, own=own, asked=asked)) is not None:
            return (replace(past, at=open_end.at) if open_end.at else Past()), open_end
        is_question = bool(said) and said[-1].get("type") == "user"
        if past.at is None and is_question and (last := self._last_id()):
            return replace(past, at=last), None
        return past, None

    # Standing on a base

    def has_other(self, start: StartTurn) -> bool:
        """Whether an open CLI remembers something other than the turn's base."""
        match start.base:
            case BaseKind.CONTINUE:
                return False
            case BaseKind.REWIND:
                # The turns after the checkpoint may have left nothing.
                return self.past.at is not None or start.checkpoint != self._last_id()
            case BaseKind.FRESH:
                return self.past.session is not None or bool(start.history)

    def stand_on(self, start: StartTurn, *, has_cli: bool) -> None:
        """Switch to the turn's base. `has_cli`: a CLI is open and remembers the right thing."""
        self.to_tell = ToTell()
        is_known = True
        if start.base is BaseKind.FRESH:
            is_known = False
        elif not has_cli:
            is_known = self._take_up(start)
        if not is_known:
            self.begin_with_history(start)
        elif start.restore_from is not None:
            self._restore(start.history[start.restore_from :])

    def begin_with_history(self, start: StartTurn) -> None:
        """Start a session from the sent history; without a history, the CLI creates a new one."""
        session = str(uuid.uuid4())
        said, self.to_tell = _parted(start.history)
        entries = transcript_of(
            answered(said),
            session=session,
            cwd=str(self._workspace),
            model=start.settings.model,
            timestamp=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        self.past = Past(session) if entries else Past()
        self._transcripts.add(self._part(session), entries)

    def _take_up(self, start: StartTurn) -> bool:
        """Take over the base for a CLI that will be opened; False if it is not known here."""
        if self.past.session is None:
            if start.transcript is not None:
                self._transcripts.adopt(self._project, start.transcript)
                self.past = Past(start.transcript.sdk_session)
            elif start.base is BaseKind.CONTINUE and start.restore_from is None:
                return not start.history
        elif start.base is BaseKind.CONTINUE:
            return True
        if not start.checkpoint:
            return self.past.session is not None and start.base is BaseKind.CONTINUE
        if not self._has(start.checkpoint):
            # It lacks turns that could not be stored.
            log.warning("there is no entry %s to go on from", start.checkpoint)
            return False
        if start.base is BaseKind.REWIND or self._is_said_after(start.checkpoint):
            self.past = Past(self.past.session, at=start.checkpoint)
        return True

    def _restore(self, history: Sequence[HistoryMessage]) -> None:
        said, to_tell = _parted(history)
        self.to_tell = ToTell(said, to_tell.content)
        if said and self.past.session is not None and self.past.at is None:
            # A CLI that got only part of it is not used again.
            self.past = replace(self.past, at=self._last_id())

    # The turn's end

    def took(self, told_session: str | None, prompt_id: str, *, is_done: bool) -> bool:
        """Take over the session in which a turn ran. False if that session did not take in the
        prompt."""
        if told_session is None:
            return False
        if not (
            is_done
            or self._transcripts.has(self._part(told_session), prompt_id)
            or self._transcripts.is_given_up(self._project, told_session)
        ):
            return False
        if told_session != self.past.session:  # The CLI does not know our entries.
            self._transcripts.add(self._part(told_session), self._noted()[1])
        self.past, self.to_tell = Past(told_session), ToTell()
        self._transcripts.forget_but(self._project, told_session)
        return True

    def go_back(self, mark: Mark) -> bool:
        """Go back to what was remembered then. Returns whether something was added since."""
        past, session = mark.past, mark.past.session
        self.to_tell = ToTell()
        has_grown = session is not None and self._transcripts.last_id(self._part(session)) != (
            mark.last_id
        )
        if has_grown and past.at is None:
            past = replace(past, at=mark.last_id) if mark.last_id else Past()
        is_other, self.past = has_grown or self.past != past, past
        return is_other

    @property
    def last_id(self) -> str | None:
        """The newest entry of the session."""
        return self._last_id()

    # Entries

    def _noted(self) -> tuple[UserDecisions, list[Json]]:
        session = self.past.session
        entries = self._transcripts.entries(self._part(session)) if session else None
        return notes_in(entries or [], at=self.past.at)

    def _part(self, session: str) -> PartKey:
        return PartKey(self._project, session)

    def _has(self, id: str) -> bool:
        session = self.past.session
        return session is not None and self._transcripts.has(self._part(session), id)

    def _last_id(self) -> str | None:
        session = self.past.session
        return self._transcripts.last_id(self._part(session)) if session else None

    def _said_until(self, id: str | None) -> tuple[list[Entry], list[Entry]]:
        """The session's messages up to that entry, or to the end; and those after it."""
        assert self.past.session is not None
        entries = self._transcripts.entries(self._part(self.past.session)) or []
        ids = [entry.get("uuid") for entry in entries]
        end = ids.index(id) + 1 if id is not None and id in ids else len(entries)
        return list(filter(_is_said, entries[:end])), list(filter(_is_said, entries[end:]))

    def _is_said_after(self, id: str) -> bool:
        assert self.past.session is not None
        entries = self._transcripts.entries(self._part(self.past.session)) or []
        at = next(i for i, entry in enumerate(entries) if entry.get("uuid") == id)
        return any(map(_is_said, entries[at + 1 :]))


def _is_said(entry: Entry) -> bool:
    """Whether it is a message of the conversation, not a note of the CLI."""
    return entry.get("type") in ("user", "assistant") and not entry.get("isSidechain")


def _parted(history: Sequence[HistoryMessage]) -> tuple[list[Said], ToTell]:
    """The messages up to the last answer, and what the user said after it."""
    said = messages_of(history)
    unanswered = said.pop().content if said and said[-1].role == "user" else []
    return said, ToTell(content=unanswered)
