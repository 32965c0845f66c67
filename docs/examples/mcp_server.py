"""An MCP server with one tool: SHOP_KEY=... python mcp_server.py 9000"""

import os
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

server = MCPServer("shop")


@server.tool()
def order_status(number: int) -> str:
    """Tell where an order is."""
    return f"order {number} was sent on Monday"


class WithKey:
    """Lets only those in who have the key."""

    def __init__(self) -> None:
        self._app = server.streamable_http_app(stateless_http=True, json_response=True)
        self._wanted = f"Bearer {os.environ['SHOP_KEY']}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and Request(scope).headers.get("authorization") != self._wanted:
            refused: Response = PlainTextResponse("no", status_code=401)
            return await refused(scope, receive, send)
        return await self._app(scope, receive, send)


uvicorn.run(WithKey(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
