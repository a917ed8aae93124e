"""Templates render as the library renders them that engines use; dates come from the request."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from specop.api import reasons
from specop.common.errors import UserError
from specop.data.template import ChatTemplate, TemplateRefused
from specop.data.tokens import TargetText
from tests.data.templates import FAMILIES, LLAMA, TOOLS
from tests.data.world import Json, messages
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
DIALECT = """
{%- for message in messages %}
    {%- if message.role == "skip" %}{% continue %}{% endif %}
    {% generation %}{{ message.content | tojson }}{% endgeneration %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
{%- endfor %}
{{ tools | tojson(indent=1) if tools else "none" }} <&'> {{ documents }}
"""
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "skip"]), "content": st.text(max_size=9)}
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize(
    "template", [*(family.template for family in FAMILIES.values()), DIALECT], ids=[*FAMILIES, "the dialect"]
)
@settings(max_examples=20, deadline=None)
@given(conversation=MESSAGES, prompt=st.booleans(), tools=st.none() | st.just([{"name": "<find> & 'co'"}]))
def test_as_the_library_renders_it(template: str, conversation: list[Json], prompt: bool, tools: Any) -> None:
    (expected,), _ = render_jinja_template(
        [conversation], tools=tools, chat_template=template, add_generation_prompt=prompt, **SPECIAL
    )
    ours = ChatTemplate(template, SPECIAL).render(conversation, {"tools": tools}, None, prompt=prompt)
    assert ours == expected


@pytest.mark.parametrize(
    ("time", "expected"),
    [(datetime(2026, 3, 1, 23, 59, tzinfo=UTC), "01 March 2026"), (None, "01 January 1970")],
)
def test_todays_date_is_the_requests(time: datetime | None, expected: str) -> None:
    template = ChatTemplate("{{ strftime_now('%d %B %Y') }}", {})
    assert template.render(messages("Hi"), {}, time, prompt=True) == expected


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        ("{{ messages[0].content }}", "a", "a"),
        ("{{ messages[0].content }}", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ("{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}", "a", "[a]"),
        (
            "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}",
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "[a][b]",
        ),
        ("{{ messages[0].content }}", None, ""),
    ],
    ids=["text", "parts where text is taken", "text where parts are taken", "parts", "nothing"],
)
def test_content_takes_the_form_that_a_template_takes(template: str, content: Any, expected: str) -> None:
    found = ChatTemplate(template, {}).render([{"role": "user", "content": content}], {}, None, prompt=True)
    assert found == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, "--"),
        ({"reasoning_effort": "low"}, "low-True-"),
        ({"reasoning_effort": "none"}, "none-False-"),
        ({"chat_template_kwargs": {"enable_thinking": False, "x": 1}}, "-False-1"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "none-True-"),
        ({"chat_template_kwargs": {"add_generation_prompt": True, "messages": []}}, "--"),
    ],
)
def test_what_a_request_sets(request_: Json, expected: str) -> None:
    template = ChatTemplate(
        "{{ reasoning_effort }}-{{ enable_thinking }}-{{ x }}{{ '!' if add_generation_prompt or not messages }}", {}
    )
    assert template.render(messages("Hi"), request_, None, prompt=False) == expected


def test_arguments_are_parsed_for_the_template() -> None:
    call = {"function": {"name": "f", "arguments": '{"b": "<", "a": 1}'}}
    broken = {"function": {"name": "f", "arguments": '{"b'}}
    template = ChatTemplate(
        "{% for call in messages[0].tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}", {}
    )
    found = template.render([{"role": "assistant", "tool_calls": [call, broken]}], {}, None, prompt=False)
    assert found == '{"b": "<", "a": 1}"{\\"b"'


def test_one_of_a_pair_of_templates_is_for_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
    assert [template.render(messages("Hi"), {"tools": tools}, None, prompt=True) for tools in ([], [{}])] == [
        "plain",
        "tools",
    ]


@pytest.mark.parametrize(
    "body",
    [
        "{{ raise_exception('no ' ~ messages[0].content) }}",
        "{{ messages[9].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ missing.attribute }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    ],
    ids=["raised", "index", "type", "arithmetic", "undefined", "mutation", "sandbox", "recursion"],
)
def test_what_a_template_raises_is_a_refusal_that_quotes_nothing(body: str) -> None:
    with pytest.raises(TemplateRefused) as caught:
        ChatTemplate(body, {}).render(messages("secret"), {}, None, prompt=True)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def target(folder: Path, files: Json) -> TargetText:
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return TargetText(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": CHAT_TEMPLATE},
        {"chat_template.jinja": CHAT_TEMPLATE, "tokenizer_config.json": {"chat_template": "another"}},
        {"tokenizer_config.json": {"chat_template": CHAT_TEMPLATE}},
        {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": CHAT_TEMPLATE}]}},
    ],
    ids=["a file", "the file wins", "inside", "inside, named"],
)
def test_where_a_template_lies(tmp_path: Path, files: Json) -> None:
    found = target(tmp_path, files).template.render(messages("Hi"), {}, None, prompt=True)
    assert found == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"tokenizer_config.json": {"eos_token": "<|im_end|>"}}, ["<|im_end|>"]),
        ({"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}}}, ["<|im_end|>"]),
        ({"config.json": {"eos_token_id": 0}}, ["<|endoftext|>"]),
        ({"generation_config.json": {"eos_token_id": [0, 2, 999_999]}}, ["<|endoftext|>", "<|im_end|>"]),
    ],
)
def test_what_ends_a_turn(tmp_path: Path, files: Json, expected: list[str]) -> None:
    pattern = target(tmp_path, {"chat_template.jinja": LLAMA, **files}).end_of_turn
    found = [token for token in ("<|endoftext|>", "<|im_end|>", "") if pattern.fullmatch(f" \n{token}")]
    assert found == expected


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ({"chat_template.jinja": ""}, reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ({"chat_template.jinja": "{% if %}"}, reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ({"tokenizer_config.json": {"chat_template": [{"name": "x"}]}}, reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ({"tokenizer_config.json": {"chat_template": 7}}, reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ({"tokenizer.json": "{}", "chat_template.jinja": TOOLS}, reasons.TARGET_WITHOUT_TOKENIZER),
        ({"tokenizer.json": "", "chat_template.jinja": TOOLS}, reasons.TARGET_WITHOUT_TOKENIZER),
        ({"generation_config.json": "{", "chat_template.jinja": TOOLS}, reasons.TARGET_UNSUPPORTED),
    ],
    ids=["none", "empty", "not valid", "a list without templates", "a number", "no tokenizer", "empty", "not JSON"],
)
def test_a_target_that_makes_no_rows(tmp_path: Path, files: Json, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        target(tmp_path, files)
    assert caught.value.reason == reason
