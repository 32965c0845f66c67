"""The worker's line to its gateway for what each turn needs twice: opening it and closing it.

A WebSocket that stays open, because a request of its own costs ten times as much, and a warm turn
waits for it. One command after the other; the gateway answers each in microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from infra.wire.gateway import TurnAnswer, TurnCommand, decode_turn_answer

_PATH = "/turns"
_CLOSE_S = 0.1
"""How long a line that is given up may take to say so."""


class _LineBroken(aiohttp.ClientError):
    """The gateway has closed the line, or says something else than an answer."""


class TurnLine:
    """One line; connected with the first command, and again when it broke."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession], *, base_url: str) -> None:
        self._session = session
        self._url = base_url + _PATH
        self._line: aiohttp.ClientWebSocketResponse | None = None
        self._turn = asyncio.Lock()

    async def ask(self, command: TurnCommand) -> TurnAnswer:
        """The gateway's answer. The caller limits the time.

        Raises `aiohttp.ClientError` or `OSError` if there is no line, and `MalformedMessage`. May
        be cancelled: whether the command was carried out is then not known.
        """
        async with self._turn:
            if self._line is not None:
                try:
                    return await self._asked(self._line, command)
                except (aiohttp.ClientError, OSError):
                    pass  # The gateway may have restarted since the last command.
            self._line = await self._session().ws_connect(
                self._url, timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S), compress=0
            )
            return await self._asked(self._line, command)

    async def _asked(
        self, line: aiohttp.ClientWebSocketResponse, command: TurnCommand
    ) -> TurnAnswer:
        try:
            await line.send_bytes(command.encode())
            answer = await line.receive()
            if answer.type is not aiohttp.WSMsgType.BINARY:
                raise _LineBroken("the gateway has closed the line of turns")
            return decode_turn_answer(answer.data)
        except BaseException:
            # An answer that still comes would be taken for that of the next command.
            self._line = None
            await line.close()
            raise

    async def aclose(self) -> None:
        """Close the line."""
        line, self._line = self._line, None
        if line is not None:
            await line.close()
