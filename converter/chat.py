"""The CHAT section of an ak42 file: a chat template boiled down to nine fixed texts, for programs that have no Jinja.

It says what the section's bytes are and asks chat_render.py, in a process with limits, what a template does. A template that
fixed texts cannot tell exactly has no section. Called by targets/ak42.py; pyllama renders templates on its own.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FormatError, OutputError, escape

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from .tokenizer import Vocab

CHAT_VERSION = 1
FLAG_STRIPPED = 1                # contents are written without outer white space
FLAG_MERGED = 2                  # the system message is a part of the first user message's content
FLAG_SYSTEM_AS_IS = 4            # with STRIPPED: but for the system message's
FLAG_NO_SYSTEM = 8               # conversations with a system message are not told
FLAG_WHOLE = 16                  # with STRIPPED and MERGED: what is stripped is the content with the system message in it
FLAG_PROMPTED = 32               # only conversations that end with a question to be answered are told
FLAG_DATED = 64                  # texts may hold today's date, as a strftime format between two U+10FFFE
FLAG_THOUGHTS = 128              # of an assistant message what stands behind its last </think> is written
FLAG_LINES = 256                 # with THOUGHTS: without line breaks at its front
_WHERE_AND_HOW = (0, 1, 2, 3, 5, 7, 8, 9, 19)       # every sum of the first five that says something


def flags_known(flags: int) -> bool:
    return flags < 512 and flags & 31 in _WHERE_AND_HOW and flags & (FLAG_THOUGHTS | FLAG_LINES) != FLAG_LINES


TEMPLATE_BYTES = 1 << 18         # longer templates are not rendered
_SECONDS = 60                    # of the clock, for a machine that is busy; the child's own limit is of its time

_CHILD = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"


@dataclass(frozen=True)
class ChatFormat:
    """A conversation is begin, then the system message or default_system, then the turns, then generation_prompt; the flags change
    this as docs/format.md says."""

    begin: str
    default_system: str          # what stands in for a system message where the first message is none
    system_prefix: str
    system_suffix: str
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str
    generation_prompt: str
    flags: int = 0

    def to_bytes(self) -> bytes:
        texts = [text.encode() for text in astuple(self)[:-1]]
        head = struct.pack("<3I", CHAT_VERSION, self.flags, len(texts))
        return head + b"".join(struct.pack("<I", len(text)) + text for text in texts)

    @classmethod
    def from_bytes(cls, data: bytes) -> ChatFormat:
        n_texts = len(fields(cls)) - 1
        if len(data) < 12 or struct.unpack_from("<I", data)[0] != CHAT_VERSION or struct.unpack_from("<I", data, 8)[0] != n_texts:
            raise FormatError(f"CHAT: expected version {CHAT_VERSION} with {n_texts} texts, found {data[:12].hex()}")
        flags = struct.unpack_from("<I", data, 4)[0]
        if not flags_known(flags):
            raise FormatError(f"CHAT: flags: expected a sum of those that are known, found {flags}")
        texts, offset = [], 12
        for _ in range(n_texts):
            size = struct.unpack_from("<I", data, offset)[0] if offset + 4 <= len(data) else 0
            if offset + 4 + size > len(data):
                raise FormatError(f"CHAT: expected {n_texts} texts, found the end of the section in text {len(texts)}")
            try:
                texts.append(data[offset + 4:offset + 4 + size].decode())
            except UnicodeDecodeError:
                raise FormatError(f"CHAT: text {len(texts)}: expected UTF-8") from None
            offset += 4 + size
        if offset != len(data):
            raise FormatError(f"CHAT: expected {offset} bytes, found {len(data)}")
        return cls(*texts, flags=flags)


def derive_chat(template: str, vocab: Vocab | None) -> bytes | None:
    """The CHAT section of a template; None where fixed texts cannot tell it (explain_chat says why)."""
    chat, _ = explain_chat(template, vocab)
    return chat.to_bytes() if chat else None


def explain_chat(template: str, vocab: Vocab | None) -> tuple[ChatFormat | None, str]:
    """What derive_chat finds, or None and the reason in a few words."""
    tokens = {}
    if vocab is not None:
        ids = {"bos_token": vocab.bos_id, "eos_token": vocab.eos_ids[0] if vocab.eos_ids else -1, "unk_token": vocab.unk_id,
               "pad_token": vocab.pad_id}
        tokens = {name: vocab.tokens[token].decode("utf-8", "replace") for name, token in ids.items() if token >= 0}
    return _explain(template, tuple(sorted(tokens.items())))


def make_environment() -> ImmutableSandboxedEnvironment:
    """The Jinja environment of a derivation. Only the process with limits should render strangers' templates in it."""
    from . import chat_render
    return chat_render.make_environment()


@lru_cache(maxsize=8)
def _explain(template: str, special_tokens: tuple[tuple[str, str], ...]) -> tuple[ChatFormat | None, str]:
    if len(template.encode("utf-8", "surrogatepass")) > TEMPLATE_BYTES:
        return None, f"it is longer than {TEMPLATE_BYTES} bytes"
    question = json.dumps({"template": template, "special_tokens": dict(special_tokens)})
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), str(Path(__file__).with_name("chat_render.py"))]
    try:
        child = subprocess.run(command, input=question, capture_output=True, text=True, encoding="utf-8", timeout=_SECONDS,
                               check=False)
    except subprocess.TimeoutExpired:
        return None, "it takes too long"
    except OSError as error:
        raise OutputError(f"chat template: a process to render it: {error.strerror}") from error
    if child.returncode < 0:
        return None, "it takes too long"
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return None, f"rendering it ended with {child.returncode}: {escape(last)}"
    answer = json.loads(child.stdout)
    if "reason" in answer:
        return None, escape(answer["reason"], 200)
    return ChatFormat(**answer["chat"]), ""
