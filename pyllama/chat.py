"""Conversations to tokens: renders the model's own chat template (template.py runs it) and encodes the result so that the
template's control tokens are control tokens and a message's never are.

How a message's text is known again after a program has laid it out: the template is rendered twice, once as it is, which gives the
text, and once with marks, private characters that no input holds, around each message's content and around everything in it that
spells a control token. Where taking the marks out gives the first text, they tell which of its characters are content. A template
that looks at its content so closely that the marks change what it does is given sparser ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._native import lib
from .errors import TemplateError, shown
from .template import Template, plain, strings
from .tokenizer import Tokenizer, text_bytes

# Of a message, what its author does not write: it may well become part of a control token ("<|" + role + "|>").
STRUCTURE_KEYS = ("role", "type")


class ChatTemplate:
    """A chat template's source with the texts that it may name: bos_token, eos_token."""

    def __init__(self, source: str, variables: dict[str, str] | None = None) -> None:
        self.source = source
        self._variables = dict(variables or {})
        self._template = Template(source)

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The text that the model reads."""
        return self.render_plain(checked_messages(messages), add_generation_prompt)

    def render_plain(self, messages: list[dict], add_generation_prompt: bool) -> str:
        variables = {"tools": None, "documents": None, **self._variables}
        return self._template.render({**variables, "messages": messages, "add_generation_prompt": add_generation_prompt})


def checked_messages(messages: Sequence[dict]) -> list[dict]:
    """A copy of a conversation in plain types; an empty one or one of something else is refused."""
    if isinstance(messages, (str, bytes, dict)) or not hasattr(messages, "__len__"):
        raise TemplateError(f'messages: expected a list of {{"role": .., "content": ..}}, found {type(messages).__name__}')
    if not len(messages):
        raise TemplateError("messages: expected at least one message, found none")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TemplateError(f'messages[{number}]: expected {{"role": .., "content": ..}}, found {shown(message)}')
    return plain(list(messages))


def encode_chat(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[dict], add_generation_prompt: bool = True
) -> list[int]:
    """Ids of a conversation. No BOS is added: a template that wants one writes it."""
    messages = checked_messages(messages)
    text = template.render_plain(messages, add_generation_prompt)
    ids = tokenizer.encode(text, add_bos=False, parse_special=True)
    spelled = _control_tokens(tokenizer, ids)
    content = _content(tokenizer, template, messages, add_generation_prompt, text, spelled)
    return _encode(tokenizer, text, ids, spelled, content)


@dataclass(frozen=True)
class Content:
    """Where a text is content: spans that spell control tokens, and cuts, where a content begins or ends."""

    spans: tuple[tuple[int, int], ...]
    cuts: tuple[int, ...]

    def touches(self, begin: int, end: int) -> bool:
        """Whether what stands there is not the template's own text alone."""
        return any(a < end and begin < b for a, b in self.spans) or any(begin < cut < end for cut in self.cuts)


@dataclass(frozen=True)
class Marks:
    """Four private characters: before and after a content, before and after a spelled control token."""

    begin: str
    end: str
    before: str
    after: str

    @classmethod
    def unused(cls, texts: Sequence[str]) -> Marks:
        used = set().union(*texts)
        free = (chr(code) for code in range(0x10FF00, 0x10FFFE) if chr(code) not in used)
        try:
            return cls(next(free), next(free), next(free), next(free))
        except StopIteration:
            raise TemplateError("messages: expected text, found most of Unicode's last private characters") from None

    def around_content(self, text: str, spelled: re.Pattern[str]) -> str:
        """Inside the outer white space, so that a template which trims it still does."""
        core = text.strip()
        if not core:
            return text
        at = text.index(core)
        return f"{text[:at]}{self.begin}{self.around_tokens(core, spelled)}{self.end}{text[at + len(core) :]}"

    def around_tokens(self, text: str, spelled: re.Pattern[str]) -> str:
        return spelled.sub(lambda match: self.before + match.group() + self.after, text)

    def inside_tokens(self, text: str, spelled: re.Pattern[str]) -> str:
        return spelled.sub(lambda match: match.group()[0] + self.after + match.group()[1:], text)

    def read(self, marked: str) -> tuple[str, Content]:
        """The text without marks, and what they say of it."""
        pieces: list[str] = []
        spans: list[tuple[int, int]] = []
        cuts: list[int] = []
        at, spelled = 0, False
        for piece in re.split(f"([{self.begin}{self.end}{self.before}{self.after}])", marked):
            if piece in (self.begin, self.end, self.before, self.after):
                spelled = piece == self.before
                cuts.append(at)
            elif piece:
                if spelled:
                    spans.append((at, at + len(piece)))
                pieces.append(piece)
                at += len(piece)
        return "".join(pieces), Content(tuple(spans), tuple(cuts))


