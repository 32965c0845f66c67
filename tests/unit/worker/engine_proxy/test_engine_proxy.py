"""What a worker that was taken over can make of the engine: containers of ours, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.runtime.settings import load_settings
from infra.wire.errors import ContainerFailed
from infra.wire.ids import ConversationKey, Fence, WorkerId
from tests.unit.worker.engine_proxy.conftest import CONVERSATION, CREATED_MS, Line
from worker.engine_proxy.rules import OwnContainer, Rules, first_difference
from worker.hosts.docker.engine import ImageStore
from worker.hosts.docker.host import container_name, create_body, host_labels
from worker.hosts.folders.folders import Folders, agent_uid
from worker.hosts.form import ContainerForm
from worker.hosts.host import SOCKETS_AT, WORKSPACE_AT, ContainerSpec
from worker.hosts.pool.records import SpareRecord, SpareRecords

Change = Callable[[dict[str, Any]], Any]


def host(**changes: Any) -> Change:
    return lambda body: body["HostConfig"].update(changes)


def config(**changes: Any) -> Change:
    return lambda body: body.update(changes)


def mount(**changes: Any) -> Change:
    return lambda body: body["HostConfig"]["Mounts"][1].update(changes)


def label(**changes: Any) -> Change:
    return lambda body: body["Labels"].update(
        {f"agcluster.{name}": value for name, value in changes.items()}
    )


ATTACKS: dict[str, Change] = {
    "privileged": host(Privileged=True),
    "the host's root as a bind": host(Binds=["/:/host"]),
    "the engine's socket as a bind": host(Binds=["/var/run/docker.sock:/d.sock"]),
    "the host's root as a mount": mount(Source="/"),
    "a path with ..": lambda b: b["HostConfig"]["Mounts"][1].update(
        Source=b["HostConfig"]["Mounts"][1]["Source"] + "/../../.."
    ),
    "the data folder itself": lambda b: b["HostConfig"]["Mounts"][1].update(
        Source=b["HostConfig"]["Mounts"][1]["Source"].rsplit("/", 1)[0]
    ),
    "a neighbour's workspace": lambda b: b["HostConfig"]["Mounts"][1].update(
        Source=b["HostConfig"]["Mounts"][1]["Source"].replace(CONVERSATION, "d" * 24)
    ),
    "one mount more": lambda b: b["HostConfig"]["Mounts"].append(
        {"Type": "bind", "Source": "/etc", "Target": "/e"}
    ),
    "a mount with propagation": mount(BindOptions={"Propagation": "rshared"}),
    "a volume with a driver": mount(Type="volume", VolumeOptions={"DriverConfig": {}}),
    "volumes of another container": host(VolumesFrom=["redis"]),
    "anonymous volumes": config(Volumes={"/x": {}}),
    "the host's processes": host(PidMode="host"),
    "another container's processes": host(PidMode="container:redis"),
    "the host's network": host(NetworkMode="host"),
    "another container's network": host(NetworkMode="container:redis"),
    "a network": config(NetworkingConfig={"EndpointsConfig": {"bridge": {}}}),
    "the host's IPC": host(IpcMode="host"),
    "the host's UTS": host(UTSMode="host"),
    "the host's users": host(UsernsMode="host"),
    "the host's control groups": host(CgroupnsMode="host"),
    "a control group of its choice": host(CgroupParent="/"),
    "a capability": host(CapAdd=["SYS_ADMIN"]),
    "capabilities kept": host(CapDrop=[]),
    "a device": host(Devices=[{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
    "device rules": host(DeviceCgroupRules=["a *:* rwm"]),
    "a GPU": host(DeviceRequests=[{"Count": -1}]),
    "seccomp off": host(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]),
    "AppArmor off": host(SecurityOpt=["apparmor=unconfined"]),
    "new privileges": host(SecurityOpt=[]),
    "no masks on /proc": host(MaskedPaths=[], ReadonlyPaths=[]),
    "sysctls": host(Sysctls={"kernel.shm_rmid_forced": "1"}),
    "a writable root": host(ReadonlyRootfs=False),
    "more memory": host(Memory=0),
    "swap": host(MemorySwap=-1),
    "more processes": host(PidsLimit=-1),
    "every CPU": host(NanoCpus=0),
    "never killed": host(OomScoreAdj=-1000),
    "OOM off": host(OomKillDisable=True),
    "no init": host(Init=False),
    "a restart policy": host(RestartPolicy={"Name": "always"}),
    "an unbounded log": host(LogConfig={"Type": "json-file", "Config": {}}),
    "a larger tmpfs": lambda b: b["HostConfig"]["Tmpfs"].update({"/tmp": "size=64g"}),
    "one tmpfs more": lambda b: b["HostConfig"]["Tmpfs"].update({"/usr": ""}),
    "other ulimits": host(Ulimits=[]),
    "a port": host(PortBindings={"80/tcp": [{"HostPort": "80"}]}),
    "another runtime": host(Runtime="crun"),
    "root": config(User="0:0"),
    "another image": config(Image="debian"),
    "another command": config(Cmd=["sh"]),
    "another entry": config(Entrypoint=["sh"]),
    "an environment": config(Env=["LD_PRELOAD=/workspace/x.so"]),
    "no stop signal": config(StopSignal="SIGCONT"),
    "a health check": config(Healthcheck={"Test": ["CMD", "true"]}),
    "another's label": label(cluster="cluster-2"),
    "one label more": config(Labels={"traefik.enable": "true"}),
    "a conversation that is a path": label(conv="../../../../etc"),
    "a conversation with a line break": label(conv="c" * 24 + "\n"),
    "a fence that is none": label(fence="-1"),
    "a time that is none": label(created="1e3"),
    "labels that are no object": config(Labels=["agcluster.conv=" + "c" * 24]),
    "the field in another case": host(privileged=True),
    "the object in another case": lambda b: b.update(hostconfig={"Privileged": True}),
    "the object renamed": lambda b: b.update(hostConfig=b.pop("HostConfig")),
    "a number for a truth": host(ReadonlyRootfs=1),
    "an unknown field": config(Whatever=None),
    "an unknown field within": host(Whatever=None),
    "no host part": lambda b: b.pop("HostConfig"),
}

OURS = OwnContainer(CONVERSATION)


@pytest.mark.parametrize("change", ATTACKS.values(), ids=ATTACKS)
async def test_a_container_that_is_not_ours_in_every_point_is_refused(
    line: Line, change: Change
) -> None:
    body = line.body()
    change(body)

    status, said = await line.create(body)

    assert status == 403
    assert "refused by the engine proxy" in json.loads(said)["message"]
    assert line.engine.calls == []


def doubled(body: bytes, name: bytes) -> bytes:
    """The body with a name in it twice; some readers take the first, others the last."""
    return body.replace(name + b":", name + b': {"Privileged": true}, ' + name + b":", 1)


BODIES: dict[str, Callable[[bytes], bytes]] = {
    "a name twice": lambda b: doubled(b, b'"HostConfig"'),
    "two values": lambda b: b + b,
    "not an object": lambda b: b"[" + b + b"]",
    "nothing": lambda b: b"",
    "null": lambda b: b"null",
    "deep": lambda b: b"[" * 20_000,
    "long": lambda b: b + b" " * 70_000,
    "not text": lambda b: b"\xff\xfe{}",
}


@pytest.mark.parametrize("spoil", BODIES.values(), ids=BODIES)
async def test_a_body_two_readers_could_read_in_two_ways_is_refused(
    line: Line, spoil: Callable[[bytes], bytes]
) -> None:
    status, _ = await line.create(spoil(json.dumps(line.body()).encode()))

    assert status == 403
    assert line.engine.calls == []


def formed(line: Line, form: ContainerForm, **more: Any) -> dict[str, Any]:
    """What a worker sends for a container of that form, with limits of its own choice."""
    rules = line.rules
    limits = replace(rules.limits.within(form), **more)
    folders = Folders(rules.data_dir).of(CONVERSATION)
    spec = ContainerSpec(CONVERSATION, Fence(3), folders, limits, egress=False, form=form)
    options = replace(rules.options, own_images=frozenset({"pandas:1", "elsewhere:1"}))
    made = create_body(options, rules.host, spec, CREATED_MS, version="1.41")
    copied: dict[str, Any] = json.loads(json.dumps(made))
    return copied


async def test_a_form_gives_less_than_the_proxys_own_limits_and_never_more(line: Line) -> None:
    small = ContainerForm(memory_mb=256, cpus=0.5, pids=40, image="pandas:1")
    assert (await line.create(formed(line, small)))[0] == 200
    sent = json.loads(line.engine.calls[-1][2])
    assert sent["Image"] == "pandas:1"
    assert sent["HostConfig"]["Memory"] == 256 * 1024 * 1024
    assert (sent["HostConfig"]["NanoCpus"], sent["HostConfig"]["PidsLimit"]) == (5 * 10**8, 40)
    line.engine.calls.clear()
    large = ContainerForm(memory_mb=10**6, cpus=99.0, pids=10**5)
    attacks = (
        formed(line, large, memory_mb=10**6),
        formed(line, large, cpus=99.0),
        formed(line, large, pids=10**5),
        formed(line, large, file_mb=10**6),
        formed(line, ContainerForm(image="elsewhere:1")),
    )
    for body in attacks:
        status, said = await line.create(body)
        assert status == 403, said
    spelled = formed(line, small)
    spelled["Labels"]["agcluster.form"] = json.dumps(json.loads(small.text), indent=1)
    assert (await line.create(spelled))[0] == 403
    assert line.engine.calls == []


async def test_the_workers_own_container_passes_and_the_bytes_are_the_proxys(line: Line) -> None:
    spelled = json.dumps(line.body(), indent=4).replace('"Image"', '"\\u0049mage"').encode("utf-32")

    assert (await line.create(spelled))[0] == 200

    ((method, path, body),) = line.engine.calls
    assert (method, path) == (
        "POST",
        f"/v1.41/containers/create?name=agc-cluster-1-{CONVERSATION}",
    )
    assert body == json.dumps(line.body()).encode()


async def test_a_name_of_another_is_refused(line: Line) -> None:
    for name in ("redis", f"agc-cluster-2-{CONVERSATION}", ""):
        assert (await line.create(line.body(), name=name))[0] == 403
    assert line.engine.calls == []


@pytest.mark.parametrize("part", ["w", "s", f"w/{CONVERSATION}", f"s/{CONVERSATION}"])
async def test_a_link_in_the_place_of_a_folder_is_not_mounted(line: Line, part: str) -> None:
    """The engine would follow it, to the root of the host."""
    place = line.rules.data_dir / part
    place.rename(place.with_name("moved"))
    place.symlink_to("/")

    status, said = await line.create(line.body())

    assert status == 403
    assert "is not a folder" in said
    assert line.made == []


async def test_a_link_that_comes_after_the_create_is_found_at_the_start(line: Line) -> None:
    name = container_name("cluster-1", CONVERSATION)
    line.engine.containers[name] = described(line, "a" * 64)
    assert (await line.ask("POST", f"/v1.41/containers/{name}/start"))[0] == 200
    workspace = Folders(line.rules.data_dir).of(CONVERSATION).workspace
    workspace.rmdir()
    workspace.symlink_to("/")

    status, _ = await line.ask("POST", f"/v1.41/containers/{name}/start")

    assert status == 403
    assert [path for _, path, _ in line.made] == [f"/v1.41/containers/{'a' * 64}/start"]


async def _start(line: Line) -> tuple[int, str]:
    """Start a container that then runs."""
    id = "a" * 64
    running = described(line, id) | {"State": {"Running": True, "Pid": 4711}}
    line.engine.containers[id] = running
    return await line.ask("POST", f"/v1.41/containers/{id}/start")


async def test_a_container_with_the_folders_that_were_looked_at_runs_on(line: Line) -> None:
    assert (await _start(line))[0] == 200
    assert [method for method, _, _ in line.made] == ["POST"]


@pytest.mark.parametrize("place", [SOCKETS_AT, WORKSPACE_AT])
async def test_a_container_that_has_another_folder_mounted_is_gone_again(
    line: Line, place: str
) -> None:
    """The engine resolves the path once more, and a worker was faster."""
    line.mounted[place] = Path("/")

    status, said = await _start(line)

    assert status == 403
    assert f"{place} is not the folder that was looked at" in said
    assert line.made[-1][:2] == ("DELETE", f"/containers/{'a' * 64}?v=1&force=1")


async def test_what_the_proxy_cannot_look_into_is_gone_again(line: Line) -> None:
    line.mounted.clear()

    status, said = await _start(line)

    assert (status, "cannot be seen" in said) == (403, True)
    assert line.made[-1][0] == "DELETE"


def test_with_a_kernel_of_its_own_it_is_looked_again_what_lies_in_the_place(line: Line) -> None:
    """gVisor shows nobody what it has mounted."""
    workspace = Folders(line.rules.data_dir).of(CONVERSATION).workspace
    with line.rules.held_folders(OURS) as held:
        assert line.rules.first_exchanged(OURS, held) is None
        workspace.rename(workspace.with_name("moved"))
        shutil.copytree(workspace.with_name("moved"), workspace)
        os.chown(workspace, agent_uid(), -1)
        assert "/workspace is not" in str(line.rules.first_exchanged(OURS, held))


async def test_who_hangs_up_does_not_get_out_of_the_comparison(line: Line) -> None:
    line.mounted[WORKSPACE_AT] = Path("/")
    line.engine.may_start.clear()
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(_start(line))
        await line.engine.start_asked.wait()
        starting.cancel()
    line.engine.may_start.set()

    async with asyncio.timeout(10):
        while line.made[-1][0] != "DELETE":  # noqa: ASYNC110 - the fake engine tells nobody
            await asyncio.sleep(0.01)


CLAIMANTS = ["/srv/others", "../../x", "../w", "", 5, None, ["c" * 24]]


def claimed_by(line: Line, claimant: object) -> None:
    """What a worker may write of a spare, whose folders are gone by then."""
    records = line.rules.data_dir / "p"
    records.mkdir()
    record = {"spare": CONVERSATION, "worker": "w", "claimed_by": claimant, "fence": 1}
    (records / CONVERSATION).write_text(json.dumps(record | {"is_settled": True}))
    folders = Folders(line.rules.data_dir).of(CONVERSATION)
    folders.sockets.rmdir()
    folders.workspace.rmdir()


@pytest.mark.parametrize("claimant", CLAIMANTS, ids=str)
async def test_the_record_of_a_spare_leads_to_no_folder_but_a_conversations(
    line: Line, claimant: object
) -> None:
    """A worker writes it, and the path of a mount is made of it."""
    claimed_by(line, claimant)
    for base in ("s", "w"):
        (line.rules.data_dir / base / "../../x").mkdir(exist_ok=True)

    assert (await line.create(line.body()))[0] == 403
    own = Folders(line.rules.data_dir).of(CONVERSATION).workspace
    assert line.rules.workspace(OURS) == own


async def test_the_rules_look_at_the_claimant_themselves(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SpareRecord(CONVERSATION, WorkerId("w"), ConversationKey("../../x"))
    monkeypatch.setattr(SpareRecords, "get", lambda *_: record)

    status, said = await line.create(line.body())

    assert (status, "no conversation" in said) == (403, True)


def described(line: Line, id: str, **labels: str) -> dict[str, Any]:
    own = host_labels("cluster-1", line.rules.host) | {"agcluster.conv": CONVERSATION}
    renamed = {f"agcluster.{name}": value for name, value in labels.items()}
    return {"Id": id, "Config": {"Labels": own | renamed}}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/{}/json"),
        ("POST", "/containers/{}/start"),
        ("POST", "/containers/{}/stop?t=2"),
        ("DELETE", "/containers/{}?v=True&link=False&force=True"),
    ],
)
async def test_containers_of_others_are_out_of_reach(line: Line, method: str, path: str) -> None:
    line.engine.containers["ours"] = described(line, "1" * 64)
    line.engine.containers["cluster2"] = described(line, "2" * 64, cluster="cluster-2")
    line.engine.containers["host2"] = described(line, "3" * 64, host="host-2")
    line.engine.containers["redis"] = {"Id": "4" * 64, "Config": {"Labels": None}}

    for name, expected in (("ours", 200), ("cluster2", 403), ("host2", 403), ("redis", 403)):
        status, _ = await line.ask(method, "/v1.41" + path.format(name))
        assert (200 if status == 204 else status) == expected, name
    assert (await line.ask(method, "/v1.41" + path.format("nobody")))[0] == 404
    assert all("1" * 64 in path for _, path, _ in line.made)


async def test_doctor_beside_a_worker_finds_the_agents_image_and_no_other(line: Line) -> None:
    """It has no other way to the engine than the worker's."""
    images = ImageStore(f"unix://{line.socket}", timeout_s=20)
    with contextlib.closing(images):
        assert await asyncio.to_thread(images.sources, "agents:1") == "made of"
        with pytest.raises(ContainerFailed, match="not the agents' image"):
            await asyncio.to_thread(images.sources, "debian")


