"""What the pods of a child Job say, and what the Job itself says of them."""

from typing import Any

import pytest

from specop.api import reasons
from specop.api.jobs import Outcome
from specop.common.names import ANNOTATION_GENERATION
from specop.domain.jobs import JobView, view
from specop.domain.observed import Children
from tests.domain import build

NAME = "agent-v1-dataset"


def seen(outcome: Outcome, *conditions: str) -> JobView:
    status = {"conditions": [{"type": each, "status": "True"} for each in conditions]}
    metadata = {"name": NAME, "uid": "u", "annotations": {ANNOTATION_GENERATION: "1"}}
    job: dict[str, Any] = {"metadata": metadata, "spec": {}, "status": status}
    children = Children(jobs=(job,), deployments=(), services=(), pods=(), outcomes={"u": outcome})
    return view(build.dataset(), children, NAME)


@pytest.mark.parametrize(("conditions", "state"), [((), "waiting"), (("Failed",), "failed")])
def test_a_failed_attempt_is_no_failed_job_while_another_may_follow(conditions: tuple[str, ...], state: str) -> None:
    assert seen(build.refused("dataset", reasons.STORAGE_UNREACHABLE), *conditions).state == state


def test_what_was_finished_is_taken_before_the_job_says_so() -> None:
    assert seen(build.dataset_outcome()).state == "succeeded"
