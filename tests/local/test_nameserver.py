"""Names of Services and of the pods behind them, from what the API server says."""

from typing import Any

import dns.message
import dns.rcode
import pytest

from local.nameserver import answer

SLICES = "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?labelSelector=kubernetes.io/service-name%3Djob"
PODS = [
    {"hostname": "job-0", "addresses": ["10.0.0.5"], "conditions": {"ready": True}},
    {"hostname": "job-1", "addresses": ["10.0.0.6"], "conditions": {"ready": True}},
    {"hostname": "job-2", "addresses": ["10.0.0.7"], "conditions": {"ready": False}},
]
THERE: dict[str, Any] = {
    "/api/v1/namespaces/a/services/agent": {"spec": {"clusterIP": "10.96.0.9"}},
    "/api/v1/namespaces/a/services/job": {"spec": {"clusterIP": "None"}},
    SLICES: {"items": [{"endpoints": PODS}, {"endpoints": None}]},
}


@pytest.mark.parametrize(
    ("name", "kind", "code", "found"),
    [
        ("agent.a.svc.cluster.local", "A", "NOERROR", ["10.96.0.9"]),
        ("Agent.A.svc.Cluster.local", "A", "NOERROR", ["10.96.0.9"]),
        ("agent.a.svc.cluster.local", "AAAA", "NOERROR", []),
        ("job.a.svc.cluster.local", "A", "NOERROR", ["10.0.0.5", "10.0.0.6"]),
        ("job-1.job.a.svc.cluster.local", "A", "NOERROR", ["10.0.0.6"]),
        ("job-2.job.a.svc.cluster.local", "A", "NXDOMAIN", []),
        ("nobody.a.svc.cluster.local", "A", "NXDOMAIN", []),
        ("agent.a.svc.cluster.local.a.svc.cluster.local", "A", "NXDOMAIN", []),
        ("example.com", "A", "NXDOMAIN", []),
    ],
)
def test_answers(name: str, kind: str, code: str, found: list[str]) -> None:
    query = dns.message.make_query(name, kind)
    answered = dns.message.from_wire(answer(THERE.get, query.to_wire(), None))
    assert answered.id == query.id
    assert dns.rcode.to_text(answered.rcode()) == code
    assert sorted(str(item) for part in answered.answer for item in part) == found
