"""The catalogue is read over HTTP, in the form of the public registry of MCP servers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from infra.registry.records import EntryKind, EntryStatus, PublishedVersion, StatusChanged
from infra.registry.remote import RemoteRegistry
from infra.registry.server_json import read_server_json
from infra.releases.refused import ReleaseRefused
from infra.releases.release import open_release
from infra.runtime.identity import tenant_id
from tests.fakes.releases import PUBLISHERS, catalogue_of, release
from tests.fakes.running_api import KEY, RunningApi, running_api

OFFICIAL = "io.modelcontextprotocol.registry/official"
NAME = "org.example/weather"
MINE = tenant_id(b"test-secret-test-secret-test-secret-", KEY)
THEIRS = "f" * 20


async def publish(
    api: RunningApi, version: str, *, name: str = NAME, at_ms: int = 1000, **more: Any
) -> None:
    told = {"name": name, "description": "Tells.", "version": version, "vendorExtra": {"a": [1]}}
    new = {"kind": "server", "name": name, "version": version, "at_ms": at_ms, **more}
    await catalogue_of(api).publish(PublishedVersion.model_validate(new), json.dumps(told).encode())


def versions(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["server"]["version"] for one in answer.json()["servers"]]


async def test_servers_are_listed_and_found_as_in_the_public_registry() -> None:
    async with running_api() as api:
        await publish(api, "1.0.0", at_ms=1_000)
        await publish(api, "1.10.0", at_ms=2_000)
        await publish(api, "1.9.0", at_ms=3_000)
        await publish(api, "1.0.0+build", name="org.example/files", at_ms=4_000)
        whole = (await api.http.get("/v0.1/servers")).json()
        assert whole["metadata"] == {"count": 4}
        first = whole["servers"][1]
        assert first["server"]["vendorExtra"] == {"a": [1]}
        assert first["_meta"][OFFICIAL] == {
            "status": "active",
            "statusChangedAt": "1970-01-01T00:00:01Z",
            "publishedAt": "1970-01-01T00:00:01Z",
            "updatedAt": "1970-01-01T00:00:01Z",
            "isLatest": False,
        }
        seen, cursor = [], ""
        while True:
            page = (await api.http.get(f"/v0.1/servers?limit=1{cursor}")).json()
            seen += [f"{s['server']['name']}@{s['server']['version']}" for s in page["servers"]]
            if "nextCursor" not in page["metadata"]:
                break
            cursor = f"&cursor={quote(page['metadata']['nextCursor'])}"
        assert seen == [f"{s['server']['name']}@{s['server']['version']}" for s in whole["servers"]]
        get = api.http.get
        assert versions(await get("/v0.1/servers?search=WEATH&version=latest")) == ["1.10.0"]
        assert versions(await get("/v0.1/servers?updated_since=1970-01-01T00:00:03Z")) == [
            "1.0.0+build",
            "1.9.0",
        ]
        for name in (NAME, quote(NAME, safe="")):
            assert versions(await get(f"/v0.1/servers/{name}/versions")) == [
                "1.10.0",
                "1.9.0",
                "1.0.0",
            ]
            latest = await get(f"/v0.1/servers/{name}/versions/latest")
            assert latest.json()["server"]["version"] == "1.10.0"
            assert latest.json()["_meta"][OFFICIAL]["isLatest"]
        build = await get("/v0.1/servers/org.example%2Ffiles/versions/1.0.0%2Bbuild")
        assert build.json()["server"]["version"] == "1.0.0+build"


async def test_each_key_sees_what_is_for_its_tenant() -> None:
    async with running_api() as api:
        await publish(api, "1.0.0")
        await publish(api, "2.0.0", tenants=[MINE])
        await publish(api, "3.0.0", tenants=[THEIRS])
        assert versions(await api.http.get("/v0.1/servers")) == ["1.0.0", "2.0.0"]
        latest = await api.http.get(f"/v0.1/servers/{NAME}/versions/latest")
        assert latest.json()["server"]["version"] == "2.0.0"
        hidden = await api.http.get(f"/v0.1/servers/{NAME}/versions/3.0.0")
        nothing = await api.http.get(f"/v0.1/servers/{NAME}/versions/4.0.0")
        assert hidden.status_code == 404
        assert hidden.json() == nothing.json(), "nobody learns that it is there"
        assert hidden.json()["error"]["code"] == "registry_entry_not_found"
        nobody = {"authorization": ""}
        assert (await api.http.get("/v0.1/servers", headers=nobody)).status_code == 401


async def test_an_open_registry_shows_to_anybody_what_is_for_all() -> None:
    async with running_api(settings={"registry_open": True}) as api:
        await publish(api, "1.0.0")
        await publish(api, "2.0.0", tenants=[MINE])
        anybody = await api.http.get("/v0.1/servers", headers={"authorization": ""})
        assert versions(anybody) == ["1.0.0"]
        assert versions(await api.http.get("/v0.1/servers")) == ["1.0.0", "2.0.0"]


async def test_a_deleted_version_is_shown_to_those_who_ask_for_it() -> None:
    async with running_api() as api:
        await publish(api, "1.0.0")
        change = StatusChanged(
            at_ms=9_000,
            kind=EntryKind.SERVER,
            name=NAME,
            version="1.0.0",
            status=EntryStatus.DELETED,
            message="It was wrong.",
        )
        await catalogue_of(api).set_status(change)
        assert versions(await api.http.get("/v0.1/servers")) == []
        one = f"/v0.1/servers/{NAME}/versions/1.0.0"
        assert (await api.http.get(one)).status_code == 404
        [told] = (await api.http.get("/v0.1/servers?include_deleted=true")).json()["servers"]
        assert told["_meta"][OFFICIAL]["statusMessage"] == "It was wrong."
        assert versions(await api.http.get("/v0.1/servers?updated_since=1970-01-01T00:00:09Z")) == [
            "1.0.0"
        ]


async def test_an_agents_release_comes_as_it_was_signed() -> None:
    made = release()
    async with running_api() as api:
        new = {"kind": "agent", "name": "acme/reviewer", "version": "1.0.0", "at_ms": 1}
        await catalogue_of(api).publish(PublishedVersion.model_validate(new), made.raw)
        [agent] = (await api.http.get("/v0.1/agents")).json()["agents"]
        assert agent["agent"]["publisher"] == "acme"
        one = "/v0.1/agents/acme%2Freviewer/versions/latest"
        assert (await api.http.get(one)).json() == agent
        raw = (await api.http.get(f"{one}/release")).content
        assert open_release(raw, PUBLISHERS).contents == made.contents
        assert (await api.http.get("/v0.1/servers")).json()["servers"] == []


@pytest.mark.parametrize(
    "asked",
    ["limit=0", "limit=101", "limit=x", "cursor=x", "updated_since=x", f"search={'x' * 300}"],
)
async def test_a_bad_question_says_what_is_wrong(asked: str) -> None:
    async with running_api() as api:
        answer = await api.http.get(f"/v0.1/servers?{asked}")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


async def test_a_store_that_is_gone_is_503_at_first_and_changes_nothing_later(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    settings = {"file_store": f"file://{store}"}
    async with running_api(settings=settings) as knows, running_api(settings=settings) as new:
        await publish(knows, "1.0.0")
        assert versions(await knows.http.get("/v0.1/servers")) == ["1.0.0"]
        store.rename(tmp_path / "gone")
        store.write_text("no folder")
        answer = await new.http.get("/v0.1/servers")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "file_store_unavailable"
        assert versions(await knows.http.get("/v0.1/servers")) == ["1.0.0"]


async def test_a_server_whose_contents_are_lost_keeps_nobody_from_the_others(
    tmp_path: Path,
) -> None:
    async with running_api(settings={"file_store": f"file://{tmp_path}"}) as api:
        await publish(api, "1.0.0", name="org.example/lost")
        [lost] = [
            path for path in (tmp_path / "registry" / "contents").rglob("*") if path.is_file()
        ]
        await publish(api, "2.0.0")
        lost.unlink()
        assert versions(await api.http.get("/v0.1/servers")) == ["2.0.0"]
        gone = await api.http.get("/v0.1/servers/org.example%2Flost/versions/1.0.0")
        assert gone.status_code == 404


async def test_another_deployment_reads_it_with_a_key() -> None:
    made = release()
    async with running_api() as api:
        new = {"kind": "agent", "name": "acme/reviewer", "version": "1.0.0", "at_ms": 1}
        await catalogue_of(api).publish(PublishedVersion.model_validate(new), made.raw)
        await publish(api, "1.0.0")
        here = RemoteRegistry(api.url, key=KEY)
        assert await asyncio.to_thread(here.release, "acme/reviewer", "latest") == made.raw
        told = await asyncio.to_thread(here.server_json, NAME, "1.0.0")
        assert read_server_json(told).name == NAME
        for name, registry, answer in (
            ("acme/other", here, "answers 404"),
            ("../../v1/models", here, "answers 404"),
            ("acme/reviewer", RemoteRegistry(api.url), "answers 401"),
        ):
            with pytest.raises(ReleaseRefused, match=answer):
                await asyncio.to_thread(registry.release, name, "latest")
    with pytest.raises(ReleaseRefused, match="https"):
        RemoteRegistry("http://registry.example.org")
