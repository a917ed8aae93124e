"""The containers of a serving pod as plain processes: fetch, companion and a real vLLM engine, on folders of a test."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specop.api.endpoint import Capture, DrafterFrom, DrafterPolicy, EndpointSpec
from specop.api.engine import Engine
from specop.api.jobs import CompanionConfig, FetchConfig
from specop.api.shared import Contract, TargetSpec, Weights
from specop.manifests.engine import ENGINE_MODULE, ENGINE_PORT, engine_args, speculative_tokens
from tests.storage.server import free_port

START_SECONDS = 300
ON_CPU = {
    "LD_PRELOAD": str(Path(sys.prefix) / "lib" / "libiomp5.so"),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
ENGINE_FLAGS = ["--enforce-eager", "--max-num-seqs=8", "--max-model-len=1024"]


class Pod:
    """Processes of one pod; its volumes are folders under `root`."""

    def __init__(
        self, root: Path, target: str, drafter: Weights | None = None, contract: Contract | None = None
    ) -> None:
        self.root = root
        self.target = target
        self.drafter = drafter
        self.contract = contract
        self.arm = "d-test" if drafter else "base"
        self.engine_port, self.companion_port = free_port(), free_port()
        self.spec = EndpointSpec(
            target=TargetSpec(uri=target),
            served_name="agent",
            engine=Engine(dtype="Float32", args=ENGINE_FLAGS),
            capture=Capture(uri=f"file://{root}/captured"),
            drafter=DrafterPolicy(from_=DrafterFrom()) if drafter else None,
        )
        self.engine: subprocess.Popen[bytes] | None = None
        self.companion: subprocess.Popen[bytes] | None = None

    def fetch(self) -> None:
        config = FetchConfig(
            target=self.target,
            drafter=self.drafter,
            contract=self.contract,
            speculative_tokens=speculative_tokens(self.spec, self.contract) if self.contract else None,
        )
        command = ["specop.serving.fetch", f"--work={self.root}/work", f"--termination-log={self.root}/ended"]
        environment = {"SPECOP_CONFIG": json.dumps(config.to_json()), "SPECOP_MODELS_DIR": f"{self.root}/models"}
        assert self._start(command, environment, "fetch").wait() == 0, (self.root / "fetch.log").read_text()

    def start_companion(self) -> None:
        config = CompanionConfig(
            namespace="team-a",
            endpoint="agent",
            served_name=self.spec.served_name,
            arm=self.arm,
            engine_url=f"http://127.0.0.1:{self.engine_port}",
            capture=self.spec.capture.uri if self.spec.capture else None,
        )
        environment = {
            "SPECOP_CONFIG": json.dumps(config.to_json()),
            "SPECOP_CAPTURE_DIR": f"{self.root}/capture",
            "SPECOP_COMPANION_PORT": str(self.companion_port),
        }
        self.companion = self._start(["specop.serving.companion"], environment, "companion")

    def start_engine(self) -> None:
        flags = [
            flag.replace("/models/", f"{self.root}/models/").replace(f"={ENGINE_PORT}", f"={self.engine_port}")
            for flag in engine_args(self.spec, self.contract)
        ]
        environment = {
            **ON_CPU,
            "PYTHONPATH": f"{self.root}/models/plugin",
            "SPECOP_ARM": self.arm,
            "SPECOP_CAPTURE_DIR": f"{self.root}/capture",
        }
        self.engine = self._start([ENGINE_MODULE, *flags], environment, "engine")

    def _start(self, command: list[str], environment: dict[str, str], name: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, "PYTHONPATH": "src", **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ask_companion(self, path: str, timeout: float = 60) -> tuple[int, str]:
        """Status and body; status 0 while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.companion_port}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, TimeoutError):
            return 0, ""

    def wait_ready(self) -> float:
        """Wait as the kubelet does; seconds that it took."""
        began = time.monotonic()
        while self.ask_companion("/ready")[0] != 200:
            assert self.engine is None or self.engine.poll() is None, (self.root / "engine.log").read_text()[-4000:]
            assert time.monotonic() - began < START_SECONDS, "not ready in time"
            time.sleep(1)
        return time.monotonic() - began

    def stop(self) -> None:
        """End the engine, then the companion, as a pod with a native sidecar ends."""
        for process in (self.engine, self.companion):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


@contextmanager
def running(pod: Pod) -> Iterator[Pod]:
    """Start all containers in a pod's order; kill what is left at the end."""
    try:
        pod.fetch()
        pod.start_companion()
        pod.start_engine()
        yield pod
    finally:
        for process in (pod.engine, pod.companion):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
