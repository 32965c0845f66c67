"""Hand a task to an agent over A2A: python agent_over_a2a.py reviewer "Review the patch." """

import asyncio
import os
import sys
import uuid

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import Message, Part, Role, SendMessageRequest, TaskState

API = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
KEY = os.environ["OPENAI_API_KEY"]


async def main(agent: str, task: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(headers=headers, timeout=600) as http:
        card = await A2ACardResolver(http, f"{API}/a2a/{agent}").get_agent_card()
        print(f"{card.name}: {card.description}")
        client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
        said = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[Part(text=task)])
        async for update in client.send_message(SendMessageRequest(message=said)):
            if update.HasField("artifact_update"):
                for part in update.artifact_update.artifact.parts:
                    print(part.text or part.url, end="", flush=True)
            elif update.HasField("status_update"):
                status = update.status_update.status
                told = "".join(part.text for part in status.message.parts)
                print(f"\n[{TaskState.Name(status.state)}] {told}")


asyncio.run(main(*sys.argv[1:]))
