"""`agcluster chat`: reads a line, tells the answer, reads the next one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from infra.cli.chat.client import ChatClient, ChatFailed
from infra.cli.chat.names import LastNames, checked_name
from infra.cli.chat.screen import ChatScreen
from infra.cli.terminal import say

URL = "http://127.0.0.1:8000/v1"
MODEL = "claude-sonnet-4.5"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
USAGE_ERROR = 2
HELP = """\
/file PATH   send a file with the next message
/work        show the thinking and the tools of the last answer
/agent NAME  ask another agent or model; /agent alone lists them
/new         begin another conversation
/quit        leave. Ctrl-C stops an answer; twice, it leaves"""

Message = Annotated[
    str | None, typer.Argument(help="Ask this, print the answer, and leave.", show_default=False)
]


def chat(
    message: Message = None,
    agent: Annotated[str, typer.Option(help="The agent or model to ask.")] = MODEL,
    name: Annotated[
        str | None,
        typer.Option(
            help="The conversation's name [default: the last one's].", callback=checked_name
        ),
    ] = None,
    is_new: Annotated[bool, typer.Option("--new", help="Begin a new conversation.")] = False,
    file: Annotated[
        list[Path] | None, typer.Option(help="A file for the first message; may be given again.")
    ] = None,
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="The service's address.")
    ] = URL,
) -> None:
    """Talk to an agent. The key is that of OPENAI_API_KEY or ANTHROPIC_API_KEY."""
    key = next((found for name in KEYS if (found := os.environ.get(name))), None)
    if key is None:
        say(f"agcluster: set {' or '.join(KEYS)}; a demo takes any key", is_error=True)
        raise typer.Exit(USAGE_ERROR)
    headers = {"Authorization": f"Bearer {key}"}
    names = LastNames()
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        client = ChatClient(http, name=names.of(url, wanted=name, is_new=is_new), model=agent)
        talk = TerminalTalk(
            client, ChatScreen(), new_name=lambda: names.of(url, wanted=None, is_new=True)
        )
        try:
            for path in file or ():
                talk.add_file(path)
            is_good = talk.ask(message) if message is not None else talk.run()
        except ChatFailed as failure:
            say(f"agcluster: {failure}", is_error=True)
            is_good = False
        except KeyboardInterrupt:
            is_good = True  # The second one, while the first was being answered.
    raise typer.Exit(0 if is_good else 1)


class TerminalTalk:
    """One person at one terminal."""

    def __init__(
        self, client: ChatClient, screen: ChatScreen, *, new_name: Callable[[], str]
    ) -> None:
        self._client = client
        self._screen = screen
        self._new_name = new_name
        self._files: list[Mapping[str, Any]] = []
        self._is_leaving = False
        """Whether the next Ctrl-C leaves."""

    def run(self) -> bool:
        """Until its person leaves. Returns whether the last answer was a good one."""
        with suppress(ImportError):
            import_module("readline")  # With it, `input` edits lines and remembers them.
        self._screen.note(f"{self._client.model}, conversation {self._client.name}. /help")
        is_good = True
        while (line := self._line()) is not None:
            word, _, rest = line.partition(" ")
            if word == "/quit":
                break
            try:
                if word.startswith("/") and self._is_command(word, rest.strip()):
                    continue
                if line.strip():
                    is_good = self.ask(line)
            except ChatFailed as failure:
                self._screen.note(f"{failure}")
                is_good = False
        return is_good

    def ask(self, text: str) -> bool:
        """Ask, and show the answer. Returns False if there was none. Ctrl-C stops it."""
        self._screen.begin()
        files, self._files = self._files, []
        try:
            for said in self._client.ask(text, files):
                if said.work:
                    self._screen.tell_work(said.work)
                if said.text:
                    self._screen.tell_text(said.text)
        except KeyboardInterrupt:
            self._client.stop()
            self._is_leaving = True
            self._screen.note("stopped; Ctrl-C again leaves")
            return False
        finally:
            self._screen.end()
        return True

    def add_file(self, path: Path) -> None:
        """Hand in a file for the next message. Raises `ChatFailed`."""
        self._files.append(self._client.upload(path))
        self._screen.note(f"{path.name} goes with the next message")

    def _line(self) -> str | None:
        """The next line; None if the person leaves."""
        while True:
            try:
                line = input("> " if self._screen.is_watched else "")
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._is_leaving:
                    self._screen.note("")
                    return None
                self._is_leaving = True
                self._screen.note("\nCtrl-C again leaves")
                continue
            self._is_leaving = False
            return line

    def _is_command(self, word: str, rest: str) -> bool:
        """Whether the line was one, which is done then. Raises `ChatFailed`."""
        match word:
            case "/help":
                self._screen.note(HELP)
            case "/work":
                self._screen.note(self._screen.work.strip() or "nothing")
            case "/file":
                self.add_file(Path(rest).expanduser())
            case "/new":
                self._client.name = self._new_name()
                self._screen.note(f"conversation {self._client.name}")
            case "/agent" if rest:
                self._client.model = rest
                self._screen.note(f"{rest} answers now")
            case "/agent":
                self._screen.note("\n".join(self._client.models()))
            case _:
                return False
        return True
