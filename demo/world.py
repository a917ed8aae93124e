"""Where the demo runs: the local cluster, its object storage, and the programs by which a person would use them.

It is: `kubectl`, `helm`, `specop` and an S3 client, each pointed at the demo's cluster.
It is not: a shortcut. Whatever happens in the cluster happens through one of these.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from demo.client import Endpoint
from local import cache, cluster, console
from specop.cli.cluster import Cluster as Objects

NAME = "demo"
NAMESPACE = "team-a"
SYSTEM = "specop-system"
MODELS, TRAFFIC = "models", "team-a"
"""Buckets."""

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class World:
    """The demo's cluster and one namespace in it."""

    cluster: cluster.Cluster
    out: Path
    namespace: str = NAMESPACE
    manifests: Path = Path(__file__).parent / "manifests"
    """The endpoint, the dataset and the training job."""

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run kubectl in the namespace; raises LocalError with what it said."""
        kubectl = self.cluster.programs["kubectl"]
        return self._run([kubectl, "--namespace", self.namespace, *arguments], stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects, each to the namespace that it names."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self._run([self.cluster.programs["kubectl"], "apply", "--server-side", "-f", "-"], json.dumps(items))

    def helm(self, *arguments: str | Path) -> str:
        """Run helm; raises LocalError with what it said."""
        return self._run([self.cluster.programs["helm"], *arguments])

    def specop(self, *arguments: str) -> str:
        """Run the project's own command line, and show it as a person would type it."""
        console.say(f"$ specop {' '.join(arguments)}")
        said = self._run([sys.executable, "-m", "specop.cli.main", *arguments, "--namespace", self.namespace])
        console.say("".join(f"  {text}\n" for text in said.splitlines()).rstrip())
        return said

    @cached_property
    def objects(self) -> Objects:
        """The namespace's objects, typed."""
        return Objects(kubeconfig=str(self.cluster.kubeconfig), namespace=self.namespace)

    @cached_property
    def s3(self) -> Any:
        """A client of the object storage."""
        return boto3.client(
            "s3",
            endpoint_url=self.cluster.s3.endpoint,
            aws_access_key_id=self.cluster.s3.access_key,
            aws_secret_access_key=self.cluster.s3.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def read(self, uri: str) -> bytes:
        """Return the bytes of one object in storage."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        content: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put the files of a folder into storage."""
        for path in sorted(folder.iterdir()):
            self.s3.upload_file(str(path), bucket, f"{prefix}/{path.name}")

    def endpoint(self, name: str, model: str) -> Endpoint:
        """Return a client of an endpoint's Service: its address is reachable from this machine, its name is not."""
        address = self.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
        return Endpoint(f"http://{address}", model)

    def environment(self) -> dict[str, str]:
        """Return the variables with which a shell, and every program here, reaches the cluster."""
        paths = [str(cache.REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, **self.cluster.environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _run(self, command: list[str | Path], stdin: str | None = None) -> str:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=cache.REPOSITORY,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            message = f"{' '.join(map(str, command))} ended with code {done.returncode}: {done.stderr.strip()}"
            raise console.LocalError(message)
        return done.stdout
