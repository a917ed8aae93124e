import pytest

from specop.cli import approval
from specop.cli.errors import CliError
from tests.cli.objects import ONE, TWO, candidate, endpoint, serving

FAILED = {"digest": TWO, "attempt": 2, "reason": "DrafterNotReadyInTime"}


def with_drafter(**drafter_status: object) -> object:
    return endpoint(status={"drafter": drafter_status})


@pytest.mark.parametrize(
    ("status", "prefix", "expected"),
    [
        pytest.param({"candidate": candidate()}, None, TWO, id="the candidate is meant"),
        pytest.param({"candidate": candidate()}, "2b2b", TWO, id="first digits"),
        pytest.param({"candidate": candidate()}, "sha256:2b", TWO, id="first digits with algorithm"),
        pytest.param({"serving": serving()}, "1a", ONE, id="the serving one"),
        pytest.param({"failed": [FAILED]}, "2b", TWO, id="one that failed"),
        pytest.param({}, ONE, ONE, id="a whole digest need not be known"),
    ],
)
def test_the_digest_that_is_meant(status: dict[str, object], prefix: str | None, expected: str) -> None:
    assert approval.chosen(with_drafter(**status), prefix) == expected


@pytest.mark.parametrize(
    ("status", "prefix", "message"),
    [
        pytest.param({}, None, "endpoint agent has no candidate: nothing to decide; see `specop status`", id="none"),
        pytest.param(
            {"candidate": candidate()},
            "99",
            "no drafter of endpoint agent has a digest that begins with 99",
            id="no fit",
        ),
        pytest.param(
            {"candidate": candidate(), "serving": serving(TWO[:-1] + "0")},
            "2b",
            "more than one drafter of endpoint agent has a digest that begins with 2b",
            id="two fit",
        ),
    ],
)
def test_a_digest_that_cannot_be_meant(status: dict[str, object], prefix: str | None, message: str) -> None:
    with pytest.raises(CliError, match=message):
        approval.chosen(with_drafter(**status), prefix)


def approved(digest: str, by: str, attempt: int = 1) -> dict[str, object]:
    return {"digest": digest, "by": by, "attempt": attempt}


@pytest.mark.parametrize(
    ("policy", "failed", "expected"),
    [
        pytest.param({}, [], {"approvals": [approved(TWO, "ann")]}, id="first"),
        pytest.param(
            {"approvals": [approved(ONE, "ann")]},
            [],
            {"approvals": [approved(ONE, "ann"), approved(TWO, "ann")]},
            id="others stay",
        ),
        pytest.param(
            {"approvals": [approved(TWO, "ann")]}, [], {"approvals": [approved(TWO, "ann")]}, id="twice is once"
        ),
        pytest.param(
            {"approvals": [approved(TWO, "bob")]},
            [],
            {"approvals": [approved(TWO, "bob"), approved(TWO, "ann")]},
            id="a second person",
        ),
        pytest.param({}, [FAILED], {"approvals": [approved(TWO, "ann", 3)]}, id="a failed digest gets another attempt"),
        pytest.param(
            {"rejectedDigests": [ONE, TWO]},
            [],
            {"approvals": [approved(TWO, "ann")], "rejectedDigests": [ONE]},
            id="a change of mind",
        ),
    ],
)
def test_approve(policy: dict[str, object], failed: list[dict[str, object]], expected: dict[str, object]) -> None:
    seen = endpoint(drafter_spec={"approval": policy}, status={"drafter": {"failed": failed}})
    assert approval.approve(seen, TWO, "ann") == {"spec": {"drafter": {"approval": expected}}}


def test_reject_is_said_once() -> None:
    seen = endpoint(drafter_spec={"approval": {"rejectedDigests": [TWO, ONE]}})
    assert approval.reject(seen, TWO) == {"spec": {"drafter": {"approval": {"rejectedDigests": [ONE, TWO]}}}}


def test_an_endpoint_without_drafter_approves_nothing() -> None:
    with pytest.raises(CliError, match=r"asks for no drafter: set spec\.drafter\.from"):
        approval.approve(endpoint(asks=False), TWO, "ann")
