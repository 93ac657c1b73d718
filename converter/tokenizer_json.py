"""Hugging Face's tokenizer.json (and tokenizer_config.json) to a Vocab: every component is translated or refused by name.

Parsed JSON in, Vocab out; the way back is tokenizer_json_writer.py. What the components mean was settled by comparing ids with the
`tokenizers` package, which the tests do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import tokenizer_steps as steps
from .errors import FormatError, UnsupportedError, escape
from .tokenizer import (
    ADDED_BYTES_MAX,
    ADDED_ONLY,
    ALSO_BYTE,
    BYTE,
    CONTROL,
    LSTRIP,
    NORMAL,
    NORMALIZED,
    RSTRIP,
    SINGLE_WORD,
    UNKNOWN,
    USER,
    Vocab,
    byte_value,
)
from .tokenizer_regex import check_pattern
from .tokenizer_steps import Step

IDS_MAX = 1 << 20
FILE = "tokenizer.json"


# ---- typed access: every wrong type is one line that says where ----


def _names(kind: type | tuple[type, ...]) -> str:
    words = {dict: "an object", list: "an array", str: "a string", bool: "a bool", int: "an integer", float: "a number"}
    return " or ".join(words[one] for one in (kind if isinstance(kind, tuple) else (kind,)))


def _get(owner: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str, default: Any = ...) -> Any:
    """owner[key] of a type; null and absent give the default, where there is one."""
    value = owner.get(key)
    if value is None and default is not ...:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = "nothing" if value is None else type(value).__name__
        raise FormatError(f"{FILE}: {where}.{key}: expected {_names(kind)}, found {found}")
    return value


def _component(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{FILE}: {where}: expected an object, found {type(value).__name__}")
    return _get(value, "type", str, where), value


def _flatten(value: Any, key: str, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """A component, or the components of a Sequence, nested or not; null: none."""
    if value is None:
        return []
    name, body = _component(value, where)
    if name != "Sequence":
        return [(name, body)]
    found = []
    for item in _get(body, key, list, where):
        inner, inner_body = _component(item, where)
        if inner == "Sequence":
            raise UnsupportedError(f"{FILE}: {where}: a Sequence within a Sequence is not supported")
        found.append((inner, inner_body))
    return found


def _unsupported(where: str, name: str) -> UnsupportedError:
    return UnsupportedError(f"{FILE}: {where} {escape(name)} is not supported")


def _pattern(body: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """{"String": ..} or {"Regex": ..}: the text, and whether it is a regular expression."""
    pattern = _get(body, "pattern", (dict, str), where)
    if isinstance(pattern, str):
        return pattern, False
    if len(pattern) != 1 or next(iter(pattern)) not in ("String", "Regex"):
        raise FormatError(f"{FILE}: {where}.pattern: expected String or Regex, found {escape(', '.join(map(str, pattern)))}")
    text = _get(pattern, next(iter(pattern)), str, where)
    if not text or len(text.encode()) > steps.STEP_BYTES_MAX // 2:
        raise UnsupportedError(f"{FILE}: {where}.pattern: expected 1 to {steps.STEP_BYTES_MAX // 2} bytes, found another length")
    return text, "Regex" in pattern


# ---- normalizer ----


def _normaliser(value: Any) -> list[Step]:
    found = []
    for name, body in _flatten(value, "normalizers", "normalizer"):
        where = f"normalizer {name}"
        if name == "Prepend":
            text = _get(body, "prepend", str, where)
            if not text:
                continue
            found.append(steps.prepend(text))
        elif name == "Replace":
            text, regex = _pattern(body, where)
            _add_replace(found, text, _get(body, "content", str, where), regex)
        elif name == "Strip":
            flags = (steps.STRIP_LEFT if _get(body, "strip_left", bool, where) else 0) | (
                steps.STRIP_RIGHT if _get(body, "strip_right", bool, where) else 0)
            found.append(Step(steps.STRIP, flags))
        elif name == "NFC":
            found.append(Step(steps.NFC))
        else:
            raise _unsupported("normalizer", name)
    return found


# What the writer says for a strip of plain spaces alone, or of marks.
STRIP_PATTERNS = {r"\A +": steps.STRIP_LEFT | steps.STRIP_SPACES, r" +\z": steps.STRIP_RIGHT | steps.STRIP_SPACES,
                  f"{steps.MARK}+\\z": steps.STRIP_RIGHT | steps.STRIP_MARKS}


def _add_replace(found: list[Step], text: str, content: str, regex: bool) -> None:
    if regex and not content and text in STRIP_PATTERNS:
        flags = STRIP_PATTERNS[text]
        if found and flags & found[-1].flags & steps.STRIP_SPACES and found[-1].op == steps.STRIP:
            flags |= found.pop().flags
        found.append(Step(steps.STRIP, flags))
        return
    if regex:
        check_pattern(text, f"{FILE}: normalizer Replace")
    found.append(steps.replace(text, content, regex))


# ---- pre_tokenizer ----


def _behaviour(body: Mapping[str, Any], where: str, default: Any = ...) -> str:
    name = _get(body, "behavior", str, where, default)
    if name not in steps.BEHAVIOURS:
        raise UnsupportedError(f"{FILE}: {where}: behavior {escape(name)} is not supported")
    return name


def _metaspace(body: Mapping[str, Any], where: str) -> list[Step]:
    mark = _get(body, "replacement", str, where, steps.MARK)
    legacy = "always" if _get(body, "add_prefix_space", bool, where, True) else "never"
    scheme = _get(body, "prepend_scheme", str, where, legacy)
    if scheme not in ("first", "always", "never"):
        raise UnsupportedError(f"{FILE}: {where}: prepend_scheme {escape(scheme)} is not supported")
    found = [steps.replace(" ", mark)]
    if scheme != "never":
        found.append(steps.prepend(mark, steps.PREPEND_UNLESS_THERE | (steps.PREPEND_FIRST if scheme == "first" else 0)))
    if _get(body, "split", bool, where, True):
        found.append(steps.split(mark, "MergedWithNext", literal=True))
    return found


def _pre_tokenizer(value: Any) -> tuple[list[Step], bool]:
    """The steps, and whether ByteLevel is among them."""
    found: list[Step] = []
    byte_level = False
    for name, body in _flatten(value, "pretokenizers", "pre_tokenizer"):
        where = f"pre_tokenizer {name}"
        if name == "Split":
            text, regex = _pattern(body, where)
            if regex:
                check_pattern(text, f"{FILE}: {where}")
            found.append(steps.split(text, _behaviour(body, where), _get(body, "invert", bool, where, False), not regex))
        elif name == "Digits":
            found.append(steps.digits(_get(body, "individual_digits", bool, where)))
        elif name == "Punctuation":
            found.append(steps.punctuation(_behaviour(body, where, "Isolated")))
        elif name == "Metaspace" and not byte_level:
            found += _metaspace(body, where)
        elif name == "WhitespaceSplit":
            found.append(steps.split(r"\s", "Removed"))
        elif name == "CharDelimiterSplit":
            found.append(steps.split(_get(body, "delimiter", str, where), "Removed", literal=True))
        elif name == "ByteLevel" and not byte_level:
            if _get(body, "add_prefix_space", bool, where):
                found.append(steps.prepend(" ", steps.PREPEND_UNLESS_THERE))
            if _get(body, "use_regex", bool, where, True):
                found.append(steps.SPLIT_GPT2)
            found.append(steps.BYTE_LEVEL_STEP)
            byte_level = True
        else:
            raise _unsupported("pre_tokenizer", name)
    if found and found[-1] == steps.BYTE_LEVEL_STEP:       # nothing sees the letters: the merges take the bytes as they are
        found.pop()
    return found, byte_level


_AFTER_MAX = 1 << 22          # characters


def _after(step: Step, text: str) -> set[str]:
    """What a normaliser's step may make of a text: of a regular expression beyond Python's own it is not known what matches."""
    if step.op == steps.STRIP:
        return {text.strip(" " if step.flags & steps.STRIP_SPACES else steps.MARK if step.flags & steps.STRIP_MARKS else None)}
    if step.op != steps.REPLACE:
        return {step.data.decode() + text}
    pattern, content = steps.replace_parts(step)
    if len(text) * len(content) > _AFTER_MAX:
        return {content}                   # as long as nothing is taken away it does not matter
    if not step.flags & steps.REPLACE_REGEX:
        return {text.replace(pattern, content)}
    try:
        return {re.sub(pattern, lambda _: content, text)}
    except re.error:
        return {text, content}


def _check_left(normaliser: list[Step], added: Mapping[int, Mapping[str, Any]]) -> None:
    """An added token of which the normaliser leaves nothing would be found everywhere."""
    for token in added.values():
        texts = {token["content"]} if token.get("normalized") else set()
        for step in normaliser:
            texts = {after for text in texts for after in _after(step, text)}
            if "" in texts:
                raise UnsupportedError(f"{FILE}: added token {escape(token['content'])}: expected a text that the normalizer "
                                       "leaves something of, found none: not supported")


def _check_first(normaliser: list[Step], pre_tokenizer: list[Step], normalized: bool) -> None:
    """Metaspace's "first" is about the original text: a piece that holds the first character's place. The runtime asks for the
    beginning of the normalised text, which is the same as long as each character has its own place. `normalized`: added tokens
    cut the normalised text."""
    prefixes = [i for i, step in enumerate(pre_tokenizer) if step.op == steps.PREPEND]
    place = next((i for i in reversed(prefixes) if pre_tokenizer[i].flags & steps.PREPEND_FIRST), None)
    if place is None:
        return
    grows = False                          # more than one character may have the place of the first one
    for step in normaliser:
        text, content = steps.replace_parts(step) if step.op == steps.REPLACE else ("", "")
        if step.op == steps.REPLACE and (step.flags & steps.REPLACE_REGEX or len(text) != 1 or not content):
            raise _unsupported("pre_tokenizer Metaspace", f'with prepend_scheme "first" behind a Replace of {text}')
        if step.op == steps.STRIP and step.flags & steps.STRIP_LEFT and grows:
            raise _unsupported("pre_tokenizer Metaspace", 'with prepend_scheme "first" behind a Strip of what the normalizer wrote')
        grows = grows or step.op in (steps.PREPEND, steps.NFC) or len(content) > 1
    if grows and (normalized or place > 1):
        raise _unsupported("pre_tokenizer Metaspace",
                           'with prepend_scheme "first" behind a normalizer that lengthens the text, and cuts')
    if prefixes[0] < place:
        raise _unsupported("pre_tokenizer Metaspace", 'with prepend_scheme "first" behind another')


def _without_idle_split(normaliser: list[Step], pre_tokenizer: list[Step]) -> list[Step]:
    """Gemma's tokenizer splits at spaces after all of them have become marks: there is nothing to split."""
    if not normaliser or not pre_tokenizer or normaliser[-1].op != steps.REPLACE or normaliser[-1].flags & steps.REPLACE_REGEX:
        return pre_tokenizer
    pattern, replacement = steps.replace_parts(normaliser[-1])
    first = pre_tokenizer[0]
    idle = first.op == steps.SPLIT and first.flags & steps.SPLIT_LITERAL and not first.flags & steps.SPLIT_INVERT and \
        first.data == pattern.encode() == b" " and " " not in replacement
    return pre_tokenizer[1:] if idle else pre_tokenizer


