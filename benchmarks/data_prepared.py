"""speculators' own way to a training set: `speculators prepare-data`, with the render server that it needs.

It is the published program, started as its documentation says, with as many workers as there are for everybody else;
they share the processors with the server. Its start (imports) counts, as that of our Job does; the server's is apart.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_SECONDS = 300
_COUNT = """
import datasets, json, sys
rows = datasets.load_from_disk(sys.argv[1])
print(json.dumps({"rows": len(rows), "tokens": sum(map(len, rows["input_ids"]))}))
"""


def prepared(rows: Path, target: Path, peer: Path, processes: int) -> dict[str, Any]:
    """Make a training set of a file of chats; seconds with and without the server's start."""
    chats, output = rows.with_suffix(".chats.jsonl"), rows.with_suffix(".prepared")
    with rows.open("rb") as lines, chats.open("w") as file:  # the column's name is another there
        file.writelines(json.dumps({"conversations": json.loads(line)["messages"]}) + "\n" for line in lines)
    shutil.rmtree(output, ignore_errors=True)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    began = time.perf_counter()
    with _server(target, offline) as url:
        started = time.perf_counter()
        command = [peer.with_name("speculators"), "prepare-data", "--model", target, "--data", chats]
        command += ["--output", output, "--render-endpoint", url, "--num-preprocessing-workers", processes]
        done = subprocess.run(list(map(str, command)), env=offline, capture_output=True, text=True, check=False)
        ended = time.perf_counter()
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    counted = subprocess.run([peer, "-P", "-c", _COUNT, output], stdout=subprocess.PIPE, check=True)
    shutil.rmtree(output)
    found: dict[str, Any] = json.loads(counted.stdout)
    return {"server_seconds": round(started - began, 3), "seconds": round(ended - started, 3), **found}


@contextmanager
def _server(target: Path, variables: dict[str, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = [f"--model={target}", "--host=127.0.0.1", f"--port={port}", "--disable-uvicorn-access-log"]
    command = [sys.executable, "-m", "benchmarks.data_render", *flags]
    server = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the render server did not start")
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False