CALLS = [
    ("POST", "/v1.41/containers/ours/exec"),
    ("POST", "/v1.41/exec/abc/start"),
    ("POST", "/v1.41/containers/ours/attach?stream=1"),
    ("GET", "/v1.41/containers/ours/attach/ws"),
    ("POST", "/v1.41/containers/ours/update"),
    ("POST", "/v1.41/containers/ours/rename?name=x"),
    ("POST", "/v1.41/containers/ours/kill"),
    ("POST", "/v1.41/containers/ours/restart"),
    ("POST", "/v1.41/containers/ours/start?detachKeys=a"),
    ("PUT", "/v1.41/containers/ours/archive?path=/"),
    ("GET", "/v1.41/containers/ours/archive?path=/"),
    ("GET", "/v1.41/containers/ours/export"),
    ("GET", "/v1.41/containers/ours/logs?stdout=1"),
    ("POST", "/v1.41/containers/prune"),
    ("POST", "/v1.41/commit?container=ours"),
    ("POST", "/v1.41/build"),
    ("POST", "/v1.41/images/create?fromImage=x"),
    ("POST", "/v1.41/images/load"),
    ("DELETE", "/v1.41/images/agents:1"),
    ("GET", "/v1.41/images/json"),
    ("GET", "/v1.41/images/debian/json"),
    ("POST", "/v1.41/volumes/create"),
    ("GET", "/v1.41/volumes"),
    ("POST", "/v1.41/networks/create"),
    ("GET", "/v1.41/networks"),
    ("POST", "/v1.41/swarm/init"),
    ("POST", "/v1.41/plugins/pull?remote=x"),
    ("GET", "/v1.41/secrets"),
    ("POST", "/v1.41/session"),
    ("POST", "/grpc"),
    ("GET", "/v1.41/system/df"),
    ("GET", "/v1.41/containers/json"),
    ("GET", "/v1.41/containers/json?all=1"),
    ("GET", '/v1.41/containers/json?filters={"label":["agcluster.cluster=cluster-1"]}'),
    ("GET", "/v1.41/events"),
    ("GET", "/v1.41/events?since=0"),
    ("HEAD", "/v1.41/info"),
    ("POST", "/v1.41/info"),
    ("GET", "/info"),
    ("GET", "/containers/ours/json"),
    ("POST", "/v1.12/containers/ours/start"),
    ("GET", "/v1.40/info"),
    ("GET", "/v2.00/info"),
    ("GET", "/v1.41/v1.41/info"),
    ("GET", "/V1.41/info"),
    ("GET", "/v1.41//info"),
    ("GET", "/v1.41/info/"),
    ("GET", "/v1.41/./info"),
    ("GET", "/v1.41/x/../info"),
    ("GET", "/v1.41/%69nfo"),
    ("GET", "/v1.41/info%00"),
    ("POST", "/v1.41/containers/ours%2fexec/start"),
    ("POST", "/v1.41/containers/..%2f..%2fbuild/start"),
    ("GET", "/v1.41/containers/ours/json?size=1&size=2/../../exec"),
    ("POST", "/v1.41/containers/ours/stop"),
    ("POST", "/v1.41/containers/ours/stop?t=1&t=2"),
    ("POST", "/v1.41/containers/ours/stop?t=-1"),
    ("DELETE", "/v1.41/containers/ours?link=True"),
    ("GET", "/version?x=1"),
    ("POST", "/_ping"),
]


