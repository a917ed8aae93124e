"""The cluster's DNS: Services, and the pods behind headless ones, by name; all other names are the machine's own.

It is: answers from what the API server says at that moment; nothing is kept, so nothing is stale.
It is not: complete: addresses (A) only, over UDP, for the few names of a one-machine cluster. Nor of the standard
library alone, as the rest is: it runs with the environment's Python.
"""

from __future__ import annotations

import contextlib
import socketserver
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from local import api, settings

DOMAIN = "cluster.local"
PORT = 53
_TTL_SECONDS = 1
_FORWARD_SECONDS = 3

Get = Callable[[str], Any]
"""Returns what the API server has at a path, or nothing."""


def addresses(get: Get, name: str) -> list[str] | None:
    """Return the addresses of a name under `DOMAIN`, or nothing where there is no such name."""
    match name.removesuffix(f".{DOMAIN}").split("."):
        case [service, namespace, "svc"]:
            found = get(f"/api/v1/namespaces/{namespace}/services/{service}")
            address = found and found["spec"].get("clusterIP")
            if address and address != "None":
                return [address]
            return found and [one for _, one in _pods(get, namespace, service)]
        case [host, service, namespace, "svc"]:
            return [one for hostname, one in _pods(get, namespace, service) if hostname == host] or None
        case _:
            return None


def _pods(get: Get, namespace: str, service: str) -> Iterator[tuple[str, str]]:
    """Yield name and address of each pod of a Service."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    found = get(f"{path}?labelSelector=kubernetes.io/service-name%3D{service}")
    for part in found["items"] if found else ():
        for endpoint in part["endpoints"] or ():
            if endpoint["conditions"].get("ready"):
                yield from ((endpoint.get("hostname", ""), address) for address in endpoint["addresses"])


def answer(get: Get, question: bytes, upstream: str | None) -> bytes:
    """Answer one message. Raises dns.exception.DNSException for what is none, OSError where upstream is silent."""
    query = dns.message.from_wire(question)
    (asked,) = query.question
    name = asked.name.to_text(omit_final_dot=True).lower()
    if not name.endswith(f".{DOMAIN}"):
        if upstream is None:
            return _response(query, dns.rcode.NXDOMAIN)
        return dns.query.udp(query, upstream, timeout=_FORWARD_SECONDS).to_wire()
    found = addresses(get, name)
    if found is None:
        return _response(query, dns.rcode.NXDOMAIN)
    return _response(query, dns.rcode.NOERROR, found if asked.rdtype == dns.rdatatype.A else [])


def _response(query: dns.message.Message, code: dns.rcode.Rcode, found: list[str] | None = None) -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(code)
    if found:
        response.answer.append(dns.rrset.from_text_list(query.question[0].name, _TTL_SECONDS, "IN", "A", found))
    return response.to_wire()


def serve(address: str, get: Get, upstream: str | None) -> None:
    """Answer for ever."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, socket = self.request
            with contextlib.suppress(dns.exception.DNSException, OSError):  # who asks asks again
                socket.sendto(answer(get, question, upstream), self.client_address)

    with socketserver.ThreadingUDPServer((address, PORT), Handler) as server:
        server.serve_forever()


def _upstream() -> str | None:
    """Return the machine's own server, if it has one."""
    with contextlib.suppress(dns.resolver.NoResolverConfiguration):
        return next((str(one) for one in dns.resolver.Resolver().nameservers), None)
    return None


if __name__ == "__main__":
    chosen = settings.load(Path(sys.argv[1]))
    assert chosen is not None
    serve(chosen.address, api.ApiServer(chosen.apiserver, chosen.pki).get, _upstream())