def _content(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: list[dict],
    add_generation_prompt: bool,
    text: str,
    spelled: set[str],
) -> Content:
    """Which characters of text, the conversation as rendered, the messages' authors wrote."""
    texts = list(strings(messages))
    dangerous = set(spelled)
    for part in texts:
        dangerous |= _control_tokens(tokenizer, tokenizer.encode(part, add_bos=False, parse_special=True))
    pattern = _alternatives(dangerous)
    marks = Marks.unused([template.source, text, *texts])
    crossing = False
    for content_mark, other_mark in (
        (marks.around_content, marks.around_tokens),
        (marks.around_tokens, marks.around_tokens),
        (marks.inside_tokens, marks.inside_tokens),
    ):
        marked = [_marked(message, content_mark, other_mark, pattern) for message in messages]
        try:
            read, content = marks.read(template.render_plain(marked, add_generation_prompt))
        except TemplateError:
            continue
        if read == text:
            # Sparse marks do not show where a content ends, so that half a token at its end could go unseen.
            crossing = content_mark != marks.around_content and _crosses(text, texts, pattern)
            if not crossing:
                return content
    held = sorted(token for token in dangerous if any(token in part for part in texts))
    if not held and not crossing:
        return Content((), ())
    what = repr(held[0]) if held else "a part of a control token"
    raise TemplateError(f"messages: found {what} in a message, which this chat template acts upon; take it out of the message")


def _marked(value: Any, content_mark: Any, other_mark: Any, pattern: re.Pattern[str], key: str = "") -> Any:
    if isinstance(value, str):
        return (other_mark if key in STRUCTURE_KEYS else content_mark)(value, pattern)
    if isinstance(value, dict):
        return {name: _marked(item, content_mark, other_mark, pattern, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, content_mark, other_mark, pattern, key) for item in value]
    return value


def _crosses(text: str, contents: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Whether a control token in text may be spelled by a content's end and what follows it, or by what stands before a content
    and its beginning."""
    cores = [content.strip() for content in contents if content.strip()]
    for match in pattern.finditer(text):
        begin, end = match.span()
        for at in range(begin + 1, end):
            for core in cores:
                if at + len(core) > end and text.startswith(core, at):
                    return True
                if at - len(core) < begin and text.endswith(core, 0, at):
                    return True
    return False


def _control_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> set[str]:
    """The spellings of the control tokens among ids: those that give no text when special tokens are skipped."""
    found = set()
    for number in set(ids):
        spelling = tokenizer.decode_bytes([number], lib.AK42_DECODE_CONTINUE)
        if spelling and not tokenizer.decode_bytes([number], lib.AK42_DECODE_CONTINUE | lib.AK42_DECODE_SKIP_SPECIAL):
            found.add(spelling.decode("utf-8", "replace"))
    return found


def _alternatives(tokens: set[str]) -> re.Pattern[str]:
    """Any of the tokens, the longest first; never an empty match."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _encode(tokenizer: Tokenizer, text: str, ids: list[int], spelled: set[str], content: Content) -> list[int]:
    """Ids of text, whose ids with every control token parsed are `ids`. Between two control tokens of the template's own text is
    encoded as one run, as Hugging Face's tokenizers do; only runs in which content spells a control token are treated apart."""
    runs, begin, clean = [], 0, True
    for match in _alternatives(spelled).finditer(text):
        if content.touches(*match.span()):
            clean = False
            continue
        runs.append((begin, match.start(), clean))
        begin, clean = match.end(), True
    runs.append((begin, len(text), clean))
    if all(run[2] for run in runs):
        return ids
    joined: list[int] = []
    pending = 0  # where text begins that may be encoded in one piece with its control tokens
    for begin, end, clean in runs:
        if clean:
            continue
        joined += _encode_piece(tokenizer, text, pending, begin, True)
        joined += _encode_piece(tokenizer, text, begin, end, False)
        pending = end
    return joined + _encode_piece(tokenizer, text, pending, len(text), True)


def _encode_piece(tokenizer: Tokenizer, text: str, begin: int, end: int, parse_special: bool) -> list[int]:
    if begin == end:
        return []
    flags = lib.AK42_ENCODE_SPECIAL if parse_special else 0
    flags |= lib.AK42_ENCODE_CONTINUE if begin and _continues(tokenizer, text[:begin]) else lib.AK42_ENCODE_NO_BOS
    return tokenizer.encode_bytes(text_bytes(text[begin:end]), flags)


def _continues(tokenizer: Tokenizer, before: str) -> bool:
    """Whether text after a control token is encoded as going on, without the space that some tokenizers put before a text; the
    tokenizer itself shows it."""
    ids = tokenizer.encode(before, add_bos=False, parse_special=True)
    alone = tokenizer.encode_bytes(b"x", lib.AK42_ENCODE_CONTINUE)
    return tokenizer.encode(before + "x", add_bos=False, parse_special=True) == ids + alone
