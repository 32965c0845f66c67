"""Runs inside the agent image: the SDK's client, prompted over standard input.

Stands alone, for nothing of the project is mounted beside it. Each line of input is a prompt and is
answered with one line per text delta, `<arrival in Unix ns> <JSON text>`, then a line `end`.
Started by `tests.bench.sdk_container`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, StreamEvent


def options() -> ClaudeAgentOptions:
    """Set up as our agent server sets it up, as far as time is concerned."""
    return ClaudeAgentOptions(
        model="claude-sonnet-4-5-20250929",
        include_partial_messages=True,
        setting_sources=[],
        tools=["Bash", "Read", "Write", "Edit", "Grep", "Glob"],
        permission_mode="bypassPermissions",
        cwd="/workspace",
        env={
            "ANTHROPIC_API_KEY": "sk-ant-placeholder",
            "ANTHROPIC_BASE_URL": "http://model",
            "ANTHROPIC_UNIX_SOCKET": "/run/model/model.sock",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        },
    )


async def answer(client: ClaudeSDKClient, prompt: str) -> None:
    """One prompt; deltas are written as they come."""
    await client.query(prompt)
    async for message in client.receive_response():
        if isinstance(message, StreamEvent):
            text = message.event.get("delta", {}).get("text")
            if text:
                sys.stdout.write(f"{time.time_ns()} {json.dumps(text)}\n")
                sys.stdout.flush()
    sys.stdout.write("end\n")
    sys.stdout.flush()


async def main() -> None:
    """Until standard input ends."""
    async with ClaudeSDKClient(options()) as client:
        while prompt := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await answer(client, prompt)


if __name__ == "__main__":
    asyncio.run(main())