@pytest.mark.parametrize(("method", "path"), CALLS, ids=[f"{m} {p}" for m, p in CALLS])
async def test_calls_a_worker_has_no_need_of_do_not_reach_the_engine(
    line: Line, method: str, path: str
) -> None:
    line.engine.containers["ours"] = described(line, "1" * 64)

    status, _ = await line.ask(method, path)

    assert status == 403
    assert line.made == []


UPDATE = {"NanoCpus": 10**9}


@pytest.mark.parametrize(
    "body",
    [
        {"NanoCpus": 0},
        {"NanoCpus": 2 * 10**9},
        {"NanoCpus": "1000000000"},
        {**UPDATE, "Memory": 0},
        {"nanocpus": 10**9},
        {**UPDATE, "RestartPolicy": {"Name": "always"}},
        {},
        None,
        [UPDATE],
    ],
)
async def test_an_update_sets_the_usual_cpus_and_nothing_else(line: Line, body: Any) -> None:
    line.engine.containers["ours"] = described(line, "1" * 64)
    line.engine.containers["redis"] = {"Id": "4" * 64, "Config": {"Labels": None}}

    assert (await line.ask("POST", "/v1.41/containers/ours/update", json.dumps(body)))[0] == 403
    assert line.made == []

    for name, expected in (("ours", 200), ("redis", 403), ("nobody", 404)):
        path = f"/v1.41/containers/{name}/update"
        assert (await line.ask("POST", path, json.dumps(UPDATE)))[0] == expected
    [(_, path, sent)] = line.made
    assert (path, json.loads(sent)) == (f"/v1.41/containers/{'1' * 64}/update", UPDATE)


