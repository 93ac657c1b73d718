"""Finding out what a chat template does, by rendering it: the fixed texts around the contents of messages.

A template is a stranger's program. So this file is run by chat.py as a process of its own, under limits of time and memory, and
imports nothing of the package: a question comes in as JSON on stdin, the answer goes out as JSON on stdout.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 3
MEMORY_BYTES = 1 << 29
OUTPUT_CHARACTERS = 1 << 20

# Flags of the CHAT section, as chat.py has them: what is tried, for each way in which a system message may be written.
STRIPPED, MERGED, SYSTEM_AS_IS, NO_SYSTEM, WHOLE, PROMPTED, DATED, THOUGHTS, LINES = 1, 2, 4, 8, 16, 32, 64, 128, 256
OWN_TURN, IN_THE_FIRST, NONE = (0, 1, 5), (2, 3, 7, 19), (8, 9)
THOUGHT_END = "</think>"

# What stands for today's date: a strftime format between two of these, of conversions that C and Python have alike.
DATE_MARK = "\U0010fffe"
DATE_FORMAT = re.compile("(?:[ -$&-~]|%[aAbBdeHIjmMpSyY%]){1,64}")

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


def _strftime_now(form: str) -> str:
    if not DATE_FORMAT.fullmatch(form):
        raise Underivable("it writes the date in a way that C may not")
    return DATE_MARK + form + DATE_MARK


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
    if DATE_MARK in template:
        raise Underivable("it has a character that is no character")
    renderer = Renderer(template, special_tokens)
    marks = _marks(template)
    reason: Exception = Underivable("nothing was tried")
    for prompted in (0, PROMPTED):
        for system in (OWN_TURN, IN_THE_FIRST, NONE):
            try:
                return _derive_with(renderer, special_tokens.get("bos_token", ""), marks, system, prompted)
            except Exception as error:      # a template may refuse system messages in any way
                reason = reason if prompted else error
    raise reason


def _derive_with(renderer: Renderer, bos: str, marks: dict[str, str], system: tuple[int, ...], prompted: int) -> dict[str, Any]:
    """The same for one way of writing a system message, and of all conversations or of those alone that are to be answered."""
    texts = (_take_apart_prompted if prompted else _take_apart)(renderer, bos, marks, system)
    dated = _dated(texts)
    probes = [(messages, generation, renderer.render(messages, generation))
              for messages, generation in _probes(system is not NONE, bool(prompted))]
    for thoughts in (0, THOUGHTS, THOUGHTS | LINES):
        for flags in system:
            if all(rendered == put_together(texts, flags | thoughts, messages, generation)
                   for messages, generation, rendered in probes):
                return {"flags": flags | thoughts | prompted | dated, **texts}
    raise Underivable("what it writes around a message depends on more than the role")


def _dated(texts: dict[str, str]) -> int:
    """DATED where a date stands in the texts, each whole and of one form."""
    marked = [text for text in texts.values() if DATE_MARK in text]
    for text in marked:
        pieces = text.split(DATE_MARK)
        if len(pieces) % 2 == 0 or not all(map(DATE_FORMAT.fullmatch, pieces[1::2])):
            raise Underivable("it takes a date apart")
    return DATED if marked else 0


def put_together(texts: dict[str, str], flags: int, messages: list[dict[str, str]], generation: bool) -> str:
    """What the CHAT section says that a conversation's text is (docs/format.md)."""
    out = [texts["begin"]]
    has_system = bool(messages) and messages[0]["role"] == "system"
    lead = texts["default_system"]
    if has_system:
        stripped = flags & STRIPPED and not flags & (SYSTEM_AS_IS | WHOLE)
        content = messages[0]["content"].strip() if stripped else messages[0]["content"]
        lead = texts["system_prefix"] + content + texts["system_suffix"]
    if not flags & MERGED:
        out.append(lead)
    for number, message in enumerate(messages[has_system:]):
        inside = lead if flags & MERGED and number == 0 else ""
        content = message["content"]
        if flags & THOUGHTS and message["role"] == "assistant" and THOUGHT_END in content:
            content = content.rpartition(THOUGHT_END)[2]
            content = content.lstrip("\n") if flags & LINES else content
        content = content.strip() if flags & STRIPPED and not flags & WHOLE else content
        content = (inside + content).strip() if flags & WHOLE else inside + content
        out += [texts[message["role"] + "_prefix"], content, texts[message["role"] + "_suffix"]]
    return "".join(out) + (texts["generation_prompt"] if generation else "")


