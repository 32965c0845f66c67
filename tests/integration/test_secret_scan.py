"""The search for secrets finds them: in each spelling, and by each of the ways it looks."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from tests.e2e.deployments import wait_until
from tests.e2e.secret_scan import (
    Canary,
    Specimen,
    Tap,
    files_below,
    is_in_memory,
    kinds,
    letters,
    names_in_commands,
    processes,
    redis_at_rest,
    sightings,
)
from tests.fakes.redis_server import RealRedis, real_redis

KEY = Canary("key", 'sk/ant+3f"9\\c=é')
WAIT = "import sys, time; print('up', flush=True); time.sleep(60)"


def seen(held: bytes) -> bool:
    return bool(sightings([Specimen("here", "there", held)], [KEY]))


@pytest.mark.parametrize(
    "written",
    [
        KEY.text.encode(),
        KEY.text[::-1].encode(),
        binascii.hexlify(KEY.text.encode()),
        KEY.text.encode().hex().upper().encode(),
        quote(KEY.text, safe="").encode(),
        json.dumps({"a": KEY.text}).encode(),
        json.dumps({"a": KEY.text}, ensure_ascii=False).encode(),
        json.dumps({"a": json.dumps({"b": KEY.text})}).encode(),
        KEY.text.encode("utf-16-le"),
        *(base64.b64encode(b"x" * n + KEY.text.encode() + b"yz") for n in range(4)),
        *(base64.urlsafe_b64encode(b"x" * n + KEY.text.encode() + b"yz") for n in range(4)),
    ],
)
def test_a_canary_is_found_however_it_is_written(written: bytes) -> None:
    assert seen(b"before " + written + b" after")


def test_what_is_not_there_is_not_found() -> None:
    half = len(KEY.text) // 2
    apart = f"{KEY.text[:half]} {KEY.text[half:]}"
    assert not seen(apart.encode())
    assert not seen(base64.b64encode(apart.encode()))
    assert not seen(b"")


def test_a_canary_is_found_in_a_file_and_in_a_files_name(tmp_path: Path) -> None:
    (tmp_path / "deep" / letters(4)).mkdir(parents=True)
    (tmp_path / "deep" / "file").write_text("holds canary-in-a-file")
    (tmp_path / "deep" / "canary-in-a-name").touch()
    os.mkfifo(tmp_path / "nobody-writes-here")
    held = list(files_below(tmp_path, "files"))
    for text in ("canary-in-a-file", "canary-in-a-name"):
        assert kinds(held, Canary("c", text)) == {"files"}


def test_a_canary_is_found_in_a_process() -> None:
    environ, argument, heap = (Canary("c", letters(24)) for _ in range(3))
    made = f"held = ''.join(reversed({heap.text[::-1]!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", f"{made}; {WAIT}", argument.text],
        env={**os.environ, "HIDDEN": environ.text},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            held = list(processes())
            assert kinds(held, environ) == {"environments"}
            assert kinds(held, argument) == {"arguments"}
            assert is_in_memory(process.pid, heap.text.encode())
            assert not is_in_memory(process.pid, letters(24).encode())
        finally:
            process.kill()


def test_names_are_told_from_what_is_kept_under_them() -> None:
    told = (
        b'1.2 [0 unix:/r] "EVALSHA" "abc" "2" "agc:one" "agc:two" "said \\"by\\" someone"\n'
        b'1.2 [0 lua] "hset" "agc:three" "label" "a name"\n+OK\n'
    )
    assert names_in_commands(told).split() == [b"agc:one", b"agc:two", b"agc:three"]


@pytest.fixture
async def server() -> AsyncIterator[RealRedis]:
    async with real_redis(append_only=True) as running:
        yield running


@pytest.mark.redis
def test_a_canary_is_found_in_every_type_of_value(server: RealRedis) -> None:
    with redis.Redis.from_url(server.url) as client:
        canaries = [Canary(name, letters(24)) for name in "stuvwxyz"]
        texts = [canary.text for canary in canaries]
        client.config_set("slowlog-log-slower-than", 0)
        client.set("s", texts[0])
        client.hset("h", texts[1], "v")
        client.hset("h", "f", texts[2])
        client.rpush("l", texts[3])
        client.sadd("m", texts[4])
        client.zadd("z", {texts[5]: 1})
        client.xadd("x", {"e": texts[6]})
        client.set(texts[7], "v")
        held = list(redis_at_rest(client))
    for canary in canaries[:7]:
        assert kinds(held, canary) == {"redis values", "redis slowlog"}
    assert kinds(held, canaries[7]) == {"redis names", "redis slowlog"}


@pytest.mark.redis
def test_a_canary_is_heard_in_commands_and_messages(server: RealRedis) -> None:
    path = Path(server.url.removeprefix("unix://"))
    canary, last = letters(24), letters(24)
    with Tap(path, "MONITOR") as commands, Tap(path, "PSUBSCRIBE *") as messages:
        with redis.Redis.from_url(server.url) as client:
            client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "k", canary)
            for word in (canary, last):
                client.publish("anywhere", word)
        wait_until("the last word", lambda: last.encode() in messages.heard, 20)
    assert commands.heard.count(canary.encode()) == 3, "the script's own command counts too"
    assert canary.encode() in messages.heard
