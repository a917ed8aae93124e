"""Lineage: which drafters an endpoint may serve, newest first."""

import pytest

from specop.api.drafter import Drafter
from specop.api.endpoint import DrafterFrom
from specop.domain.lineage import offers
from tests.domain import build


def origin(*, job: str | None = None, drafter: str | None = None) -> DrafterFrom:
    refs = {"trainingJobRef": {"name": job} if job else None, "drafterRef": {"name": drafter} if drafter else None}
    return DrafterFrom.model_validate(refs)


V1 = build.drafter("v1")
V2 = build.drafter("v2", parent="v1", created=10)
V3 = build.drafter("v3", parent="v2", created=20)
FOREIGN = build.drafter("foreign", created=30)
IMPOSTOR = V1.model_copy(update={"metadata": V1.metadata.model_copy(update={"uid": "uid-later"})})


@pytest.mark.parametrize(
    ("drafters", "origin_", "expected"),
    [
        pytest.param([V1, V2, V3, FOREIGN], origin(job="v1"), ["v3", "v2", "v1"], id="all generations"),
        pytest.param([V3, V2, V1], origin(job="v1"), ["v3", "v2", "v1"], id="in any order"),
        pytest.param([V2, V3], origin(job="v1"), ["v3", "v2"], id="the root's drafter is gone"),
        pytest.param([V1, V2, V3], origin(job="v2"), ["v3", "v2"], id="from the middle"),
        pytest.param([V1, V2, V3], origin(drafter="v2"), ["v2"], id="one drafter"),
        pytest.param([IMPOSTOR, V2], origin(job="v1"), ["v1"], id="a later namesake is no parent"),
        pytest.param([build.drafter("v1", digest=None)], origin(job="v1"), [], id="not ready"),
        pytest.param([build.drafter("mine", job=None)], origin(drafter="mine"), ["mine"], id="imported"),
        pytest.param([FOREIGN], origin(job="v1"), [], id="none"),
        pytest.param(
            [build.drafter("a", parent="b"), build.drafter("b", parent="a")], origin(job="a"), ["b", "a"], id="a circle"
        ),
    ],
)
def test_offers(drafters: list[Drafter], origin_: DrafterFrom, expected: list[str]) -> None:
    assert [offer.name for offer in offers(drafters, origin_)] == expected