# ---- decoder ----


@dataclass(frozen=True)
class _Decoding:
    spaces: Step | None = None
    strip: bool = False
    bytes: bool = False


# The parts of a SentencePiece vocabulary's decoder, in the order in which each has the effect that the runtime gives it.
_DECODER_ORDER = ("Replace", "Metaspace", "ByteFallback", "Fuse", "Strip")


def _check_order(names: list[str], byte_level: bool) -> None:
    """Fuse makes one token of all: what comes behind it sees the whole text, what stands before it each token."""
    if byte_level:
        if names[:1] != ["ByteLevel"] or set(names[1:]) - {"Fuse"}:
            raise _unsupported("decoder", f"{' + '.join(names) or 'null'} of a byte-level vocabulary")
        return
    for name in names:
        if name not in _DECODER_ORDER:
            raise _unsupported("decoder", name)
    places = [_DECODER_ORDER.index(name) for name in names]
    once = [name for name in names if name != "Fuse"]
    if places != sorted(places) or len(set(once)) != len(once) or {"Replace", "Metaspace"} <= set(names) or (
            "Strip" in names and "Fuse" not in names):
        raise UnsupportedError(f"{FILE}: decoder: expected Replace or Metaspace, ByteFallback, Fuse, Strip in this order (and "
                               f"Strip only behind Fuse), found {', '.join(names)}: not supported")


