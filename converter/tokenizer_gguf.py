"""The tokenizer.ggml.* keys of GGUF files, both ways: model "llama" (SentencePiece) and "gpt2" (byte-level).

runtime_c/core/tokenizer_gguf.c reads the same keys by the same rules. Files are none of this module's business.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .errors import FormatError, UnsupportedError, escape
from .tokenizer import (
    ADDED_ONLY,
    ALSO_BYTE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Vocab,
    byte_value,
    is_added,
)
from .tokenizer_presets import preset_by_name, preset_by_steps
from .tokenizer_steps import ADDED, MARK, PREPEND, PREPEND_FIRST, SPACES, STRIP, STRIP_MARKS, from_letters, spm_steps, to_letters

PREFIX = "tokenizer.ggml."
EXACT = "ak42.tokenizer"              # a TOKN section, where GGUF's own keys would lose something
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


# ---- reading ----


def read_gguf_keys(metadata: Mapping[str, Any]) -> Vocab:
    exact = metadata.get(EXACT)
    if exact is not None:
        return _read_exact(exact)
    model = _text(metadata, "model")
    if model not in ("llama", "gpt2"):
        raise UnsupportedError(f"{PREFIX}model: expected llama or gpt2, found {escape(model)}")
    texts = [_bytes(item, "tokens", i) for i, item in enumerate(_array(metadata, "tokens"))]
    ids = {name: _token_id(metadata, key, len(texts)) for name, key in
           (("bos", "bos_token_id"), ("unk", "unknown_token_id"), ("pad", "padding_token_id"))}
    eos_ids: list[int] = []
    for key in _EOS_KEYS:
        found = _token_id(metadata, key, len(texts))
        if found >= 0 and found not in eos_ids:
            eos_ids.append(found)
    scores = _numbers(metadata, "scores", len(texts))
    given = _numbers(metadata, "token_type", len(texts))
    types = _types(texts, given, model == "llama", ids, eos_ids)
    vocab = Vocab(kind="spm" if model == "llama" else "bpe", tokens=tuple(texts),
                  scores=tuple(float(score) for score in scores) if scores is not None else (0.0,) * len(texts),
                  types=types, attrs=(0,) * len(texts), merges=(), steps=(), bos_id=ids["bos"], unk_id=ids["unk"],
                  pad_id=ids["pad"], eos_ids=tuple(eos_ids))
    vocab = _read_spm(vocab, metadata, scores is not None) if model == "llama" else _read_bpe(vocab, metadata)
    if _flag(metadata, "add_bos_token") and vocab.bos_id < 0 or _flag(metadata, "add_eos_token") and not eos_ids:
        raise FormatError(f"{PREFIX}bos_token_id, eos_token_id: absent, but one of them is added")
    return replace(vocab, add_eos=bool(_flag(metadata, "add_eos_token")))


def lacks_an_order(metadata: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece vocabulary says nothing of which merge goes before another: all its pieces have one score, and there are
    no merges. A converter that found no tokenizer.model writes such files."""
    scores, types = metadata.get(PREFIX + "scores"), metadata.get(PREFIX + "token_type")
    if metadata.get(PREFIX + "model") != "llama" or EXACT in metadata or PREFIX + "merges" in metadata:
        return False
    if not isinstance(scores, list) or not isinstance(types, list):
        return False
    normal = [score for score, kind in zip(scores, types, strict=False) if kind == NORMAL]
    return len(normal) > 1 and len(set(normal)) == 1


def _read_spm(vocab: Vocab, metadata: Mapping[str, Any], has_scores: bool) -> Vocab:
    if not has_scores and PREFIX + "merges" not in metadata:
        raise FormatError(f"{PREFIX}scores: absent, and there are no merges")
    index = _index(vocab)
    collapse, prefix = bool(_flag(metadata, "remove_extra_whitespaces")), _flag(metadata, "add_space_prefix") is not False
    add_bos = _flag(metadata, "add_bos_token") is not False and vocab.bos_id >= 0
    return replace(vocab, merges=_merges(metadata, lambda part: index.get(part)), steps=spm_steps(prefix, collapse),
                   add_bos=add_bos, dummy_prefix=prefix, collapse_spaces=collapse, byte_fallback=BYTE in vocab.types,
                   emit_unk=vocab.unk_id >= 0, fuse_unk=vocab.unk_id >= 0)


