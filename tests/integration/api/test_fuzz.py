"""Requests nobody would write, made up from our own OpenAPI document.

Good ones and bad ones, by schemathesis, always the same: whatever comes, the answer is one that
the document foresees, in its form, in time, and none is our failure (5xx). The echo worker stands
behind the API, so that what is well-formed goes all the way.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.files.links import FileLinks
from infra.registry.records import PublishedVersion
from infra.wire.events import Artifact
from infra.wire.ids import ConversationKey, FileId
from tests.fakes.releases import catalogue_of
from tests.fakes.running_api import KEY, MODEL, real_store, running_api

EXAMPLES = 12
"""For each operation that has parameters, and mode."""
TIMEOUT_S = 20
"""A request that takes longer hangs."""
SURE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SERVER, AGENT = "org.example/weather", "acme/reviewer"
MODELS = (MODEL, "claude-sonnet-4.5", "claude-utility")
MESSAGES = ([{"role": "user", "content": "hi"}], [{"role": "user", "content": "### Task: title"}])


Known = Mapping[str, Sequence[Any]]
"""Values that mean something, by the name of a parameter or field: a made-up one is 404 at once."""


class Fuzz:
    """Runs every operation of the document against a server, and counts what came back."""

    def __init__(self, document: dict[str, Any], url: str, known: Known) -> None:
        self._schema = schemathesis.openapi.from_dict(document)
        self._url = url
        self._known = known
        self.statuses: Counter[tuple[str, int]] = Counter()

    def run(self) -> None:
        for found in self._schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            can_be_bad = operation.body or operation.query or operation.headers
            modes = list(GenerationMode) if can_be_bad else [GenerationMode.POSITIVE]
            count = EXAMPLES if can_be_bad or operation.path_parameters else 1
            for mode in modes:
                self._try(operation.label, operation.as_strategy(generation_mode=mode), count)

    def _try(self, label: str, cases: st.SearchStrategy[Case[Any]], count: int) -> None:
        known = st.fixed_dictionaries(
            {name: st.sampled_from((None, *values)) for name, values in self._known.items()}
        )

        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, known=known)
        def check(case: Case[Any], known: dict[str, Any]) -> None:
            for place in (case.path_parameters, case.query, case.body):
                if isinstance(place, dict):
                    place.update((name, it) for name, it in known.items() if it and name in place)
            parameters = case.path_parameters or {}
            if {"container_id", "file_id"} <= parameters.keys() and known["made_id"]:
                parameters["file_id"] = known["made_id"]
            answer = case.call(
                base_url=self._url,
                headers={"authorization": f"Bearer {KEY}"},
                timeout=TIMEOUT_S,
            )
            self.statuses[label, answer.status_code] += 1
            case.validate_response(answer, checks=SURE)
            if answer.status_code >= 400:
                assert_openai_shaped(answer.content)

        check()


def token_of(links: FileLinks, file: FileId) -> str:
    """Of a link to that file, which is good for long."""
    made = Artifact(file=file, path="a", bytes=1, media_type="a/b", expires_ms=4_000_000_000_000)
    return str(links.link(made)).split("/")[-2]


def assert_openai_shaped(content: bytes) -> None:
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


# The API beside it in this process uses `random`, which hypothesis takes for the strategies' doing.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module")
@pytest.mark.redis
@pytest.mark.timeout(180)
async def test_no_made_up_request_breaks_or_hangs_the_api() -> None:
    settings = {"tenant_requests_per_min": 6000}
    async with real_store() as store, running_api(store=store, settings=settings) as api:
        for kind, name in (("server", SERVER), ("agent", AGENT)):
            told = {"kind": kind, "name": name, "version": "1.0.0", "at_ms": 1}
            new = PublishedVersion.model_validate(told)
            await catalogue_of(api).publish(new, json.dumps(told).encode())
        document = (await api.http.get("/openapi.json")).json()
        names = [f"thread-{n}" for n in range(8)]
        turns = [await api.chat("hi", headers={"x-conversation-id": name}) for name in names]
        form: dict[str, Any] = {"files": {"file": ("a", b"x")}, "data": {"purpose": "vision"}}
        files = [await api.http.post("/v1/files", **form) for _ in range(32)]
        announced = {"bytes": 0, "filename": "a", "mime_type": "a/b", "purpose": "vision"}
        uploads = [await api.http.post("/v1/uploads", json=announced) for _ in range(64)]
        ids = [FileId(file.json()["id"]) for file in files]
        listed = (await api.http.get("/v1/sessions")).json()["data"]
        conversations = [ConversationKey(one["conversation"]) for one in listed]
        for c in conversations:
            for id in ids[24:]:  # They go with their sessions.
                await store.made.note(c, id, "a", life_s=3600)
        links = FileLinks.of(api.deps.settings.model_copy(update={"public_url": api.url}))
        known: Known = {
            "token": [token_of(links, id) for id in ids[24:]],
            "container_id": [f"cntr_{c}" for c in conversations],
            "path": ("a",),
            "model": MODELS,
            "model_id": MODELS,
            "messages": MESSAGES,
            "completion_id": [turn.json()["id"] for turn in turns],
            "name": names,
            "file_id": ids[:24],
            "made_id": ids[24:],
            "upload_id": [upload.json()["id"] for upload in uploads],
            "purpose": ("user_data",),
            "part_ids": ([],),
            "server_name": (SERVER,),
            "agent_name": (AGENT,),
            "version": ("1.0.0", "latest"),
            "bytes": (0,),
        }
        fuzz = Fuzz(document, api.url, known)
        async with asyncio.timeout(150):
            await asyncio.to_thread(fuzz.run)
        assert api.deps.drain.open_count == 0
        assert (await api.chat("still well")).status_code == 200
    operations = {label for label, _ in fuzz.statuses}
    assert operations == {
        f"{method.upper()} {path}" for path, found in document["paths"].items() for method in found
    }
    for operation in operations:
        assert fuzz.statuses[operation, 200] > 0, f"{operation}: none went all the way"
    assert fuzz.statuses["POST /v1/chat/completions", 400] > 0
