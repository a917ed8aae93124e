"""Chat templates of several families, each with what its engine writes for an answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from specop.data.tokens import TargetText
from tests.data.world import Json
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

CALLS = (
    "{% for call in message.tool_calls %}{{ '\n<tool_call>\n' }}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
REASONING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for message in messages if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endfor %}"
    "{% set ns.users = 0 %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'user' %}{% set ns.users = ns.users + 1 %}{% endif %}"
    "{% if message.role == 'assistant' and message.reasoning_content and ns.users > ns.last %}"
    "<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% for message in messages %}"
    "{% if message.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ message.content }}\n</tool_response>"
    "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}{% if message.tool_calls %}"
    + CALLS
    + "{% endif %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER_HEADER = (
    "{% for message in messages %}<|im_start|>{{ message.role }} (in the record of turns)\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_END = (
    "{% for message in messages %}{{ message.role | upper }}: {{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _plain(message: Json) -> str:
    return f"{message['content']}<|im_end|>"


def _reasoned(message: Json) -> str:
    thought = message.get("reasoning_content")
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + _plain(message)


def _called(message: Json) -> str:
    calls = "".join(
        f'\n<tool_call>\n{{"name": "{call["function"]["name"]}", '
        f'"arguments": {json.dumps(json.loads(call["function"]["arguments"]), ensure_ascii=False)}}}\n</tool_call>'
        for call in message.get("tool_calls", [])
    )
    return f"{message['content'] or ''}{calls}<|im_end|>"


@dataclass(frozen=True)
class Family:
    """A template, and the text that an engine generates for a message of the assistant."""

    template: str
    wrote: Callable[[Json], str]
    end: str = "<|im_end|>"
    bos: str = "<|im_start|>"

    def text(self, folder: Path) -> TargetText:
        """The target in `folder`, with one token a byte and the template's own special tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = tiny_tokenizer()
        special = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": self.bos, "eos_token": self.end}))
        (folder / "chat_template.jinja").write_text(self.template)
        return TargetText(folder)


FAMILIES = {
    "ChatML": Family(CHAT_TEMPLATE, _plain),
    "Llama 3": Family(
        LLAMA, lambda message: message["content"].strip() + "<|eot_id|>", "<|eot_id|>", "<|begin_of_text|>"
    ),
    "reasoning dropped from history": Family(REASONING, _reasoned),
    "tool calls": Family(TOOLS, _called),
    "another header than the prompt's": Family(OTHER_HEADER, _plain),
    "no end of turn": Family(NO_END, lambda message: " " + message["content"].strip()),
}
