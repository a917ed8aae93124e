"""Personal data leaves every text, JSON stays JSON, and what stands instead is not learned from."""

import json
import logging
import re
import socket
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specop.api import reasons
from specop.api.privacy import KEY_ENV, Privacy
from specop.common.errors import UserError
from specop.data.formats import Exchange, read_capture
from specop.data.privacy import Scrubber
from specop.data.recognise import _KINDS, _PHONE_SHAPE, _may_be_phone
from tests.data.planted import PLANTED, TEXTS
from tests.data.world import Json, capture, messages

KEY = {KEY_ENV: "0123456789abcdef0123456789abcdef"}
MASK = Scrubber(Privacy(), {})
SURROGATE = Scrubber(Privacy.model_validate({"action": "Surrogate", "keySecretRef": {"name": "k"}}), KEY)


def exchange(prompt: str = "Hi", answer: str = "Hello", **more: Any) -> Exchange:
    return read_capture(capture(0, prompt, answer, **more))


def scrubbed(text: str, scrubber: Scrubber = MASK) -> str:
    content: str = scrubber.scrub(exchange(text), b"c").exchange.request["messages"][0]["content"]
    return content


PLACES = ["{}", "It is {}, thanks.", "({})", '"{}"', "a\n{}\nb", "x, {}; y", "see:\t{}", "**{}**", "<b>{}</b>"]


@pytest.mark.parametrize(
    ("entity", "value"), PLANTED, ids=[f"{name}-{index}" for index, (name, _) in enumerate(PLANTED)]
)
@pytest.mark.parametrize("scrubber", [MASK, SURROGATE], ids=["mask", "surrogate"])
def test_everything_planted_is_found_wherever_it_stands(entity: str, value: str, scrubber: Scrubber) -> None:
    for place in PLACES:
        text = place.format(value)
        assert value not in scrubbed(text, scrubber), text
        result = scrubber.scrub(exchange(text), b"c")
        assert entity in result.found or entity == "Secret", text
        arguments = json.dumps({"a": {"text": text}, "n": [1, text]}, indent=1)
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        asked = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        done = scrubber.scrub(exchange(messages=[*asked, {"role": "tool", "content": arguments}]), b"c").exchange
        sent = done.request["messages"]
        for text_of in (sent[1]["tool_calls"][0]["function"]["arguments"], sent[2]["content"]):
            assert value not in str(json.loads(text_of))
            assert json.dumps(value)[1:-1] not in text_of
            assert set(json.loads(text_of)) == {"a", "n"}


@pytest.mark.parametrize(("text", "value"), TEXTS)
def test_what_only_its_words_give_away(text: str, value: str) -> None:
    assert value in text
    assert value not in scrubbed(text)


CLEAN = [
    "for i in range(0, 100, 10): x[1::2], a[::-1], std::vector<int>::iterator, ::feed(dead::beef)",
    "2026-01-01T12:30:45.123456Z 01/02/2026 12:30:45 2026-11-26 05:28:57 1767225600000000 1767225600123",
    "version 1.2.3, 10.4.1, 3.11.2rc1, chrome/120.0.6099",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "550e8400-e29b-41d4-a716-446655440000 3.141592653589793 -122.41941550 0.123456789012",
    '{"id": 1234567890123456, "total": 99999999, "price": 1234.5678901, "ids": [100200300, 400500600]}',
    'password = get_password(user); token = tokens[i]; api_key=os.environ["API_KEY"]; secret: str',
    "PASSWORD=${PASSWORD} max_tokens=1024 tokenizer: bpe key=lambda item: item[1] # a secret is kept here",
    "@app.route('/x') q@k.transpose(-2, -1) git@github.com:team/repo.git user@host decorator@2",
    "127.0.0.1:8080 0.0.0.0 255.255.255.0 ::1 localhost 12:34:56:78 aa:bb",
    '"author": "rodrimati1992", "PasswordLastUsed": "2016-09-08T21:47:36Z", serde@1.0.150, opencv-5.0.0.93-cp37',
    "help@example.com, 192.0.2.7, 2001:db8::1, (415) 555-0132 are kept for examples; 0.6006892323493958",
    "call 12345 10 20 30 40 50 60 70 80 90 100, 1-2-3-4-5-6-7, 1 000 000 000, 100-200-300",
    "The password is incorrect. Your secret sauce: tomatoes. Authorization: required; sk-learn-like-class-names-here",
    "https://example.com/a/b?id=1234567890&x=00000000000 #1234567890 ISBN 978-3-16-148410-0",
]


@pytest.mark.parametrize("text", CLEAN)
def test_code_json_dates_and_versions_stay(text: str) -> None:
    assert scrubbed(text) == text


