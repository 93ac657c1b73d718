"""A Vocab to Hugging Face's tokenizer.json and tokenizer_config.json, such that `tokenizers` gives the same ids.

The reverse of tokenizer_json.py. Steps that no component of Hugging Face's expresses are refused.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from . import tokenizer_steps as steps
from .errors import UnsupportedError
from .tokenizer import (
    ADDED_ONLY,
    ALSO_BYTE,
    AS_IS,
    CONTROL,
    LSTRIP,
    NORMAL,
    NORMALIZED,
    RSTRIP,
    SINGLE_WORD,
    UNUSED,
    USER,
    Vocab,
    is_added,
)
from .tokenizer_gguf import with_marks
from .tokenizer_json import STRIP_PATTERNS
from .tokenizer_steps import Step

MODEL_MAX_LENGTH = 10 ** 30            # what transformers writes for "no limit known"


def write_tokenizer_json(vocab: Vocab) -> dict[str, Any]:
    vocab = with_marks(vocab)
    place = next(i for i, step in enumerate(vocab.steps) if step.op == steps.ADDED)
    before = list(vocab.steps[:place])
    after = [step for step in vocab.steps[place + 1:] if step.op != steps.SPACES]
    texts = _texts(vocab)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added_token(vocab, token_id) for token_id in range(len(vocab.tokens)) if is_added(vocab.types[token_id])],
        "normalizer": _sequence([part for step in before for part in _normaliser(step)], "normalizers"),
        "pre_tokenizer": _sequence(_byte_level(after) if vocab.kind == "bpe" else _metaspace(after), "pretokenizers"),
        "post_processor": _post_processor(vocab, texts),
        "decoder": _decoder(vocab),
        "model": _model(vocab, texts),
    }


def write_tokenizer_config(vocab: Vocab) -> dict[str, Any]:
    """The class is the generic one, which takes tokenizer.json as it is, in transformers 4 and 5."""
    vocab = with_marks(vocab)
    named = {"bos_token": vocab.bos_id, "eos_token": vocab.eos_ids[0] if vocab.eos_ids else -1, "unk_token": vocab.unk_id,
             "pad_token": vocab.pad_id}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": vocab.add_bos, "add_eos_token": vocab.add_eos,
        "clean_up_tokenization_spaces": False, "model_max_length": MODEL_MAX_LENGTH,
        "added_tokens_decoder": {str(i): _attributes(vocab, i) for i in range(len(vocab.tokens)) if is_added(vocab.types[i])}}
    config.update({key: _text(vocab, token_id) for key, token_id in named.items() if token_id >= 0})
    return config


# ---- tokens ----


def _text(vocab: Vocab, token_id: int) -> str:
    """The token as Hugging Face spells it."""
    token = vocab.tokens[token_id]
    if vocab.kind == "bpe" and vocab.types[token_id] == NORMAL and not vocab.attrs[token_id] & ADDED_ONLY:
        return steps.to_letters(token)
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise UnsupportedError(f"tokenizer: token {token_id}: expected UTF-8 for a tokenizer.json, found other bytes") from None


def _texts(vocab: Vocab) -> list[str]:
    """All tokens but the unused ones at the end, which stand for rows of the embedding only."""
    n = len(vocab.tokens)
    while n > 1 and vocab.types[n - 1] == UNUSED:
        n -= 1
    texts = [_text(vocab, token_id) for token_id in range(n)]
    if len(set(texts)) != n:
        seen: set[str] = set()
        double = next(i for i, text in enumerate(texts) if text in seen or seen.add(text))
        raise UnsupportedError(f"tokenizer: token {double} is there twice; a tokenizer.json cannot say that")
    return texts


def _attributes(vocab: Vocab, token_id: int) -> dict[str, Any]:
    attr = vocab.attrs[token_id]
    if attr & AS_IS:
        raise UnsupportedError(f"tokenizer: token {token_id} is looked for in the normalised text without being normalised, as "
                               "SentencePiece's user-defined symbols are: a tokenizer.json cannot say that; write an ak42 or a "
                               "GGUF file")
    return {"content": _text(vocab, token_id), "single_word": bool(attr & SINGLE_WORD), "lstrip": bool(attr & LSTRIP),
            "rstrip": bool(attr & RSTRIP), "normalized": bool(attr & NORMALIZED), "special": vocab.types[token_id] != USER}


def _added_token(vocab: Vocab, token_id: int) -> dict[str, Any]:
    return {"id": token_id, **_attributes(vocab, token_id)}


def _model(vocab: Vocab, texts: list[str]) -> dict[str, Any]:
    merges = vocab.merges or _merges_by_score(vocab, texts)
    pieces = _count_pieces(vocab, texts, merges)
    pairs = [(texts[left], texts[right]) for left, right in merges]
    spaced = any(" " in part for pair in pairs for part in pair)
    return {"type": "BPE", "dropout": None, "unk_token": texts[vocab.unk_id] if vocab.emit_unk else None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": vocab.fuse_unk,
            "byte_fallback": vocab.byte_fallback, "ignore_merges": vocab.ignore_merges,
            "vocab": {text: token_id for token_id, text in enumerate(texts[:pieces])},
            "merges": [list(pair) if spaced else " ".join(pair) for pair in pairs]}


def _count_pieces(vocab: Vocab, texts: list[str], merges: Sequence[tuple[int, int]]) -> int:
    """tokenizers numbers added tokens that the model does not have from the model's size on: the last ones stay out of it, where
    they are no pieces or nothing but added tokens comes of them."""
    used = {text for left, right in merges for text in (texts[left], texts[right], texts[left] + texts[right])}
    used.add(texts[vocab.unk_id] if vocab.emit_unk else "")

    def stays_out(token_id: int) -> bool:
        attr, text = vocab.attrs[token_id], texts[token_id]
        needed = vocab.ignore_merges or len(text) == 1 or attr & ALSO_BYTE or text in used
        return is_added(vocab.types[token_id]) and bool(attr & ADDED_ONLY or not needed)

    n = len(texts)
    while n > 1 and stays_out(n - 1):
        n -= 1
    none = [bool(attr & ADDED_ONLY) or not vocab.merges and kind in (CONTROL, UNUSED)
            for kind, attr in zip(vocab.types, vocab.attrs, strict=True)]
    single = next((i for i in range(n) if vocab.kind == "spm" and none[i] and len(texts[i]) == 1), None)
    if single is not None:                 # it would stand for the character
        raise UnsupportedError(f"tokenizer: token {single} is one character and no piece, and pieces follow it; a tokenizer.json "
                               "cannot say that")
    return n


def _merges_by_score(vocab: Vocab, texts: list[str]) -> list[tuple[int, int]]:
    """Every pair of tokens that together are one, best score first: what SentencePiece does, said as ranks."""
    index = {text: token_id for token_id, text in enumerate(texts) if vocab.types[token_id] in (NORMAL, USER)}
    found = []
    for text, token_id in index.items():
        score = vocab.scores[token_id]
        if not score > -1e10:
            continue
        for cut in range(1, len(text)):
            left, right = index.get(text[:cut]), index.get(text[cut:])
            if left is not None and right is not None:
                found.append((-score, token_id, cut, left, right))
    return [(left, right) for _, _, _, left, right in sorted(found)]


# ---- components ----


def _sequence(parts: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else {"type": "Sequence", key: parts}


def _cannot(step: Step) -> UnsupportedError:
    return UnsupportedError(f"tokenizer: step op {step.op} flags {step.flags}: a tokenizer.json has no component for it here")


def _regex_or_string(text: str, regex: bool) -> dict[str, str]:
    return {"Regex": text} if regex else {"String": text}


def _normaliser(step: Step) -> list[dict[str, Any]]:
    if step.op == steps.PREPEND and not step.flags:
        return [{"type": "Prepend", "prepend": step.data.decode()}]
    if step.op == steps.REPLACE:
        text, content = steps.replace_parts(step)
        return [{"type": "Replace", "pattern": _regex_or_string(text, bool(step.flags & steps.REPLACE_REGEX)), "content": content}]
    if step.op == steps.STRIP and step.flags & (steps.STRIP_SPACES | steps.STRIP_MARKS):
        parts = {text: flags for text, flags in STRIP_PATTERNS.items() if step.flags & flags == flags}
        if step.flags & ~functools.reduce(operator.or_, parts.values(), 0):
            raise _cannot(step)
        return [{"type": "Replace", "pattern": {"Regex": text}, "content": ""} for text in parts]
    if step.op == steps.STRIP:
        left, right = bool(step.flags & steps.STRIP_LEFT), bool(step.flags & steps.STRIP_RIGHT)
        return [{"type": "Strip", "strip_left": left, "strip_right": right}]
    if step.op == steps.NFC:
        return [{"type": "NFC"}]
    raise _cannot(step)


def _cut(step: Step) -> dict[str, Any]:
    """Split, Digits or Punctuation."""
    behaviour = steps.BEHAVIOURS[step.flags & steps.BEHAVIOUR_MASK] if step.op != steps.DIGITS else ""
    if step.op == steps.SPLIT:
        return {"type": "Split", "pattern": _regex_or_string(step.data.decode(), not step.flags & steps.SPLIT_LITERAL),
                "behavior": behaviour, "invert": bool(step.flags & steps.SPLIT_INVERT)}
    if step.op == steps.DIGITS:
        return {"type": "Digits", "individual_digits": bool(step.flags & steps.DIGITS_SINGLE)}
    if step.op == steps.PUNCTUATION:
        return {"type": "Punctuation", "behavior": behaviour}
    raise _cannot(step)


def _byte_level(after: list[Step]) -> list[dict[str, Any]]:
    """ByteLevel takes up what it can of the steps in front of it: its own pattern and the space that it puts in front."""
    place = next((i for i, step in enumerate(after) if step.op == steps.BYTE_LEVEL), len(after))
    head, tail = after[:place], after[place + 1:]
    use_regex = bool(head) and head[-1] == steps.SPLIT_GPT2
    if use_regex:
        head = head[:-1]
    prefix = bool(head) and head[-1] == steps.prepend(" ", steps.PREPEND_UNLESS_THERE)
    if prefix:
        head = head[:-1]
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}
    return [*map(_cut, head), level, *map(_cut, tail)]


def _metaspace(after: list[Step]) -> list[dict[str, Any]]:
    """A replaced space, a mark in front and a cut before every mark are one Metaspace; everything else is itself."""
    parts: list[dict[str, Any]] = []
    rest = list(after)
    while rest:
        step = rest.pop(0)
        if step.op != steps.REPLACE:
            parts.append(_cut(step))
            continue
        text, mark = steps.replace_parts(step)
        if text != " " or step.flags:
            raise _cannot(step)
        scheme = "never"
        if rest and rest[0].op == steps.PREPEND:
            first = rest.pop(0)
            if first.data.decode() != mark or not first.flags & steps.PREPEND_UNLESS_THERE:
                raise _cannot(first)
            scheme = "first" if first.flags & steps.PREPEND_FIRST else "always"
        cut = bool(rest) and rest[0] == steps.split(mark, "MergedWithNext", literal=True)
        if cut:
            rest.pop(0)
        parts.append({"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": cut})
    return parts


def _decoder(vocab: Vocab) -> dict[str, Any]:
    if vocab.kind == "bpe":
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    parts: list[dict[str, Any]] = []
    for step in vocab.steps:
        if step.op == steps.SPACES and step.flags & steps.SPACES_FIRST:
            parts.append({"type": "Metaspace", "replacement": step.data.decode(), "prepend_scheme": "always", "split": False})
        elif step.op == steps.SPACES:
            parts.append({"type": "Replace", "pattern": {"String": step.data.decode()}, "content": " "})
    if vocab.byte_fallback:
        parts.append({"type": "ByteFallback"})
    parts.append({"type": "Fuse"})
    if vocab.dummy_prefix:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": parts}


def _post_processor(vocab: Vocab, texts: list[str]) -> dict[str, Any] | None:
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    if not vocab.add_bos and not vocab.add_eos:
        return level if vocab.kind == "bpe" else None
    before = [vocab.bos_id] if vocab.add_bos else []
    after = [vocab.eos_ids[0]] if vocab.add_eos else []

    def around(name: str, type_id: int) -> list[dict[str, Any]]:
        special = [{"SpecialToken": {"id": texts[i], "type_id": type_id}} for i in (*before, *after)]
        return [*special[:len(before)], {"Sequence": {"id": name, "type_id": type_id}}, *special[len(before):]]

    template = {"type": "TemplateProcessing", "single": around("A", 0), "pair": around("A", 0) + around("B", 1),
                "special_tokens": {texts[i]: {"id": texts[i], "ids": [i], "tokens": [texts[i]]} for i in (*before, *after)}}
    return {"type": "Sequence", "processors": [level, template]} if vocab.kind == "bpe" else template
