"""A real S3 server (versitygw) of the test run's own: started on first use, ended with the run."""

import http.client
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from local import binaries
from specop.api.jobs import StoreConfig


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and its root user's keys."""

    url: str
    access_key: str
    secret_key: str

    @property
    def config(self) -> StoreConfig:
        return StoreConfig(endpoint_url=self.url, region="us-east-1")

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def new_bucket(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        client.create_bucket(Bucket=name)
        return name


def run_server(folder: Path) -> Iterator[S3Server]:
    program = binaries.location("versitygw") / "versitygw"
    if not program.exists():
        pytest.skip("versitygw is not built; any `make local-up` builds it")
    port, admin = free_port(), free_port()
    server = S3Server(f"http://127.0.0.1:{port}", f"test{secrets.token_hex(8)}", secrets.token_hex(16))
    for name in ("data", "versions", "users"):
        (folder / name).mkdir()
    command: list[str | Path] = [
        *(
            program,
            "--port",
            f"127.0.0.1:{port}",
            "--admin-port",
            f"127.0.0.1:{admin}",
            "--health",
            "/health",
            "--quiet",
        ),
        *("--iam-dir", folder / "users", "posix", "--versioning-dir", folder / "versions", folder / "data"),
    ]
    keys = {"ROOT_ACCESS_KEY_ID": server.access_key, "ROOT_SECRET_ACCESS_KEY": server.secret_key}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env={**os.environ, **keys}, stderr=log, stdout=log) as process,
    ):
        try:
            _wait(port)
            yield server
        finally:
            process.terminate()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == http.client.OK:
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.05)