def _read_bpe(vocab: Vocab, metadata: Mapping[str, Any]) -> Vocab:
    name = _text(metadata, "pre") if PREFIX + "pre" in metadata else "default"
    preset = preset_by_name(name)
    if preset is None:
        raise UnsupportedError(f"{PREFIX}pre: pre-tokenizer {escape(name)} is not supported")
    tokens, attrs = [], []
    for text, kind in zip(vocab.tokens, vocab.types, strict=True):
        mapped = _unmap(text)
        # A token with other letters is its own text, and no merge leads to it. Added tokens are always their text.
        tokens.append(mapped if kind == NORMAL and mapped is not None else text)
        attrs.append(ADDED_ONLY if mapped is None or (is_added(kind) and preset.ignore_merges) else 0)
    if PREFIX + "merges" not in metadata:
        raise FormatError(f"{PREFIX}merges: absent")
    vocab = replace(vocab, tokens=tuple(tokens), attrs=tuple(attrs), steps=preset.steps, ignore_merges=preset.ignore_merges)
    index = _index(vocab)
    add_bos = _flag(metadata, "add_bos_token")
    return replace(vocab, merges=_merges(metadata, lambda part: index.get(_unmap(part))),
                   add_bos=vocab.bos_id >= 0 and (preset.add_bos if add_bos is None else add_bos))


def _read_exact(value: Any) -> Vocab:
    from .tokenizer_tokn import read_tokn

    if isinstance(value, str | int | float):
        raise FormatError(f"{EXACT}: expected an array of bytes, found {type(value).__name__}")
    try:
        return read_tokn(bytes(value))
    except (TypeError, ValueError) as error:
        if isinstance(error, FormatError | UnsupportedError):
            raise
        raise FormatError(f"{EXACT}: expected an array of bytes") from None


def _types(texts: list[bytes], given: Sequence[int] | None, spm: bool, ids: dict[str, int], eos_ids: list[int]) -> tuple[int, ...]:
    """Where the file has no types, those that its ids and texts tell."""
    types = []
    for token_id, text in enumerate(texts):
        is_byte = spm and byte_value(text) is not None
        if given is not None:
            kind = int(given[token_id])
            types.append(NORMAL if kind == 0 or (kind == BYTE and not is_byte) else kind)
        elif is_byte:
            types.append(BYTE)
        elif token_id == ids["unk"]:
            types.append(UNKNOWN)
        else:
            types.append(CONTROL if token_id in (ids["bos"], ids["pad"], *eos_ids) else NORMAL)
    return tuple(types)


def _index(vocab: Vocab) -> dict[bytes | None, int]:
    """Id by bytes; of equal tokens the lowest id."""
    index: dict[bytes | None, int] = {}
    for token_id, (token, kind, attr) in enumerate(zip(vocab.tokens, vocab.types, vocab.attrs, strict=True)):
        if token and kind != UNUSED and not attr & ADDED_ONLY:
            index.setdefault(token, token_id)
    return index


def _unmap(text: bytes) -> bytes | None:
    try:
        return from_letters(text.decode())
    except UnicodeDecodeError:
        return None


def _merges(metadata: Mapping[str, Any], find: Any) -> tuple[tuple[int, int], ...]:
    pairs = []
    for rank, item in enumerate(_array(metadata, "merges") if PREFIX + "merges" in metadata else []):
        text = _bytes(item, "merges", rank)
        space = text.find(b" ", 1)
        if not 0 < space < len(text) - 1:
            raise FormatError(f"{PREFIX}merges: element {rank}: expected two tokens and a space")
        left, right = find(text[:space]), find(text[space + 1:])
        if left is None or right is None:
            raise FormatError(f"{PREFIX}merges: element {rank}: a part is no token")
        pairs.append((left, right))
    return tuple(pairs)