def _decoder(value: Any, byte_level: bool) -> _Decoding:
    parts = _flatten(value, "decoders", "decoder")
    names = [name for name, _ in parts]
    _check_order(names, byte_level)
    if byte_level:
        return _Decoding()
    if not names:
        raise _unsupported("decoder", "null")
    spaces, strip = None, False
    for name, body in parts:
        where = f"decoder {name}"
        if name == "Replace":
            text, regex = _pattern(body, where)
            if regex or _get(body, "content", str, where) != " ":
                raise _unsupported("decoder", "Replace of anything but a mark by a space")
            spaces = steps.spaces(text)
        elif name == "Metaspace":
            legacy = "always" if _get(body, "add_prefix_space", bool, where, True) else "never"
            scheme = _get(body, "prepend_scheme", str, where, legacy)
            spaces = steps.spaces(_get(body, "replacement", str, where, steps.MARK), scheme != "never")
        elif name == "Strip":
            if (body.get("content"), body.get("start"), body.get("stop")) != (" ", 1, 0):
                raise _unsupported("decoder", "Strip of anything but one leading space")
            strip = True
    return _Decoding(spaces, strip, "ByteFallback" in names)


# ---- post_processor ----


@dataclass(frozen=True)
class _Frame:
    """The special tokens that are put around a text; None: not said."""

    bos_id: int | None = None
    eos_id: int | None = None
    decided: bool = False