def _take_apart(renderer: Renderer, bos: str, marks: dict[str, str], system: tuple[int, ...]) -> dict[str, str]:
    """The nine texts, found between the marks that stand for contents; whether they hold in general is for the probes."""
    def around(*roles: str) -> list[str]:
        return _around(renderer.render(_messages(*((role, marks[role]) for role in roles)), False), [marks[role] for role in roles])

    head, user_suffix = around("user")
    _, between, assistant_suffix = around("user", "assistant")
    assistant_prefix = _without(between, user_suffix, "")
    user_prefix = _without(around("user", "assistant", "user2")[2], assistant_suffix, "")
    user = _messages(("user", marks["user"]))
    generation_prompt = _without(renderer.render(user, True), renderer.render(user, False), "")
    lead = _lead(around, bos, head, user_prefix, system)
    return dict(zip(PARTS, (*lead, user_prefix, user_suffix, assistant_prefix, assistant_suffix, generation_prompt), strict=True))


def _take_apart_prompted(renderer: Renderer, bos: str, marks: dict[str, str], system: tuple[int, ...]) -> dict[str, str]:
    """The same of a template that writes the generation prompt whether it is asked to or not, or something else in its place: from
    conversations that end with a question to be answered. Nothing comes before the first question but bos, so that no cut is a
    guess."""
    def around(*roles: str) -> list[str]:
        return _around(renderer.render(_messages(*((role, marks[role]) for role in roles)), True), [marks[role] for role in roles])

    head, tail = around("user")
    _, answered, asked, _ = around("user", "assistant", "user2")
    user_prefix = head[len(bos):] if head.startswith(bos) else head
    assistant_suffix = _without(asked, "", user_prefix)
    user_suffix = answered if tail.startswith(answered) else ""
    lead = _lead(around, bos, head, user_prefix, system)
    cut = len(user_suffix)
    return dict(zip(PARTS, (*lead, user_prefix, user_suffix, answered[cut:], assistant_suffix, tail[cut:]), strict=True))


def _lead(around: Callable[..., list[str]], bos: str, head: str, user_prefix: str,
          system: tuple[int, ...]) -> tuple[str, str, str, str]:
    """begin, default_system, system_prefix, system_suffix."""
    if system is IN_THE_FIRST:
        return _inside_the_first(around, bos, head, user_prefix)
    return _turn_of_its_own(around, bos, head, user_prefix, system is NONE)


def _turn_of_its_own(around: Callable[..., list[str]], bos: str, head: str, user_prefix: str,
                     none: bool) -> tuple[str, str, str, str]:
    """begin, default_system, system_prefix, system_suffix, where a system message stands before the first user's."""
    lead = _without(head, "", user_prefix)
    system_lead, system_between = (lead, user_prefix) if none else around("system", "user")[:2]
    begin = bos if bos and lead.startswith(bos) and system_lead.startswith(bos) else ""
    system_prefix = "" if none else system_lead[len(begin):]
    return begin, lead[len(begin):], system_prefix, _without(system_between, "", user_prefix)


def _inside_the_first(around: Callable[..., list[str]], bos: str, head: str, user_prefix: str) -> tuple[str, str, str, str]:
    """The same, where it stands in the first user message, behind user_prefix."""
    system_lead, system_suffix, _ = around("system", "user")
    if head.endswith(user_prefix):
        begin = head[:len(head) - len(user_prefix)]
    else:
        begin = bos if bos and head.startswith(bos + user_prefix) else ""
    return begin, _without(head, begin + user_prefix, ""), _without(system_lead, begin + user_prefix, ""), system_suffix


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
             "{{ messages }} {% raw %} <b>&amp;</b>", "<|im_end|></s>[/INST]<|eot_id|>", "<think>\nhm\n</think>\n\nyes", "x", "0",
             "so\n</think> a </think>\n \nno \n", "1")


def _probes(with_system: bool, prompted: bool) -> Iterator[tuple[list[dict[str, str]], bool]]:
    """Conversations of 1 to 5 turns, with and without a system message, ending with a question or an answer; prompted: with a
    question that is to be answered."""
    for turns in range(1, 6):
        for system in (None, "You are terse.", " Mind\nthe spaces \n") if with_system else (None,):
            for first in range(0, len(_CONTENTS), 3):
                messages = _messages(("system", system)) if system is not None else []
                for turn in range(2 * turns):
                    content = _CONTENTS[(first + turn) % len(_CONTENTS)]
                    messages = messages + _messages((("user", "assistant")[turn % 2], content))
                yield messages[:-1], True
                if prompted:
                    continue
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
