"""The control plane: etcd, kube-apiserver, kube-controller-manager, and the S3 server beside them.

It is: their command lines, and the order in which they come up.
It is not: anything that needs root; the node is in `node`.
"""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Callable
from pathlib import Path

from local import api, binaries, console, processes
from local.settings import GATEWAY, NODE, SERVICES, Settings


def start(settings: Settings) -> None:
    """Start what does not run, and return when all of it answers."""
    _write_pki(settings)
    server = api.ApiServer(settings.apiserver, settings.pki)

    def part(name: str, command: list[str | Path], env: dict[str, str] | None = None) -> None:
        if name not in processes.parts(settings.state):
            processes.start(settings.state, name, command, env)

    def wait(name: str, ready: Callable[[], bool]) -> None:
        processes.wait(settings.state, name, ready)

    part("etcd", _etcd(settings))
    part("kube-apiserver", _apiserver(settings))
    part("versitygw", _versitygw(settings), _root_user(settings))
    wait("kube-apiserver", lambda: server.get("/readyz") == "ok")
    part("kube-controller-manager", _controller_manager(settings))
    wait("versitygw", lambda: _answers(settings.address, settings.ports["s3"], "/health"))
    if not settings.controllers.count("-serviceaccount"):
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        wait("kube-controller-manager", lambda: server.get(path) is not None)


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _write_pki(settings: Settings) -> None:
    if settings.pki.exists():
        return
    unfinished = settings.state / "pki.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    addresses = f"127.0.0.1,10.96.0.1,{GATEWAY}"
    console.output(
        [
            *(binaries.path("kube") / "kube", "pki", f"--dir={unfinished}", f"--server={settings.apiserver}"),
            *(f"--address={addresses}", f"--node={NODE}"),
        ]
    )
    unfinished.rename(settings.pki)


def _etcd(settings: Settings) -> list[str | Path]:
    return [
        *(binaries.path("kube") / "kube", "etcd"),
        *(f"--data-dir={settings.state / 'etcd'}", f"--socket={settings.sockets / 'etcd'}"),
    ]


def _apiserver(settings: Settings) -> list[str | Path]:
    pki = settings.pki
    # The default reconciler publishes our address for pods; it refuses loopback.
    reach = [f"--advertise-address={settings.address}"] if settings.node else ["--endpoint-reconciler-type=none"]
    return [
        binaries.path("kube") / "kube",
        *("kube-apiserver", *reach),
        f"--etcd-servers=unix://{settings.sockets / 'etcd'}",
        *(f"--bind-address={settings.address}", f"--secure-port={settings.ports['apiserver']}"),
        *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
        *(f"--client-ca-file={pki}/ca.crt", f"--cert-dir={settings.state}"),
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
        f"--service-cluster-ip-range={SERVICES}",
        "--service-account-issuer=https://kubernetes.default.svc",
        *(f"--service-account-key-file={pki}/sa.key", f"--service-account-signing-key-file={pki}/sa.key"),
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",  # else logs and exec look node names up in DNS
        *("--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        *("--shutdown-delay-duration=0s", "--profiling=false"),
    ]


def _controller_manager(settings: Settings) -> list[str | Path]:
    pki = settings.pki
    return [
        *(binaries.path("kube") / "kube", "kube-controller-manager"),
        f"--kubeconfig={pki}/controller-manager.kubeconfig",
        *(f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt"),
        *("--use-service-account-credentials", "--leader-elect=false", "--secure-port=0", "--profiling=false"),
        f"--flex-volume-plugin-dir={settings.state}/volume-plugins",  # the default makes a folder under /usr
        *("--kube-api-qps=2000", "--kube-api-burst=4000"),  # the defaults slow the first minute
        f"--controllers={settings.controllers}",
    ]


def _root_user(settings: Settings) -> dict[str, str]:
    return {"ROOT_ACCESS_KEY_ID": settings.access_key, "ROOT_SECRET_ACCESS_KEY": settings.secret_key}


def _versitygw(settings: Settings) -> list[str | Path]:
    folders = {name: settings.state / "s3" / name for name in ("data", "versions", "users")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return [
        binaries.path("versitygw") / "versitygw",
        *("--port", f"{settings.address}:{settings.ports['s3']}"),
        *("--admin-port", f"{settings.address}:{settings.ports['s3-admin']}"),
        *("--health", "/health", "--quiet", "--iam-dir", str(folders["users"])),
        *("posix", "--versioning-dir", str(folders["versions"]), str(folders["data"])),
    ]
