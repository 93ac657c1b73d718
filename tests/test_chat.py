"""The CHAT section: what is derived from a template renders every conversation as the template does in transformers, or nothing is
derived and a reason is given; strangers' templates cost little and reach nothing.
"""
from __future__ import annotations

import re
import struct
import subprocess
import time
from pathlib import Path

import models
import pytest
from converter import chat
from converter.chat import FLAG_NO_SYSTEM, FLAG_PROMPTED, FLAG_STRIPPED, ChatFormat, derive_chat, explain_chat, flags_known, make_environment
from converter.errors import FormatError, OutputError
from plans import FakeVocab

CHATML_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
HEADERS = (                                              # Llama 3's manner: contents are trimmed, BOS once
    "{% for message in messages %}"
    "{% set content = '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim + '<|eot|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}")
LINES = (                                                # written over lines, as chat_template.jinja files are
    "{{ bos_token }}\n{%- for message in messages %}\n    {%- if message.role == 'system' %}\n"
    "        {{- '<<SYS>>' + message.content + '<</SYS>>' }}\n"
    "    {%- elif message.role == 'user' %}\n        {{- '[INST]' + message.content + '[/INST]' }}\n"
    "    {%- else %}\n"
    "        {%- generation %}{{- message.content + eos_token }}{%- endgeneration %}\n    {%- endif %}\n{%- endfor %}")
# The system message in front of the first question, inside what is trimmed (Llama 2's manner), inside what is not (Gemma 3's), with
# white space of its own taken away; and none at all (Mistral's first).
INSIDE = (
    "{% set first = messages[0] %}{% set rest = messages[1:] if first.role == 'system' else messages %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "{% set text = '((' + first.content + '))\n\n' + m.content if loop.first and first.role == 'system' else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[Q] ' + text.strip() + ' [A]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}")
BEFORE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set lead = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set lead = '' %}{% endif %}{% for m in messages %}{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ lead if loop.first else '' }}{{ m.content | trim + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}")
TRIMMED = BEFORE.replace("messages[0].content +", "(messages[0].content | trim) +")
PLAIN = BEFORE.replace(" | trim", "")
DEFAULT = PLAIN.replace("{% set lead = '' %}", "{% set lead = 'Be good.\n' %}")
REFUSING = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}"
    "{% endif %}{% if m.role == 'user' %}{{ '[Q] ' + m.content + ' [A]' }}{% elif m.role == 'assistant' %}{{ m.content + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}")
LAST = (                                                 # the system message goes with the last question, so with no turn for good
    "{{ bos_token }}{% set s = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if s else messages) %}{% if m.role == 'user' %}{{ '[Q]' + (s if loop.last else '') + m.content + '[A]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}")
SYSTEM_AS_IS = HEADERS.replace("message['content'] | trim", "(message['content'] if message['role'] == 'system' else message['content'] | trim)")
ASKING = HEADERS.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")             # Llama 3's first
ENDING = (                                               # Phi-3's manner
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")
MARKED = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if loop.last %}!{% endif %}\n{% endfor %}"
CHATML = (
    "{% for m in messages %}%SET%{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
BEHIND = "{% set text = m.content %}{% if m.role == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
THINKING = CHATML.replace("%SET%", BEHIND.replace("[-1]", "[-1].lstrip('\n')"))                                # Qwen 3's manner
REASONING = CHATML.replace("%SET%", BEHIND).replace("assistant\n'", "assistant\n<think>\n'")                # DeepSeek R1's
TODAY = "{{ 'It is ' + strftime_now('%A, %d %b %Y') + '.\n' }}"
DATED = CHATML.replace("%SET%", "{% set text = (" + TODAY.strip("{} ") + ") + m.content if m.role == 'system' else m.content %}")
FLAGGED = {"inside": (INSIDE, 19), "before": (BEFORE, 7), "trimmed": (TRIMMED, 3), "plain": (PLAIN, 2), "default": (DEFAULT, 2),
           "refusing": (REFUSING, 8), "refusing, trimmed": (REFUSING.replace("m.content", "m.content.strip()"), 9), "last": (LAST, 8),
           "system as it is": (SYSTEM_AS_IS, 5), "asking": (ASKING, 33), "ending": (ENDING, 32), "marked": (MARKED, 32),
           "thinking": (THINKING, 384), "reasoning": (REASONING, 128), "today": (TODAY + models.CHATML, 64), "dated": (DATED, 64),
           "all at once": (ASKING.replace("message['content'] |", "(text.split('</think>')[-1] if message['role'] == 'assistant' else text) |")
                          .replace("{% set content", "{% set text = message['content'] %}{% set content", 1)
                          .replace("+ '<|end|>", "+ strftime_now(' on %A') + '<|end|>"), 225)}
EXPRESSIBLE = {"chatml": models.CHATML, "instruct": models.INSTRUCT, "chatml default": CHATML_DEFAULT, "headers": HEADERS,
               "lines": LINES, **{name: template for name, (template, _) in FLAGGED.items()},
               "break": "{% for m in messages %}{{ m.role }}={{ m.content }};{% if false %}{% break %}{% endif %}{% endfor %}"
                        "{% if add_generation_prompt %}assistant={% endif %}"}

INEXPRESSIBLE = {
    "no roles": ("{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users only') }}{% endif %}"
                 "[{{ m.content }}]{% endfor %}", "users only"),
    "thoughts": (models.CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"), "role"),
    "counts": ("{% for m in messages %}{{ loop.index }}{{ m.role }}:{{ m.content }}\n{% endfor %}", "neighbours"),
    "last answer": ("{% for m in messages %}{{ m.role }}:{{ m.content }}{% if loop.index == messages | length - 1 %}!{% endif %}\n{% endfor %}",
                    "neighbours"),
    "trims one role": (
        "{% for m in messages %}{{ m.role }}:{{ m.content | trim if m.role == 'user' else m.content }}\n{% endfor %}",
        "role"),
    "twice": ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "exactly once"),
    "json": ("{{ messages | tojson }}", "neighbours"),
    "upper": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "exactly once"),
    "length": ("{% for m in messages %}{{ m.role }}:{{ m.content | length }}{{ m.content }}{% endfor %}", "neighbours"),
    "odd date": ("{{ strftime_now('%U') }}" + models.CHATML, "date"),
    "long date": ("{{ strftime_now('%d' * 65) }}" + models.CHATML, "date"),
    "part of a date": ("{{ strftime_now('%d %b %Y')[:2] }}" + models.CHATML, "apart"),
    "loud date": ("{{ strftime_now('%d %b %Y') | upper }}" + models.CHATML, "apart"),
    "no character": ("\U0010fffe" + models.CHATML, "no character"),
    "first five": ("{% for m in messages %}{% if loop.index > 8 %}{% break %}{% endif %}{{ m.role }}:{{ m.content }}\n{% endfor %}",
                   "role"),
    "empty": ("", "exactly once"),
    "syntax": ("{% for", "TemplateSyntaxError"),
    "include": ("{% include '/etc/passwd' %}", "fails"),
    "random": ("{{ ['a', 'b'] | random }}" + models.CHATML, "random"),
}