def _single_id(body: Mapping[str, Any], name: str) -> int:
    where = "post_processor TemplateProcessing.special_tokens"
    ids = _get(_get(_get(body, "special_tokens", dict, "post_processor"), name, dict, where), "ids", list, where)
    if len(ids) != 1 or not isinstance(ids[0], int) or isinstance(ids[0], bool):
        raise UnsupportedError(f"{FILE}: {where}: {escape(name)}: expected one id")
    return ids[0]


def _template(body: Mapping[str, Any]) -> _Frame:
    before: list[int] = []
    after: list[int] = []
    seen = 0
    for item in _get(body, "single", list, "post_processor TemplateProcessing"):
        if isinstance(item, Mapping) and isinstance(item.get("Sequence"), Mapping):
            seen += 1
        elif isinstance(item, Mapping) and isinstance(item.get("SpecialToken"), Mapping):
            name = _get(item["SpecialToken"], "id", str, "post_processor TemplateProcessing.single")
            (after if seen else before).append(_single_id(body, name))
        else:
            raise FormatError(f"{FILE}: post_processor TemplateProcessing.single: expected Sequence or SpecialToken")
    if seen != 1 or len(before) > 1 or len(after) > 1:
        raise _unsupported("post_processor", "TemplateProcessing of more than one token on a side")
    return _Frame(before[0] if before else None, after[0] if after else None, True)


def _post_processor(value: Any) -> _Frame:
    frame = _Frame()
    for name, body in _flatten(value, "processors", "post_processor"):
        if name == "ByteLevel":
            continue                      # only offsets
        if name == "TemplateProcessing" and not frame.decided:
            frame = _template(body)
        elif name in ("RobertaProcessing", "BertProcessing") and not frame.decided:
            ends = [_get(body, key, list, f"post_processor {name}") for key in ("cls", "sep")]
            if any(len(pair) != 2 or not isinstance(pair[1], int) for pair in ends):
                raise FormatError(f"{FILE}: post_processor {name}: expected pairs of a token and its id")
            frame = _Frame(ends[0][1], ends[1][1], True)
        else:
            raise _unsupported("post_processor", name)
    return frame


