"""Conditions: times change with the status only; what is abnormal is absent where all is well."""

import pytest

from specop.api.base import Condition
from specop.domain.conditions import Aspect, Verdict, roll_up, set_condition
from tests.domain import build

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
READY = Condition(type="Ready", status="True", reason="A", last_transition_time=OLD, observed_generation=1)


@pytest.mark.parametrize(
    ("previous", "status", "expected"),
    [
        pytest.param([], "True", NEW, id="first"),
        pytest.param([READY], "True", OLD, id="another reason only"),
        pytest.param([READY], "False", NEW, id="another status"),
        pytest.param([READY.model_copy(update={"last_transition_time": ""})], "True", NEW, id="had no time"),
    ],
)
def test_transition_time(previous: list[Condition], status: str, expected: str) -> None:
    aspect = Aspect("Ready", status, "B", "m" * 2000)  # type: ignore[arg-type]
    found = set_condition(previous, aspect, generation=2, now=build.at(60))
    assert found == Condition(
        type="Ready",
        status=status,
        reason="B",
        message="m" * 1024,
        last_transition_time=expected,
        observed_generation=2,
    )


@pytest.mark.parametrize(
    ("verdict", "types"),
    [
        pytest.param(Verdict("True", "A", ""), ["Ready"], id="well"),
        pytest.param(Verdict("False", "A", "", reconciling=True), ["Ready", "Reconciling"], id="at work"),
        pytest.param(Verdict("False", "A", "", stalled=True), ["Ready", "Stalled"], id="waits for a person"),
    ],
)
def test_abnormal_is_absent_where_all_is_well(verdict: Verdict, types: list[str]) -> None:
    found = roll_up("Ready", verdict, previous=[], generation=1, now=build.at(0))
    assert [(c.type, c.reason) for c in found] == [(type_, "A") for type_ in types]