@pytest.mark.parametrize("name", list(EXPRESSIBLE))
def test_it_renders_what_transformers_renders(name: str) -> None:
    chat_template = pytest.importorskip("transformers.utils.chat_template_utils")
    template = EXPRESSIBLE[name]
    found, reason = explain_chat(template, FakeVocab())
    assert found is not None, reason
    conversations = [
        [("user", "Hi")], [("system", "Be brief. "), ("user", "  Hi\n"), ("assistant", "Yes?"),
                          ("user", "Why <|im_end|> {{ x }}?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " d ")],
        [("user", "a</think>b"), ("assistant", "\n<think>\nhm </think>\n\n so\n"), ("user", "c")],
        [("system", "\n s "), ("user", " \n")], [("user", "\u3000é\x1f"), ("assistant", " "), ("user", "")]]
    if found.flags & FLAG_NO_SYSTEM:
        conversations = [conversation for conversation in conversations if conversation[0][0] != "system"]
    for conversation in conversations:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for generation in (False, True):
            if found.flags & FLAG_PROMPTED and not (generation and messages[-1]["role"] == "user"):
                continue
            expected, _ = chat_template.render_jinja_template([messages], chat_template=template, add_generation_prompt=generation,
                                                              bos_token="<s>", eos_token="</s>", unk_token="<unk>")
            assert _put_together(found, messages, generation) == expected[0]


def _put_together(found: ChatFormat, messages: list[dict[str, str]], generation: bool) -> str:
    """docs/format.md's rule."""
    def stripped(text: str) -> str:
        return text.strip() if found.flags & 1 else text

    def told(message: dict[str, str]) -> str:
        _, end, rest = message["content"].rpartition("</think>")
        if not (found.flags & 128 and end and message["role"] == "assistant"):
            return message["content"]
        return rest.lstrip("\n") if found.flags & 256 else rest

    system, turns = (messages[0]["content"], messages[1:]) if messages[0]["role"] == "system" else (None, messages)
    if system is None:
        lead = found.default_system
    else:
        lead = found.system_prefix + (system if found.flags & (4 | 16) else stripped(system)) + found.system_suffix
    contents = [stripped(told(message)) for message in turns]
    if found.flags & 2:
        contents[0] = (lead + turns[0]["content"]).strip() if found.flags & 16 else lead + contents[0]
    text = found.begin + ("" if found.flags & 2 else lead)
    for message, content in zip(turns, contents, strict=True):
        text += getattr(found, message["role"] + "_prefix") + content + getattr(found, message["role"] + "_suffix")
    text += found.generation_prompt if generation else ""
    return re.sub("\U0010fffe(.*?)\U0010fffe", lambda match: time.strftime(match[1]), text) if found.flags & 64 else text


@pytest.mark.parametrize("name", list(FLAGGED))
def test_the_flags_of_a_template(name: str) -> None:
    template, flags = FLAGGED[name]
    found, reason = explain_chat(template, FakeVocab())
    assert found is not None and found.flags == flags, reason
    assert ChatFormat.from_bytes(found.to_bytes()) == found


def test_the_parts_of_a_known_template() -> None:
    found, _ = explain_chat(CHATML_DEFAULT, FakeVocab())
    assert found == ChatFormat(
        begin="", default_system="<|im_start|>system\nYou are helpful.<|im_end|>\n", system_prefix="<|im_start|>system\n",
        system_suffix="<|im_end|>\n", user_prefix="<|im_start|>user\n", user_suffix="<|im_end|>\n",
        assistant_prefix="<|im_start|>assistant\n", assistant_suffix="<|im_end|>\n", generation_prompt="<|im_start|>assistant\n")
    trimmed, _ = explain_chat(HEADERS, FakeVocab())
    assert trimmed.flags == FLAG_STRIPPED and trimmed.begin == "<s>" and trimmed.default_system == ""


@pytest.mark.parametrize("name", list(INEXPRESSIBLE))
def test_what_fixed_texts_cannot_tell_is_left_out(name: str) -> None:
    template, word = INEXPRESSIBLE[name]
    found, reason = explain_chat(template, FakeVocab())
    assert found is None and word in reason and reason.isprintable() and len(reason) <= 200
    assert derive_chat(template, FakeVocab()) is None


def test_without_a_vocabulary() -> None:
    assert derive_chat(models.CHATML, None) == derive_chat(models.CHATML, FakeVocab())
    found, reason = explain_chat("{{ bos_token + 'x' }}" + models.CHATML, None)
    assert found is None and "bos_token" in reason


# ---- the bytes ----


def test_golden_bytes() -> None:
    section = derive_chat(models.CHATML, FakeVocab())
    texts = [b"", b"", b"<|im_start|>system\n", b"<|im_end|>\n", b"<|im_start|>user\n", b"<|im_end|>\n", b"<|im_start|>assistant\n",
             b"<|im_end|>\n", b"<|im_start|>assistant\n"]
    assert section == bytes.fromhex("010000000000000009000000") + b"".join(struct.pack("<I", len(text)) + text for text in texts)
    assert ChatFormat.from_bytes(section).to_bytes() == section
    stripped = derive_chat(HEADERS, FakeVocab())
    assert stripped[4:8] == b"\1\0\0\0" and ChatFormat.from_bytes(stripped).to_bytes() == stripped


def test_damaged_sections_are_refused() -> None:
    section = derive_chat(HEADERS, FakeVocab())
    damaged = [section[:end] for end in range(len(section))] + [section + b"\0"]
    known = {manner + more for manner in (0, 1, 2, 3, 5, 7, 8, 9, 19) for more in (*range(0, 256, 32), *range(384, 512, 32))}
    assert known == {flags for flags in range(2048) if flags_known(flags)}
    damaged += [section[:4] + struct.pack("<I", flags) + section[8:] for flags in (*range(600), 1 << 31) if flags not in known]
    damaged += [struct.pack("<I", 2) + section[4:], section[:8] + b"\x08" + section[9:],
                section[:12] + b"\xff\xff\xff\xff" + section[16:], section[:16] + b"\xff" + section[17:]]
    for data in damaged:
        with pytest.raises(FormatError, match="CHAT: "):
            ChatFormat.from_bytes(data)


# ---- strangers' templates ----

HOSTILE = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{% set x = 'a' * 10 ** 10 %}{{ x }}",
    "doubling": "{% set ns = namespace(x='a' * 1000) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "output": "{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}",
    "width": "{{ 'a'.ljust(10 ** 10) }}{{ '%1000000000d' % 1 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "attr": "{{ ''|attr('__class__') }}",
    "format": "{{ '{0.__class__}'.format('') }}",
    "mutation": "{% set _ = messages.append({}) %}" + models.CHATML,
    "nul": "\0\ud800",
    "long": "{# " + "x" * (1 << 18) + " #}" + models.CHATML,
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_templates(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.monotonic()
    found, reason = explain_chat(HOSTILE[name], FakeVocab())
    assert found is None and reason and "\n" not in reason
    assert time.monotonic() - begin < 30 and not list(tmp_path.iterdir())


def test_the_child_imports_nothing_from_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit(5)")
    (tmp_path / "json.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    assert derive_chat(models.CHATML + "{# here #}", FakeVocab()) is not None


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments, **_keywords):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(OutputError, match="temporarily"):
        derive_chat(models.CHATML + "{# not asked before #}", FakeVocab())


def test_the_environment_is_transformers_own() -> None:
    environment = make_environment()
    assert environment.trim_blocks and environment.lstrip_blocks and environment.loader is None
    assert environment.from_string("{{ {'b': 'é<', 'a': 1} | tojson }}").render() == '{"b": "é<", "a": 1}'
    assert environment.from_string("{{ x | tojson(indent=2) }}").render(x=[1]) == "[\n  1\n]"
    with pytest.raises(Exception, match="mind"):
        environment.from_string("{{ raise_exception('mind') }}").render()


def test_the_answer_is_kept() -> None:
    derive_chat(models.CHATML, FakeVocab())
    before = chat._explain.cache_info().hits
    derive_chat(models.CHATML, FakeVocab())
    assert chat._explain.cache_info().hits == before + 1