# ---- the model and the added tokens ----


def _pieces(model: Mapping[str, Any]) -> dict[str, int]:
    if _get(model, "type", str, "model", "BPE") != "BPE":
        raise _unsupported("model", model["type"])
    if _get(model, "dropout", (int, float), "model", 0):
        raise _unsupported("model", "BPE with dropout")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if _get(model, key, str, "model", ""):
            raise _unsupported("model", f"BPE with {key}")
    pieces = _get(model, "vocab", dict, "model")
    for text, token_id in pieces.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < IDS_MAX:
            raise FormatError(f"{FILE}: model.vocab: {escape(text)}: expected an id below {IDS_MAX}, found {escape(token_id)}")
    return pieces


def _added_tokens(data: Mapping[str, Any], pieces: Mapping[str, int]) -> dict[int, Mapping[str, Any]]:
    """Added tokens by id, their ids agreeing with the vocabulary's."""
    added: dict[int, Mapping[str, Any]] = {}
    for index, token in enumerate(_get(data, "added_tokens", list, "", [])):
        where = f"added_tokens {index}"
        if not isinstance(token, Mapping):
            raise FormatError(f"{FILE}: {where}: expected an object, found {type(token).__name__}")
        token_id, content = _get(token, "id", int, where), _get(token, "content", str, where)
        if not 1 <= len(content.encode()) <= ADDED_BYTES_MAX:
            raise FormatError(f"{FILE}: {where}: expected 1 to {ADDED_BYTES_MAX} bytes, found {len(content.encode())}")
        if not 0 <= token_id < IDS_MAX or pieces.get(content, token_id) != token_id or token_id in added:
            raise FormatError(f"{FILE}: {where}: {escape(content)}: id {token_id} is taken, out of range, or not the vocabulary's")
        added[token_id] = token
    return added


