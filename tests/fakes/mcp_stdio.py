"""A real MCP server over standard input and output, made with the `mcp` package.

`python tests/fakes/mcp_stdio.py` serves it, `... fail WORDS` says these and exits, `... hang` says
nothing at all.
"""

from __future__ import annotations

import base64
import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer


def _serve() -> None:
    server = MCPServer("local")
    calls = 0

    @server.tool()
    def repeat(text: str) -> str:
        """Says the text again, louder."""
        return text.upper()

    @server.tool()
    def count() -> str:
        """How often it was called."""
        nonlocal calls
        calls += 1
        return f"call {calls}"

    @server.tool()
    def variables() -> str:
        """What it sees of its environment."""
        return " ".join(f"{name}={value}" for name, value in sorted(os.environ.items()))

    @server.tool()
    def crash() -> str:
        """Ends without an answer."""
        os._exit(3)

    @server.tool()
    def many(chars: int) -> str:
        """A long text."""
        return "many words " * (chars // 11)

    @server.tool()
    def picture() -> Image:
        """A picture of one pixel."""
        png = (
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
            "gg=="
        )
        return Image(data=base64.b64decode(png), format="png")

    server.run()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fail", words]:
            sys.exit(words)
        case ["hang"]:
            time.sleep(600)
        case _:
            _serve()
