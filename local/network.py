"""The node's network on the host: the bridge, the kernel settings, what kube-proxy leaves.

It is: what one node needs, and its removal without a trace; who may do either is `claim`'s to say.
It is not: the pods' own interfaces: the CNI plugins make those, and they go with their network namespaces.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from pathlib import Path

from local import console
from local.settings import BRIDGE, GATEWAY, NODE_SOCKETS, SERVICES, SUBNET

_SYSCTLS = {  # value that we need, or nothing where the kubelet sets its own
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",  # answers from a Service's pod to another pod on the same bridge
    "kernel/keys/root_maxbytes": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "vm/overcommit_memory": None,
    "vm/panic_on_oom": None,
}
_SYS_NET = Path("/sys/class/net")
_PROC_SYS = Path("/proc/sys")
_KEPT = NODE_SOCKETS / "sysctls.json"  # not on a disk: a restart of the machine resets the kernel too


def prepare() -> None:
    """Make the bridge, which the API server binds to, and set what the kernel needs, keeping what was there before."""
    if not (_SYS_NET / BRIDGE).exists():
        console.output(["ip", "link", "add", BRIDGE, "type", "bridge"])
    prefix = SUBNET.rpartition("/")[2]
    console.output(["ip", "address", "replace", f"{GATEWAY}/{prefix}", "dev", BRIDGE])
    console.output(["ip", "link", "set", BRIDGE, "up"])
    if not (_PROC_SYS / "net/bridge").exists():
        console.output(["modprobe", "br_netfilter"])
    if not _KEPT.exists():
        unfinished = _KEPT.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({name: (_PROC_SYS / name).read_text().strip() for name in _SYSCTLS}))
        unfinished.rename(_KEPT)
    for name, value in _SYSCTLS.items():
        if value is not None:
            (_PROC_SYS / name).write_text(value)


def remove() -> None:
    """Put the kernel's settings back and remove kube-proxy's tables and the bridge."""
    if _KEPT.exists():
        for name, value in json.loads(_KEPT.read_text()).items():
            if (_PROC_SYS / name).read_text().strip() != value:
                (_PROC_SYS / name).write_text(value)
    for family in ("ip", "ip6"):
        subprocess.run(["nft", "delete", "table", family, "kube-proxy"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)


def has_proxy_tables() -> bool:
    """Return whether some kube-proxy left or keeps its tables on this machine."""
    return "kube-proxy" in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout


def overlapping_routes() -> list[str]:
    """Return the machine's routes, other than default ones, that lead into our networks."""
    ours = [ipaddress.ip_network(SUBNET), ipaddress.ip_network(SERVICES)]
    found = []
    for route in json.loads(console.output(["ip", "-json", "-4", "route"])):
        with contextlib.suppress(ValueError):  # 'default'
            network = ipaddress.ip_network(route["dst"])
            if route.get("dev") != BRIDGE and any(network.overlaps(own) for own in ours):
                found.append(f"{network} dev {route.get('dev')}")
    return found