def _texts(pieces: Mapping[str, int], added: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Every token's text by id: dense, each id once."""
    texts: dict[int, str] = {}
    for text, token_id in (*pieces.items(), *((token["content"], token_id) for token_id, token in added.items())):
        if texts.setdefault(token_id, text) != text:
            raise FormatError(f"{FILE}: id {token_id}: two tokens have it: {escape(texts[token_id])} and {escape(text)}")
    if not texts:
        raise FormatError(f"{FILE}: model.vocab: expected tokens, found none")
    if len(texts) != max(texts) + 1:
        missing = next(i for i in range(len(texts)) if i not in texts)
        raise FormatError(f"{FILE}: expected the ids 0 to {max(texts)}, found none for {missing}")
    return [texts[token_id] for token_id in range(len(texts))]


def _check_numbers(added: Mapping[int, Mapping[str, Any]], pieces: Mapping[str, int]) -> None:
    """tokenizers gives added tokens the vocabulary's ids, and the next free ones to others, whatever the file says. `added` is in
    the file's order."""
    given: dict[str, int] = {}
    for token_id, token in added.items():
        text = token["content"]
        following = max(given.values(), default=-1) + 1
        expected = given.get(text, pieces.get(text, max(following, len(pieces))))
        if token_id != expected:
            raise UnsupportedError(f"{FILE}: added token {escape(text)}: expected id {expected}, which tokenizers gives it, found "
                                   f"{token_id}: not supported")
        given[text] = expected


def _attributes(token: Mapping[str, Any], where: str) -> int:
    bits = (("lstrip", LSTRIP), ("rstrip", RSTRIP), ("single_word", SINGLE_WORD), ("normalized", NORMALIZED))
    return sum(bit for key, bit in bits if _get(token, key, bool, where, False))


def _token(text: str, piece: bool, added: Mapping[str, Any] | None, model: Mapping[str, Any],
           byte_level: bool) -> tuple[bytes, int, int]:
    """One token's bytes, type and attributes."""
    raw = text.encode()
    mapped = steps.from_letters(text) if byte_level else None
    attr = ADDED_ONLY if byte_level and mapped is None else 0
    is_byte = not byte_level and model.get("byte_fallback") and byte_value(raw) is not None
    if added is None:
        if byte_level:
            return (raw if mapped is None else mapped), NORMAL, attr
        return raw, BYTE if is_byte else NORMAL, 0
    attr |= _attributes(added, "added_tokens")
    if piece and byte_level and mapped is not None and mapped != raw:
        raise UnsupportedError(f"{FILE}: added token {escape(text)}: it is the vocabulary's name of other bytes too: not supported")
    if not piece and (model.get("ignore_merges") or len(text) == 1 or is_byte):
        attr |= ADDED_ONLY                # elsewhere it makes no difference
    if is_byte:
        if attr & NORMALIZED:
            raise UnsupportedError(f"{FILE}: added token {escape(text)}: expected a byte's token without normalized, found it: "
                                   "not supported")
        attr |= ALSO_BYTE
    if _get(added, "special", bool, "added_tokens", False):
        return raw, UNKNOWN if text == model.get("unk_token") and not byte_level else CONTROL, attr
    return raw, USER, attr


# What tokenizers decodes to a byte; it encodes with two capital digits only, and here a byte has one name.
_BYTE_NAME = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


def _check_bytes(texts: list[str]) -> None:
    for text in filter(_BYTE_NAME.fullmatch, texts):
        if text[3:5] != text[3:5].upper() or text[3] == "+":
            raise UnsupportedError(f"{FILE}: token {escape(text)}: expected a byte as <0x..> with two capital hexadecimal digits, "
                                   "as byte_fallback encodes it, found another name of it: not supported")


def _check_letters(pieces: Mapping[str, int]) -> None:
    """byte_fallback of a byte-level vocabulary counts for letters of GPT-2's alphabet only, and only for one that is no token."""
    for letter in steps.LETTERS:
        if letter not in pieces and all(f"<0x{byte:02X}>" in pieces for byte in letter.encode()):
            raise UnsupportedError(f"{FILE}: model.byte_fallback: expected no effect in a byte-level vocabulary, found no token "
                                   f"{escape(letter)}, which falls back to bytes: not supported")


def _merges(model: Mapping[str, Any], pieces: Mapping[str, int], byte_level: bool) -> tuple[tuple[int, int], ...]:
    pairs = []
    for rank, item in enumerate(_get(model, "merges", list, "model")):
        parts = item.split(" ") if isinstance(item, str) else item
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise FormatError(f"{FILE}: model.merges {rank}: expected two tokens, found {escape(item)}")
        left, right = pieces.get(parts[0]), pieces.get(parts[1])
        if left is None or right is None or parts[0] + parts[1] not in pieces:
            raise FormatError(f"{FILE}: model.merges {rank}: a part or the whole is no token: {escape(' '.join(parts))}")
        pairs.append((left, right))
    if not pairs and not byte_level:          # the runtime would merge by score
        raise UnsupportedError(f"{FILE}: model.merges: expected merges, found none: a vocabulary without merges is not supported")
    return tuple(pairs)


def _scores(merges: tuple[tuple[int, int], ...], tokens: tuple[bytes, ...], types: tuple[int, ...]) -> tuple[float, ...]:
    """A SentencePiece vocabulary's scores out of the ranks, for readers that merge by score: the better the rank, the higher."""
    index = {token: token_id for token_id, token in reversed(list(enumerate(tokens)))}
    scores = [0.0 if kind != NORMAL else -float(len(merges)) for kind in types]
    for rank in range(len(merges) - 1, -1, -1):
        left, right = merges[rank]
        scores[index[tokens[left] + tokens[right]]] = -float(rank)
    return tuple(scores)


# ---- the whole ----


def _special_id(config: Mapping[str, Any], key: str, index: Mapping[str, int]) -> int:
    value = config.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is None:
        return -1
    if not isinstance(value, str):
        raise FormatError(f"tokenizer_config.json: {key}: expected a string, found {type(value).__name__}")
    return index.get(value, -1)


def read_tokenizer_json(data: Mapping[str, Any], config: Mapping[str, Any]) -> Vocab:
    if not isinstance(data, Mapping):
        raise FormatError(f"{FILE}: expected an object, found {type(data).__name__}")
    try:
        return _read(data, config)
    except UnicodeEncodeError:
        raise FormatError(f"{FILE}: expected text, found a lone surrogate") from None


def _read(data: Mapping[str, Any], config: Mapping[str, Any]) -> Vocab:
    model = _get(data, "model", dict, "")
    pieces = _pieces(model)
    added = _added_tokens(data, pieces)
    texts = _texts(pieces, added)
    _check_numbers(added, pieces)
    pre_tokenizer, byte_level = _pre_tokenizer(data.get("pre_tokenizer"))
    decoding = _decoder(data.get("decoder"), byte_level)
    made = [_token(text, text in pieces, added.get(token_id), model, byte_level) for token_id, text in enumerate(texts)]
    tokens, types, attrs = (tuple(column) for column in zip(*made, strict=True))
    fallback = _get(model, "byte_fallback", bool, "model", False)
    if not byte_level and fallback != decoding.bytes and any(byte_value(token) is not None for token in tokens):
        raise _unsupported("decoder", "ByteFallback on one side only")
    if fallback:
        _check_letters(pieces) if byte_level else _check_bytes(texts)
    merges = _merges(model, pieces, byte_level)
    normaliser = _normaliser(data.get("normalizer"))
    _check_left(normaliser, added)
    _check_first(normaliser, pre_tokenizer, any(attr & NORMALIZED for attr in attrs))
    all_steps = (*normaliser, steps.ADDED_STEP, *_without_idle_split(normaliser, pre_tokenizer))
    unk = _get(model, "unk_token", str, "model", None)
    if unk is not None and unk not in pieces:
        raise FormatError(f"{FILE}: model.unk_token: {escape(unk)} is no token")
    vocab = Vocab(
        kind="bpe" if byte_level else "spm", tokens=tokens, types=types, attrs=attrs, merges=merges,
        scores=(0.0,) * len(tokens) if byte_level else _scores(merges, tokens, types),
        steps=all_steps if decoding.spaces is None else (*all_steps, decoding.spaces), dummy_prefix=decoding.strip,
        byte_fallback=fallback and not byte_level, ignore_merges=_get(model, "ignore_merges", bool, "model", False),
        unk_id=-1 if unk is None else pieces[unk], emit_unk=unk is not None,
        fuse_unk=unk is not None and _get(model, "fuse_unk", bool, "model", False))
    return _with_specials(vocab, _post_processor(data.get("post_processor")), config, {text: i for i, text in enumerate(texts)})


def _with_specials(vocab: Vocab, frame: _Frame, config: Mapping[str, Any], index: Mapping[str, int]) -> Vocab:
    """The post_processor decides what is put around a text; only where there is none, tokenizer_config.json does."""
    bos_id, eos_id = _special_id(config, "bos_token", index), _special_id(config, "eos_token", index)
    add_bos, add_eos = frame.bos_id is not None, frame.eos_id is not None
    if add_bos:
        bos_id = frame.bos_id
    if add_eos:
        eos_id = frame.eos_id
    if not frame.decided:
        add_bos = config.get("add_bos_token") is True and bos_id >= 0
        add_eos = config.get("add_eos_token") is True and eos_id >= 0
    unk_id = vocab.unk_id if vocab.unk_id >= 0 else _special_id(config, "unk_token", index)
    return replace(vocab, bos_id=bos_id, eos_ids=(eos_id,) if eos_id >= 0 else (), unk_id=unk_id, add_bos=add_bos,
                   add_eos=add_eos, pad_id=_special_id(config, "pad_token", index))