def _array(metadata: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = metadata.get(PREFIX + key)
    if value is None or isinstance(value, str | bytes | int | float):
        raise FormatError(f"{PREFIX}{key}: expected an array, found {'nothing' if value is None else type(value).__name__}")
    return value


def _numbers(metadata: Mapping[str, Any], key: str, count: int) -> Sequence[Any] | None:
    if PREFIX + key not in metadata:
        return None
    values = _array(metadata, key)
    if len(values) != count:
        raise FormatError(f"{PREFIX}{key}: expected one for each of {count} tokens, found {len(values)}")
    if any(isinstance(value, str | bytes) for value in values[:1]):
        raise FormatError(f"{PREFIX}{key}: expected numbers, found strings")
    if key == "token_type" and not all(isinstance(value, int) for value in values):
        raise FormatError(f"{PREFIX}{key}: expected whole numbers, found others")
    return values


def _bytes(item: Any, key: str, index: int) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise FormatError(f"{PREFIX}{key}: element {index}: expected a string, found {type(item).__name__}")
    return item.encode("utf-8", "surrogateescape")


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(PREFIX + key)
    if not isinstance(value, str):
        raise FormatError(f"{PREFIX}{key}: expected a string, found {'nothing' if value is None else type(value).__name__}")
    return value


def _flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(PREFIX + key)
    if value is not None and not isinstance(value, bool | int):
        raise FormatError(f"{PREFIX}{key}: expected a bool, found {type(value).__name__}")
    return None if value is None else bool(value)


def _token_id(metadata: Mapping[str, Any], key: str, count: int) -> int:
    value = metadata.get(PREFIX + key)
    if value is None or value == 0xFFFFFFFF:          # "none" as an unsigned number
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < count:
        raise FormatError(f"{PREFIX}{key}: expected an id below {count}, found {escape(value)}")
    return value


# ---- writing ----


def write_gguf_keys(vocab: Vocab) -> dict[str, Any]:
    keys = _spm_keys(vocab) if vocab.kind == "spm" else _bpe_keys(vocab)
    if vocab.bos_id >= 0:
        keys["bos_token_id"] = vocab.bos_id
    for key, token_id in zip(_EOS_KEYS, vocab.eos_ids, strict=False):
        keys[key] = token_id
    for key, token_id in (("unknown_token_id", vocab.unk_id), ("padding_token_id", vocab.pad_id)):
        if token_id >= 0:
            keys[key] = token_id
    keys["add_bos_token"], keys["add_eos_token"] = vocab.add_bos, vocab.add_eos
    named = {PREFIX + key: value for key, value in keys.items()}
    if not _same(read_gguf_keys(named), vocab):
        named[EXACT] = list(vocab.to_tokn())
    return named


def gguf_notes(vocab: Vocab) -> list[str]:
    """Only what other programs get wrong: with `ak42.tokenizer` this project's readers do as the source did."""
    notes = []
    if any(step.op == PREPEND and step.flags & PREPEND_FIRST for step in vocab.steps):
        notes.append("tokenizer: other readers of this GGUF file put a space behind special tokens too, and before a space")
    if any(attr & ALSO_BYTE for attr in vocab.attrs):
        notes.append("tokenizer: other readers of this GGUF file do not find added tokens that stand for a byte (<0x0A>) in a text")
    if any(attr & ~(ADDED_ONLY | ALSO_BYTE) for attr, kind in zip(vocab.attrs, vocab.types, strict=True) if is_added(kind)):
        notes.append("tokenizer: GGUF has no place for added tokens' lstrip, rstrip, single_word and normalized")
    if len(vocab.eos_ids) > len(_EOS_KEYS):
        notes.append(f"tokenizer: GGUF has room for {len(_EOS_KEYS)} eos ids, the model has {len(vocab.eos_ids)}")
    return notes


def _same(read: Vocab, vocab: Vocab) -> bool:
    """Whether both encode and decode alike: scores count only where they decide."""
    scores = vocab.scores if not vocab.merges and vocab.kind == "spm" else read.scores
    return replace(read, scores=scores) == replace(vocab, scores=scores) and (
        bool(vocab.merges) or vocab.kind == "bpe" or _rounded(read.scores) == _rounded(vocab.scores))


def _rounded(scores: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(scores)}f", *scores)


def _bpe_keys(vocab: Vocab) -> dict[str, Any]:
    preset = preset_by_steps(vocab.steps, vocab.ignore_merges)
    if preset is None:
        raise UnsupportedError("tokenizer: GGUF has no name for this pre-tokenizer (tokenizer.ggml.pre); write an ak42 file or a "
                               f"Hugging Face folder: {escape(describe_steps(vocab))}")
    texts = [to_letters(token) if kind == NORMAL and not attr & ADDED_ONLY else _utf8(token, token_id)
             for token_id, (token, kind, attr) in enumerate(zip(vocab.tokens, vocab.types, vocab.attrs, strict=True))]
    return {"model": "gpt2", "pre": preset.name, "tokens": texts, "token_type": list(vocab.types),
            "merges": [f"{to_letters(vocab.tokens[left])} {to_letters(vocab.tokens[right])}" for left, right in vocab.merges]}


def _spm_keys(vocab: Vocab) -> dict[str, Any]:
    vocab = with_marks(vocab)
    prefix = any(step.op == PREPEND for step in vocab.steps)
    collapse = any(step.op == STRIP for step in vocab.steps)
    if not _spm_steps_fit(vocab):
        raise UnsupportedError("tokenizer: GGUF has no words for this normaliser; write an ak42 file or a Hugging Face folder: "
                               + escape(describe_steps(vocab)))
    keys: dict[str, Any] = {
        "model": "llama", "pre": "default", "tokens": [_utf8(token, i) for i, token in enumerate(vocab.tokens)],
        "scores": [score if math.isfinite(score) else -1e30 for score in vocab.scores],
        # Of an added token that is a byte, too, others need the byte.
        "token_type": [BYTE if attr & ALSO_BYTE else kind for kind, attr in zip(vocab.types, vocab.attrs, strict=True)],
        "add_space_prefix": prefix}
    if collapse:
        keys["remove_extra_whitespaces"] = True
    if vocab.merges:
        keys["merges"] = [f"{_utf8(vocab.tokens[left], left)} {_utf8(vocab.tokens[right], right)}" for left, right in vocab.merges]
        if any(b" " in vocab.tokens[token_id] for pair in vocab.merges for token_id in pair):
            raise UnsupportedError("tokenizer: GGUF cannot write merges of tokens that have spaces")
    return keys


def _spm_steps_fit(vocab: Vocab) -> bool:
    """The steps that GGUF's llama model stands for, or Metaspace's at the beginning only, which differ behind special tokens."""
    normal, wanted = (
        [step for step in steps if step.op not in (ADDED, SPACES) and not (step.op == STRIP and step.flags & STRIP_MARKS)]
        for steps in (vocab.steps, spm_steps(vocab.dummy_prefix, vocab.collapse_spaces)))
    return sorted(((s.op, s.data) for s in normal), key=str) == sorted(((s.op, s.data) for s in wanted), key=str)


def with_marks(vocab: Vocab) -> Vocab:
    """A tokenizer.bin's vocabulary, whose pieces hold plain spaces, in SentencePiece's form."""
    if vocab.kind != "spm" or any(step.op == SPACES for step in vocab.steps) or not vocab.dummy_prefix or vocab.merges:
        return vocab
    tokens = tuple(token.replace(b" ", MARK.encode()) for token in vocab.tokens)
    return replace(vocab, tokens=tokens, steps=spm_steps(), any_piece=False, emit_unk=vocab.unk_id >= 0, fuse_unk=vocab.unk_id >= 0)


def describe_steps(vocab: Vocab) -> str:
    return ", ".join(f"op {step.op} flags {step.flags} {step.data!r}" for step in vocab.steps)


def _utf8(token: bytes, token_id: int) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise UnsupportedError(f"tokenizer: token {token_id}: expected UTF-8 for a GGUF file, found other bytes") from None