def test_json_keeps_its_keys_its_spaces_and_its_types() -> None:
    text = (
        '{ "jane@acme.com" : "jane@acme.com","n":4111111111111111, "s": "4111 1111 1111 1111", "t":true,"e":"\\u00fc"}'
    )
    assert scrubbed(text) == (
        '{ "jane@acme.com" : "[EMAIL]","n":"[CREDIT_CARD]", "s": "[CREDIT_CARD]", "t":true,"e":"\\u00fc"}'
    )
    number = json.loads(scrubbed(text, SURROGATE))["n"]
    assert isinstance(number, int)
    assert number != 4111111111111111


def test_a_key_of_json_is_context() -> None:
    text = '{"phoneNumber": "4155552671", "order": "4155552671", "db_password": "hunter2hunter", "ssn": 219099998}'
    assert (
        scrubbed(text)
        == '{"phoneNumber": "[PHONE]", "order": "4155552671", "db_password": "[SECRET]", "ssn": "[US_SSN]"}'
    )


def test_schemas_ids_and_names_of_functions_stay_and_other_options_go() -> None:
    tool = {"type": "function", "function": {"name": "mail", "description": "as a@acme.com", "parameters": {}}}
    call = {"id": "a@acme.com", "type": "function", "function": {"name": "mail", "arguments": '{"to": "a@acme.com"}'}}
    asked = [
        {"role": "user", "content": [{"type": "text", "text": "to a@acme.com"}], "name": "jane"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a@acme.com", "content": "sent"},
    ]
    given_ = exchange(messages=asked, tools=[tool], user="a@acme.com", metadata={"m": "a@acme.com"}, seed=1)
    done = MASK.scrub(given_, b"c")
    assert done.found == {"Email": 2}
    assert done.exchange.request == {
        "model": "agent",
        "seed": 1,
        "tools": [tool],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "to [EMAIL]"}], "name": "jane"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**call, "function": {"name": "mail", "arguments": '{"to": "[EMAIL]"}'}}],
            },
            asked[2],
        ],
    }
    assert done.exchange.replaced == ("[EMAIL]",)
    assert given_.request["messages"] == asked  # what was given is not changed


def test_altered_text_loses_its_logged_ids() -> None:
    row = capture(0, "I am a@acme.com", "Hello")
    row["response"]["prompt_token_ids"], row["response"]["choices"][0]["token_ids"] = [1, 2], [3]
    done = MASK.scrub(read_capture(row), b"c").exchange
    assert (done.altered, done.prompt_token_ids, done.token_ids, done.replaced) == (True, (), (), ())
    row["request"]["messages"] = messages("I am nobody")
    done = MASK.scrub(read_capture(row), b"c").exchange
    assert (done.altered, done.prompt_token_ids, done.token_ids) == (False, (1, 2), (3,))


def test_what_an_assistant_never_said_is_listed() -> None:
    done = MASK.scrub(exchange("a@acme.com", "Mail a@acme.com or 4111 1111 1111 1111", documents=["a@acme.com"]), b"c")
    assert done.exchange.replaced == ("[EMAIL]", "[CREDIT_CARD]")
    assert done.found == {"Email": 3, "CreditCard": 1}
    assert done.exchange.request["documents"] == ["[EMAIL]"]


def policy(**fields: Any) -> Scrubber:
    return Scrubber(Privacy.model_validate(fields), KEY)


def test_actions_by_entity() -> None:
    scrubber = policy(
        entities=[{"type": "Email", "action": "Keep"}, {"type": "Secret", "action": "Drop"}, {"type": "UkNhs"}]
    )
    text = "a@acme.com NHS 943 476 5919, 4111 1111 1111 1111"
    assert scrubbed(text, scrubber) == "a@acme.com NHS [UK_NHS], [CREDIT_CARD]"
    assert not scrubber.scrub(exchange(text), b"").drop
    assert scrubber.scrub(exchange("AKIAIOSFODNN7EXAMPLE"), b"").drop
    assert policy(action="Keep").idle
    only = policy(action="Keep", entities=[{"type": "Email", "action": "Mask"}])
    assert scrubbed(text, only) == "[EMAIL] NHS 943 476 5919, 4111 1111 1111 1111"


def test_own_patterns_and_an_allow_list() -> None:
    scrubber = policy(
        patterns=[{"name": "EmployeeNumber", "regex": r"\bE-\d{4}\b"}, {"name": "Room", "regex": r"room (\w+)"}],
        allow=["*@acme.com", "192.168.?.1"],
    )
    text = "E-1234 in room B12, help@ACME.com, a@b.org, 192.168.1.1, 192.168.1.22"
    assert (
        scrubbed(text, scrubber)
        == "[EMPLOYEE_NUMBER] in room [ROOM], help@ACME.com, [EMAIL], 192.168.1.1, [IP_ADDRESS]"
    )
    with pytest.raises(UserError, match="expression of Bad is wrong") as caught:
        policy(patterns=[{"name": "Bad", "regex": "("}])
    assert caught.value.reason == reasons.INVALID_SPEC


