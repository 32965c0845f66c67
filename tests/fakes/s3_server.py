"""A real S3 server on loopback, in threads of this process (`moto`)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

REGION = "us-east-1"
KEYS = {"access_key_id": "test", "secret_access_key": "test-secret-of-the-bucket"}


@dataclass
class S3Server:
    """One bucket on a running server."""

    bucket: str
    endpoint: str
    client: Any
    server: ThreadedMotoServer

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

    def stop(self) -> None:
        self.server.stop()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """With a bucket of its own: what is in them outlives a server, as long as this process."""
    bucket = f"files-{secrets.token_hex(6)}"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=KEYS["access_key_id"],
            aws_secret_access_key=KEYS["secret_access_key"],
        )
        client.create_bucket(Bucket=bucket)
        yield S3Server(bucket, endpoint, client, server)
        client.close()
    finally:
        server.stop()
