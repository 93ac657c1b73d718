"""SentencePiece's two carriers: tokenizer.model (a protobuf, read by hand) and llama2.c's tokenizer.bin (read and written).

Only BPE models without a character map are read; everything else is refused by name. Bytes in, Vocab out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import FormatError, UnsupportedError, escape
from .tokenizer import AS_IS, BYTE, CONTROL, NORMAL, NORMALIZED, UNKNOWN, UNUSED, USER, Vocab, byte_value
from .tokenizer_steps import ADDED_STEP, MARK, PREPEND, STRIP, prepend, spm_steps

# ---- protobuf, as much of it as a model needs ----

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_MAX = 10              # bytes
_PIECES_MAX = 1 << 20


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_MAX):
        if at + index >= end:
            raise FormatError(f"tokenizer.model: a number at byte {at} goes beyond its message")
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & (1 << 64) - 1, at + index + 1
    raise FormatError(f"tokenizer.model: a number at byte {at} has more than {_VARINT_MAX} bytes")


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of one message: (number, wire type, value or begin, end)."""
    while at < end:
        start = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, wire, value, at
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, at = _varint(data, at, end)
        if size is None or number == 0:
            raise FormatError(f"tokenizer.model: field {number} at byte {start}: wire type {wire}: this is no SentencePiece model")
        if size > end - at:
            raise FormatError(f"tokenizer.model: field {number} at byte {start}: expected {size} bytes, found {end - at}")
        yield number, wire, at, at + size
        at += size


