"""Finding out what a chat template does, by rendering it: the fixed texts around the contents of messages.

A template is a stranger's program. So this file is run by chat.py as a process of its own, under limits of time and memory, and
imports nothing of the package: a question comes in as JSON on stdin, the answer goes out as JSON on stdout.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 3
MEMORY_BYTES = 1 << 29
OUTPUT_CHARACTERS = 1 << 20

# In the order of the CHAT section.
PARTS = ("begin", "default_system", "system_prefix", "system_suffix", "user_prefix", "user_suffix", "assistant_prefix",
         "assistant_suffix", "generation_prompt")


class Underivable(Exception):
    """Why a template cannot be told by fixed texts."""


class _Generation(Extension):
    """{% generation %} .. {% endgeneration %}, with which transformers marks the assistant's words: here it marks nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def make_environment() -> ImmutableSandboxedEnvironment:
    """The environment in which transformers renders chat templates, without what would make a rendering differ from the next."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.filters["tojson"] = _to_json
    environment.filters.pop("random")
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
             sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(_format: str) -> str:
    raise Underivable("it writes the date")


class Renderer:
    """One template with its special tokens."""

    def __init__(self, template: str, special_tokens: dict[str, str]) -> None:
        self._template = make_environment().from_string(template)
        self._special_tokens = special_tokens

    def render(self, messages: list[dict[str, str]], generation: bool) -> str:
        pieces, size = [], 0
        for piece in self._template.generate(messages=messages, tools=None, documents=None, add_generation_prompt=generation,
                                             **self._special_tokens):
            pieces.append(piece)
            size += len(piece)
            if size > OUTPUT_CHARACTERS:
                raise Underivable(f"it writes more than {OUTPUT_CHARACTERS} characters")
        return "".join(pieces)


def derive(template: str, special_tokens: dict[str, str]) -> dict[str, Any]:
    """{"flags": .., one text per name in PARTS}; raises Underivable, or whatever the template raises."""
    renderer = Renderer(template, special_tokens)
    texts = _take_apart(renderer, special_tokens.get("bos_token", ""), _marks(template))
    for flags in (0, 1):
        if all(renderer.render(messages, generation) == put_together(texts, flags, messages, generation)
               for messages, generation in _probes()):
            return {"flags": flags, **texts}
    raise Underivable("what it writes around a message depends on more than the role")


def put_together(texts: dict[str, str], flags: int, messages: list[dict[str, str]], generation: bool) -> str:
    """What the CHAT section says that a conversation's text is; flags 1: contents are stripped."""
    out = [texts["begin"]]
    if not messages or messages[0]["role"] != "system":
        out.append(texts["default_system"])
    for message in messages:
        content = message["content"].strip() if flags & 1 else message["content"]
        out += [texts[message["role"] + "_prefix"], content, texts[message["role"] + "_suffix"]]
    return "".join(out) + (texts["generation_prompt"] if generation else "")


def _take_apart(renderer: Renderer, bos: str, marks: dict[str, str]) -> dict[str, str]:
    """The nine texts, found between the marks that stand for contents; whether they hold in general is for the probes."""
    def around(*roles: str) -> list[str]:
        return _around(renderer.render(_messages(*((role, marks[role]) for role in roles)), False), [marks[role] for role in roles])

    head, user_suffix = around("user")
    _, between, assistant_suffix = around("user", "assistant")
    assistant_prefix = _without(between, user_suffix, "")
    user_prefix = _without(around("user", "assistant", "user2")[2], assistant_suffix, "")
    lead = _without(head, "", user_prefix)
    system_lead, system_between, _ = around("system", "user")
    begin = bos if bos and lead.startswith(bos) and system_lead.startswith(bos) else ""
    user = _messages(("user", marks["user"]))
    return {
        "begin": begin,
        "default_system": lead[len(begin):],
        "system_prefix": system_lead[len(begin):],
        "system_suffix": _without(system_between, "", user_prefix),
        "user_prefix": user_prefix,
        "user_suffix": user_suffix,
        "assistant_prefix": assistant_prefix,
        "assistant_suffix": assistant_suffix,
        "generation_prompt": _without(renderer.render(user, True), renderer.render(user, False), ""),
    }


def _messages(*contents: tuple[str, str]) -> list[dict[str, str]]:
    """(role, content) pairs as messages; a digit behind a role tells two of its marks apart."""
    return [{"role": role.rstrip("2"), "content": content} for role, content in contents]


def _marks(template: str) -> dict[str, str]:
    """A content for each role that stands nowhere in the template."""
    tag = "Zq"
    while tag in template:
        tag += "q"
    return {role: f"{tag}{role.capitalize()}Mark" for role in ("system", "user", "assistant", "user2")}


def _around(text: str, marks: list[str]) -> list[str]:
    """What stands before, between and behind marks that appear once each, in order."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            raise Underivable("a message's content is not written exactly once, in order")
        piece, text = text.split(mark)
        pieces.append(piece)
    return [*pieces, text]


def _without(text: str, head: str, tail: str) -> str:
    if not (text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail)):
        raise Underivable("what it writes around a message depends on its neighbours")
    return text[len(head):len(text) - len(tail)]


_CONTENTS = ("Hello there", "What is 2 + 2?\nAnd 3 * 3?", "  spaces around\t\n", "\n\nline breaks around \n",
             "Grüße, 你好 🙂 'q' \"d\" \\",
             "{{ messages }} {% raw %} <b>&amp;</b>", "<|im_end|></s>[/INST]<|eot_id|>", "<think>\nhm\n</think>\n\nyes", "x", "0")


def _probes() -> Iterator[tuple[list[dict[str, str]], bool]]:
    """Conversations of 1 to 5 turns, with and without a system message, ending with a question or an answer."""
    for turns in range(1, 6):
        for system in (None, "You are terse.", " Mind\nthe spaces \n"):
            for first in range(0, len(_CONTENTS), 3):
                messages = _messages(("system", system)) if system is not None else []
                for turn in range(2 * turns):
                    content = _CONTENTS[(first + turn) % len(_CONTENTS)]
                    messages = messages + _messages((("user", "assistant")[turn % 2], content))
                yield messages[:-1], True
                yield messages[:-1], False
                yield messages, False
                yield messages, True


def _main() -> None:
    question = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = {"chat": derive(question["template"], question["special_tokens"])}
    except Underivable as reason:
        answer = {"reason": str(reason)}
    except MemoryError:
        answer = {"reason": "it takes too much memory"}
    except Exception as error:              # a stranger's template may raise anything
        answer = {"reason": f"rendering a conversation fails: {type(error).__name__}: {error}"[:200]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