@pytest.mark.parametrize("environment", [{}, {KEY_ENV: "short"}])
def test_surrogates_without_a_key_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        Scrubber(Privacy.model_validate({"action": "Surrogate", "keySecretRef": {"name": "k"}}), environment)
    assert caught.value.reason == reasons.PRIVACY_KEY_MISSING


def test_surrogates_are_the_same_in_a_conversation_and_no_further() -> None:
    text = "Jane.Doe@acme.com and jane.doe@ACME.com, +1 (415) 555-2671 or 415-555-2671"

    def drawn(scope: bytes, key: str = KEY[KEY_ENV]) -> str:
        scrubber = Scrubber(
            Privacy.model_validate({"action": "Surrogate", "keySecretRef": {"name": "k"}}), {KEY_ENV: key}
        )
        content: str = scrubber.scrub(exchange(text), scope).exchange.request["messages"][0]["content"]
        return content

    first, second = drawn(b"1").split(",")[0].split(" and ")
    assert first == second
    assert first.split("@")[1] in ("example.com", "example.org", "example.net")
    assert drawn(b"1") == drawn(b"1")
    assert len({drawn(b"1"), drawn(b"2"), drawn(b"1", "f" * 32)}) == 3


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("4111-1111-1111-1111", r"4111-\d{4}-\d{4}-\d{4}"),
        ("DE89 3704 0044 0532 0130 00", r"DE\d\d( \d{4}){4} \d\d"),
        ("(415) 555-2671", r"\(415\) 555-01\d\d"),
        ("219-09-9999", r"9\d\d-\d\d-\d{4}"),
        ("198.41.0.4", r"(192\.0\.2|198\.51\.100|203\.0\.113)\.\d+"),
        ("ghp_" + "a1B2c3D4e5" * 4, r"ghp_([a-z]\d[A-Z]\d){2}.*"),
    ],
)
def test_surrogates_have_the_shape_of_what_they_replace(value: str, shape: str) -> None:
    found = scrubbed(f"It is {value} .", SURROGATE).removeprefix("It is ").removesuffix(" .")
    assert re.fullmatch(shape, found)
    assert found != value
    assert len(found) == len(value) or "." in value


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.sampled_from(PLANTED), st.text(max_size=60))
def test_any_text_around_is_left_alone_or_taken_whole(before: str, planted: tuple[str, str], after: str) -> None:
    _, value = planted
    text = f"{before} \n {value} \n {after}"
    assert value not in scrubbed(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from([v for _, v in PLANTED]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_any_json_stays_json_of_the_same_shape(value: Json, ascii_: bool, indent: int | None) -> None:
    def shape(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: shape(inner) for key, inner in item.items()}
        return [shape(inner) for inner in item] if isinstance(item, list) else None

    text = json.dumps(value, ensure_ascii=ascii_, indent=indent)
    found = scrubbed(text)
    assert shape(json.loads(found)) == shape(value)
    if text.isascii():
        assert found.isascii()


def test_nothing_is_asked_of_the_network_and_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with caplog.at_level(logging.DEBUG):
        scrubber = Scrubber(Privacy(), {})
        for _, value in PLANTED:
            scrubbed(f"{value} XX12 ÄÖ34 5678 9012 345 x", scrubber)
    assert not caplog.records


@given(st.from_regex(_PHONE_SHAPE, fullmatch=True), st.sampled_from(["", "on ", "(", "\n"]))
def test_no_number_that_would_be_taken_is_passed_over(number: str, before: str) -> None:
    assume(sum(map(str.isdigit, number)) >= 7)  # shorter ones are no anchor
    assert _may_be_phone(f"{before}{number}")


_PLAIN = {
    "CreditCard": r"(?<!\d)\d(?:[ -]?\d){11,18}(?!\d)",
    "Iban": r"(?<![A-Za-z0-9])[A-Za-z]{2}\d\d[ -]?[A-Za-z0-9]{4}[ -]?",
    "UsSsn": r"(?<![\w.-])\d{3}[- .]?\d{2}[- .]?\d{4}(?![\w-])",
    "Phone": r"(?<![\w.])[+(]?\d(?:[ ().\-/]{0,2}\d){6,14}(?!\w)",
    "IpAddress": (r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\.\d)|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]"),
    "CryptoWallet": r"\b(?:bc1|[13])[A-Za-z0-9]{25,59}\b",
}


@pytest.mark.parametrize("name", _PLAIN)
@given(st.data())
def test_anchors_that_look_back_find_what_plain_ones_do(name: str, data: st.DataObject) -> None:
    shaped = st.from_regex(re.compile(_PLAIN[name], re.ASCII))
    text = data.draw(st.lists(shaped | st.text("1b+(.-: aB\n", max_size=4), max_size=3).map("".join))
    anchored, plain = (
        {match.end() for start in range(len(text)) if (match := pattern.match(text, start))}
        for pattern in (_KINDS[name].anchor, re.compile(_PLAIN[name]))
    )
    assert anchored == plain  # from any place: what a search passes over overlaps what it has found before
