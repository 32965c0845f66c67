"""Real S3 servers on loopback: `moto` in threads of this process, SeaweedFS as a process."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer

from tests.parts import need, weed_program

REGION = "us-east-1"
KEYS = {"access_key_id": "test", "secret_access_key": "test-secret-of-the-bucket"}
WEED_READY_S = 60.0


@dataclass
class S3Server:
    """One bucket on a running server."""

    bucket: str
    endpoint: str
    client: Any
    stop: Callable[[], None]

    @property
    def url(self) -> str:
        """What `AGCLUSTER_FILE_STORE` says of it."""
        return f"s3://{self.bucket}/agcluster"

    @property
    def options(self) -> str:
        pairs = KEYS | {"endpoint": self.endpoint, "region": REGION}
        return ", ".join(f"{name}={value}" for name, value in pairs.items())

    def names(self) -> list[str]:
        """The objects that are there, without the prefix."""
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(one["Key"].removeprefix("agcluster/") for one in found)

    def unfinished(self) -> list[str]:
        """Objects of which the server keeps parts."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [one["Key"] for one in found]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """moto, with a bucket of its own, as they outlive a server as long as this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with bucket_at(f"http://{host}:{port}", stop=server.stop) as bucket:
            yield bucket
    finally:
        server.stop()


@contextmanager
def weed_server(folder: Path) -> Iterator[str]:
    """SeaweedFS with its data in that folder: its endpoint, where it takes buckets."""
    need("weed")
    ports = {name: _free_port() for name in ("s3", "master", "volume", "filer")}
    command = [
        *(str(weed_program()), "server", f"-dir={folder}", "-s3", "-volume.max=1000"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"),
        # What nobody asks here; it has fixed ports, which two of these could not share.
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={_free_port()}" for name in ports),
    ]
    keys = {
        "AWS_ACCESS_KEY_ID": KEYS["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_access_key"],
    }
    with ExitStack() as held:
        process = held.enter_context(
            subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)} | keys,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        held.callback(process.kill)
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _wait_for(endpoint)
        yield endpoint


@contextmanager
def bucket_at(endpoint: str, *, stop: Callable[[], None] = lambda: None) -> Iterator[S3Server]:
    """A new bucket on a running server."""
    bucket, client = f"files-{secrets.token_hex(6)}", _client(endpoint)
    client.create_bucket(Bucket=bucket)
    yield S3Server(bucket, endpoint, client, stop)
    client.close()


def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEYS["access_key_id"],
        aws_secret_access_key=KEYS["secret_access_key"],
    )


def _wait_for(endpoint: str) -> None:
    """Until it takes an object: its volumes come last."""
    give_up_s = time.monotonic() + WEED_READY_S
    while True:
        try:
            with bucket_at(endpoint) as ready:
                ready.client.put_object(Bucket=ready.bucket, Key="ready", Body=b"1")
                return
        except (BotoCoreError, ClientError):
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
