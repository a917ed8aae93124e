"""What a cluster was asked to be: chosen once, kept in its state folder, used by every later start."""

from __future__ import annotations

import json
import random
import secrets
import socket
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

BRIDGE = "specop0"
SUBNET = "10.244.77.0/24"
GATEWAY = "10.244.77.1"
SERVICES = "10.96.0.0/16"
NODE = "local"
NODE_SOCKETS = Path("/run/specop")

_PORTS = range(20000, 32000)  # below the ports that the kernel hands out to clients


@dataclass(frozen=True)
class Settings:
    """The choices of one cluster. `node` says whether it has one; without it, everything listens on loopback only."""

    state: Path
    node: bool
    controllers: str
    sockets: Path
    ports: dict[str, int]
    access_key: str
    secret_key: str

    @property
    def address(self) -> str:
        """Return the address that everything listens on: the bridge's where pods have to reach it."""
        return GATEWAY if self.node else "127.0.0.1"

    @property
    def apiserver(self) -> str:
        """Return the URL of the API server."""
        return f"https://{self.address}:{self.ports['apiserver']}"

    @property
    def s3(self) -> str:
        """Return the URL of the object storage."""
        return f"http://{self.address}:{self.ports['s3']}"

    @property
    def pki(self) -> Path:
        """Return the folder of certificates and kubeconfigs."""
        return self.state / "pki"

    def save(self) -> None:
        """Write the settings, readable by their owner only: they hold a secret."""
        self.state.mkdir(parents=True, exist_ok=True)
        path = self.state / "settings.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self), default=str, indent=2) + "\n")


def choose(state: Path, *, node: bool, controllers: str) -> Settings:
    """Return new settings: free ports, random keys, a short folder for sockets (paths are limited to 107 bytes)."""
    names = ("apiserver", "s3", "s3-admin", "kubelet", "proxy-health", "proxy-metrics")
    return Settings(
        state=state,
        node=node,
        controllers=controllers,
        sockets=NODE_SOCKETS if node else Path(tempfile.gettempdir()) / f"specop-{secrets.token_hex(8)}",
        ports=dict(zip(names, _free_ports(len(names)), strict=True)),
        access_key=f"local{secrets.token_hex(8)}",
        secret_key=secrets.token_urlsafe(30),
    )


def load(state: Path) -> Settings | None:
    """Return the settings of a cluster that was started before, or nothing."""
    path = state / "settings.json"
    if not path.exists():
        return None
    kept = Settings(**json.loads(path.read_text()))
    return replace(kept, state=Path(kept.state), sockets=Path(kept.sockets))


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port, at any address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # only asks, never listens
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    candidates = random.sample(_PORTS, len(_PORTS))
    free = (port for port in candidates if is_free(port))
    return [next(free) for _ in range(count)]