async def test_a_body_on_a_start_is_refused(line: Line) -> None:
    """Engines of long ago took a whole host configuration from it."""
    line.engine.containers["ours"] = described(line, "1" * 64)
    body = json.dumps({"Privileged": True})

    assert (await line.ask("POST", "/v1.41/containers/ours/start", body))[0] == 403
    assert line.made == []


async def test_headers_do_not_pass(line: Line) -> None:
    """Neither an upgrade, which makes a connection a raw one, nor anything else."""
    line.engine.containers["ours"] = described(line, "1" * 64)
    headers = {"Connection": "Upgrade", "Upgrade": "tcp", "X-Registry-Auth": "x"}

    status, _ = await line.ask("GET", "/v1.41/containers/ours/json", headers=headers)

    assert status in (200, 400)


SMUGGLED = [
    b"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nPOST /v1.41/build HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET http://engine/v1.41/volumes HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT engine:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: y\nPOST /v1.41/build HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("raw", SMUGGLED)
async def test_a_request_within_a_request_does_not_pass(line: Line, raw: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(line.socket)
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()

    assert {path for _, path, _ in line.engine.calls} <= {"/_ping"}


async def test_a_chunked_body_is_read_whole_before_it_is_judged(line: Line) -> None:
    text = json.dumps(line.body()).encode()

    async def parts() -> Any:
        for at in range(0, len(text), 100):
            yield text[at : at + 100]

    name = container_name("cluster-1", CONVERSATION)
    path = f"/v1.41/containers/create?name={name}"
    headers = {"Content-Type": "text/plain; charset=utf-16"}

    status, _ = await line.ask("POST", path, parts(), headers=headers)

    assert status == 200
    assert json.loads(line.made[0][2]) == line.body()


async def test_lists_and_events_are_of_this_hosts_containers_only(line: Line) -> None:
    ours = [f"{name}={value}" for name, value in host_labels("cluster-1", line.rules.host).items()]
    filters = json.dumps({"label": ours})
    listed = f"/v1.41/containers/json?limit=-1&all=1&size=0&trunc_cmd=0&filters={filters}"
    assert (await line.ask("GET", listed.replace(" ", "+")))[0] == 200
    filters = json.dumps({"type": ["container"], "event": ["start", "die"], "label": ours})
    status, told = await line.ask("GET", f"/v1.41/events?filters={filters}".replace(" ", "+"))

    assert status == 200
    assert [json.loads(text)["n"] for text in told.splitlines()] == [0, 1]
    assert all("cluster-1" in path for _, path, _ in line.engine.calls)


async def test_of_the_engine_only_what_a_worker_looks_at_is_told(line: Line) -> None:
    status, told = await line.ask("GET", "/v1.41/info")

    assert status == 200
    assert json.loads(told) == {"OSType": "linux"}


async def test_an_engine_that_is_away_is_told_as_such(line: Line) -> None:
    (line.socket.parent / "engine").unlink()

    status, told = await line.ask("GET", "/version")

    assert status == 502
    assert "does not answer" in json.loads(told)["message"]


def test_the_proxys_rules_come_from_the_workers_settings() -> None:
    settings = load_settings({"AGCLUSTER_CONTAINER_PIDS": "99"}, env_file=None)

    rules = Rules.of(settings, cluster=settings, engine="unix:///x")

    assert rules.limits.pids == 99
    assert rules.options.image == settings.agent_image
    assert rules.data_dir == settings.data_dir


def test_the_first_difference_is_named_by_its_path() -> None:
    assert first_difference({"a": [1, {"b": True}]}, {"a": [1, {"b": True}]}) is None
    assert first_difference({"a": [1, {"b": 1}]}, {"a": [1, {"b": True}]}) == "a[1].b"
    assert first_difference({"a": 1, "c": 2}, {"a": 1}) == "c"
    assert first_difference([], {}) == "the body"