def _demand(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise FormatError(f"tokenizer.model: {what}: expected wire type {wanted}, found {found}")


# ---- tokenizer.model ----


@dataclass
class _Model:
    """Fields of ModelProto, with the defaults of the format."""

    pieces: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    trainer: dict[int, int] = field(default_factory=lambda: {3: 1, 24: 0, 35: 0, 40: 0, 41: 1, 42: 2, 43: -1})
    normaliser: dict[int, int] = field(default_factory=lambda: {3: 1, 4: 1, 5: 1})
    normaliser_name: bytes = b""
    has_character_map: bool = False


def _read_piece(data: bytes, at: int, end: int, model: _Model) -> None:
    piece, score, kind = b"", 0.0, NORMAL
    for number, wire, begin, last in _fields(data, at, end):
        if number == 1:
            _demand(wire, _BYTES, "a piece's text")
            piece = data[begin:last]
        elif number == 2:
            _demand(wire, _FIXED32, "a piece's score")
            score = struct.unpack_from("<f", data, begin)[0]
        elif number == 3:
            _demand(wire, _VARINT, "a piece's type")
            kind = begin
    if len(model.pieces) == _PIECES_MAX:
        raise UnsupportedError(f"tokenizer.model: expected up to {_PIECES_MAX} pieces, found more")
    model.pieces.append(piece)
    model.scores.append(score)
    model.types.append(kind)


def _read_numbers(data: bytes, at: int, end: int, known: dict[int, int], what: str) -> None:
    for number, wire, value, _ in _fields(data, at, end):
        if number in known:
            _demand(wire, _VARINT, f"{what} field {number}")
            known[number] = value - (1 << 64) if value >> 63 else value


def _read_model(data: bytes) -> _Model:
    model = _Model()
    for number, wire, begin, end in _fields(data, 0, len(data)):
        if number > 5 and number < 200:
            raise FormatError(f"tokenizer.model: field {number}: this is no SentencePiece model")
        if number in (1, 2, 3):
            _demand(wire, _BYTES, f"field {number}")
        if number == 1:
            _read_piece(data, begin, end, model)
        elif number == 2:
            _read_numbers(data, begin, end, model.trainer, "trainer_spec")
        elif number == 3:
            _read_numbers(data, begin, end, model.normaliser, "normalizer_spec")
            for inner, inner_wire, first, last in _fields(data, begin, end):
                if inner == 1 and inner_wire == _BYTES:
                    model.normaliser_name = data[first:last]
                if inner == 2 and inner_wire == _BYTES:
                    model.has_character_map = last > first
    return model


def read_sentencepiece(data: bytes) -> Vocab:
    model = _read_model(data)
    if not model.pieces:
        raise FormatError("tokenizer.model: expected pieces, found none")
    kinds = {1: "Unigram", 3: "word", 4: "character"}
    if model.trainer[3] != 2:
        raise UnsupportedError(f"tokenizer.model: expected a BPE model, found {kinds.get(model.trainer[3], model.trainer[3])}")
    if model.has_character_map:
        raise UnsupportedError(f"tokenizer.model: normaliser {escape(model.normaliser_name)}: a character map is not supported")
    if model.trainer[24]:
        raise UnsupportedError("tokenizer.model: treat_whitespace_as_suffix is not supported")
    if not model.normaliser[5]:
        raise UnsupportedError("tokenizer.model: escape_whitespaces off is not supported")
    _check_pieces(model)
    bos_id, eos_id, unk_id, pad_id = (_known(model, number) for number in (41, 42, 40, 43))
    prefix, collapse = bool(model.normaliser[3]), bool(model.normaliser[4])
    return Vocab(kind="spm", tokens=tuple(model.pieces), scores=_scores(model), types=tuple(model.types),
                 attrs=_attributes(model, prefix, collapse), merges=(), steps=spm_steps(prefix, collapse), bos_id=bos_id,
                 eos_ids=(eos_id,) if eos_id >= 0 else (), unk_id=unk_id, pad_id=pad_id, add_bos=bos_id >= 0, dummy_prefix=prefix,
                 collapse_spaces=collapse, byte_fallback=BYTE in model.types, emit_unk=unk_id >= 0, fuse_unk=unk_id >= 0)


_SCORE_MIN = -1e10             # the runtime merges by llama2.c's rules, which take no token at or below it


def _check_pieces(model: _Model) -> None:
    """What the library makes of odd pieces and the runtime does not: unused ones are merged for the sake of longer ones, and so are
    characters that are no pieces."""
    kinds = {piece: kind for piece, kind in zip(model.pieces, model.types, strict=True) if kind in (NORMAL, USER, UNUSED)}

    def one_symbol(text: str) -> bool:
        return len(text) == 1 or text.encode() in kinds

    def is_merged(text: str) -> bool:
        return any(one_symbol(text[:cut]) and one_symbol(text[cut:]) for cut in range(1, len(text)))

    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        text = piece.decode("utf-8", "replace")
        if kind in (NORMAL, USER) and not score > _SCORE_MIN:
            raise UnsupportedError(f"tokenizer.model: piece {escape(piece)}: expected a score above {_SCORE_MIN:g}, found "
                                   f"{score:g}: not supported")
        lacking = next((letter for letter in text if kinds.get(letter.encode()) not in (NORMAL, USER)), "")
        if kind == NORMAL and lacking and is_merged(text):
            raise UnsupportedError(f"tokenizer.model: piece {escape(piece)}: expected its characters to be pieces, found none for "
                                   f"{escape(lacking)}: not supported")
        if kind == UNUSED and is_merged(text):
            raise UnsupportedError(f"tokenizer.model: unused piece {escape(piece)}: expected one that no text is merged to, found "
                                   "one that is: not supported")


_BELOW_ZERO = -2.0 ** -149     # the float next to zero


def _scores(model: _Model) -> tuple[float, ...]:
    """The library prefers 0 to -0, the runtime counts them as the same: where there are both, -0 becomes what is next to it."""
    normal = (score for score, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL)
    zeros = {math.copysign(1.0, score) for score in normal if score == 0}
    if len(zeros) < 2:
        return tuple(model.scores)
    return tuple(_BELOW_ZERO if score == 0 and math.copysign(1.0, score) < 0 else score for score in model.scores)


def _attributes(model: _Model, prefix: bool, collapse: bool) -> tuple[int, ...]:
    """User-defined symbols are looked for in the normalised text, as they are. Where normalising leaves them and what is
    between them alone, nothing needs to be said."""
    mark = MARK.encode()
    symbols = [piece for piece, kind in zip(model.pieces, model.types, strict=True) if kind == USER]
    spaced = next((piece for piece in symbols if b" " in piece), None)
    if spaced is not None:                 # they would keep the normaliser from their spaces
        raise UnsupportedError(f"tokenizer.model: user-defined symbol {escape(spaced)}: expected none with a space: not supported")
    if not prefix and not collapse and not any(mark in piece for piece in symbols):
        return (0,) * len(model.pieces)
    as_is = [prefix or collapse and piece.endswith(mark) for piece in model.pieces]
    return tuple((NORMALIZED | (AS_IS if one else 0)) if kind == USER else 0 for kind, one in zip(model.types, as_is, strict=True))


def _known(model: _Model, number: int) -> int:
    """A special id; some models state one that they do not have."""
    found = model.trainer[number]
    return found if 0 <= found < len(model.pieces) else -1


# ---- tokenizer.bin ----

_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<fI")
ID_UNK, ID_BOS, ID_EOS, ID_BYTES = 0, 1, 2, 3         # llama2.c's constants; byte b is token 3 + b
_TOKENS_MIN = ID_BYTES + 256


def read_tokenizer_bin(data: bytes, vocab_size: int) -> Vocab:
    tokens: list[bytes] = []
    scores: list[float] = []
    at = _HEADER.size
    while at < len(data):
        if len(data) - at < _ENTRY.size:
            raise FormatError(f"tokenizer.bin: piece {len(tokens)} at byte {at}: expected 8 bytes, found {len(data) - at}")
        score, size = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if size > len(data) - at:
            raise FormatError(f"tokenizer.bin: piece {len(tokens)} at byte {at}: expected {size} bytes, found {len(data) - at}")
        tokens.append(data[at:at + size])
        scores.append(score)
        at += size
    if len(tokens) != vocab_size:
        raise FormatError(f"tokenizer.bin: expected {vocab_size} pieces, one for each row of the embedding, found {len(tokens)}")
    if len(tokens) < _TOKENS_MIN:
        raise FormatError(f"tokenizer.bin: expected at least {_TOKENS_MIN} pieces, found {len(tokens)}")
    for byte in range(256):
        if byte_value(tokens[ID_BYTES + byte]) != byte:
            raise FormatError(f"tokenizer.bin: piece {ID_BYTES + byte}: expected <0x{byte:02X}>; this is no llama2.c vocabulary")
    for token_id in (ID_BOS, ID_EOS):                  # written with a line feed on both sides
        if len(tokens[token_id]) > 2 and tokens[token_id][:1] == tokens[token_id][-1:] == b"\n":
            tokens[token_id] = tokens[token_id][1:-1]
    types = [NORMAL] * len(tokens)
    types[:_TOKENS_MIN] = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    return Vocab(kind="spm", tokens=tuple(tokens), scores=tuple(scores), types=tuple(types), attrs=(0,) * len(tokens), merges=(),
                 steps=(prepend(" "), ADDED_STEP), bos_id=ID_BOS, eos_ids=(ID_EOS,), unk_id=ID_UNK, add_bos=True, dummy_prefix=True,
                 byte_fallback=True, any_piece=True)


def write_tokenizer_bin(vocab: Vocab) -> bytes:
    _check_for_bin(vocab)
    parts, longest = [], 0
    for token_id, (token, score) in enumerate(zip(vocab.tokens, vocab.scores, strict=True)):
        text = token.replace(MARK.encode(), b" ")
        if token_id in (ID_BOS, ID_EOS):
            text = b"\n" + text + b"\n"
        longest = max(longest, len(text))
        parts += (_ENTRY.pack(score, len(text)), text)
    return _HEADER.pack(longest) + b"".join(parts)


def _check_for_bin(vocab: Vocab) -> None:
    """What llama2.c takes for granted."""
    reasons = []
    if vocab.kind != "spm":
        reasons.append("expected a SentencePiece vocabulary, found byte-level BPE")
    else:
        if len(vocab.tokens) < _TOKENS_MIN or any(byte_value(vocab.tokens[ID_BYTES + b]) != b for b in range(256)):
            reasons.append("expected byte b to be token b + 3")
        if vocab.bos_id != ID_BOS or ID_EOS not in vocab.eos_ids:
            reasons.append(f"expected bos 1 and eos 2, found {vocab.bos_id} and {', '.join(map(str, vocab.eos_ids)) or 'none'}")
        if not any(step.op == PREPEND for step in vocab.steps) or any(step.op == STRIP for step in vocab.steps):
            reasons.append("expected a space put in front of the text and no other normaliser")
        if USER in vocab.types:
            reasons.append(f"found {vocab.types.count(USER)} added tokens that are not special")
        if not all(math.isfinite(score) for score in vocab.scores):
            reasons.append("found scores that are not finite")
    if reasons:
        raise UnsupportedError(f"tokenizer.bin: llama2.c would encode differently: {'; '.join(reasons)}")
