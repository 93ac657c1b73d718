"""Llama 3's own tokenizer.model: lines of a token in base64 and its rank, as tiktoken writes them. Bytes in, Vocab out.

The file says neither how a text is cut nor what is special. Both are Llama 3's here: its pattern, and the 256 special tokens that
its ids end with. Which files these may be taken for is decided by sources/vocabulary.py; vocabularies of other models that look
alike are refused there.
"""

from __future__ import annotations

import base64
import binascii
import re

from .errors import FormatError, UnsupportedError
from .tokenizer import ADDED_ONLY, CONTROL, NORMAL, Vocab
from .tokenizer_presets import preset_by_name

LLAMA3_RANKS = 128_000
N_SPECIAL = 256
LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,8})\r?(?:\n|$)")
TOKEN_BYTES_MAX = 1024
WORK_MAX = 1 << 28                 # sum of the tokens' lengths squared: what finding the merges costs at most. Llama 3's: 1e7

# Places among the special tokens that have a name; the others are reserved_special_token_N, counted in order.
_FIRST_NAMES = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
_LATER_NAMES = _FIRST_NAMES | {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}
_BEGIN, _END, _PAD, _EOM, _EOT = 0, 1, 4, 8, 9


def special_tokens(later: bool) -> list[bytes]:
    """The names at the end of the ids, of Llama 3 or (`later`) of Llama 3.1, 3.2 and 3.3."""
    names = _LATER_NAMES if later else _FIRST_NAMES
    reserved = iter(range(N_SPECIAL))
    return [f"<|{names.get(place) or f'reserved_special_token_{next(reserved)}'}|>".encode() for place in range(N_SPECIAL)]


def read_tiktoken(data: bytes, later: bool) -> Vocab:
    tokens = _tokens(data)
    n, preset = len(tokens), preset_by_name("llama-bpe")
    special = special_tokens(later)
    taken = set(special).intersection(tokens)
    if taken:
        raise FormatError(f"tokenizer.model: expected pieces, found the special token {min(taken).decode()} among them")
    ends = (_END, _EOT, _EOM) if later else (_END, _EOT)
    return Vocab(kind="bpe", tokens=(*tokens, *special), scores=(0.0,) * (n + N_SPECIAL),
                 types=(NORMAL,) * n + (CONTROL,) * N_SPECIAL, attrs=(0,) * n + (ADDED_ONLY,) * N_SPECIAL, merges=_merges(tokens),
                 steps=preset.steps, bos_id=n + _BEGIN, eos_ids=tuple(n + place for place in ends),
                 pad_id=n + _PAD if later else -1, add_bos=True, ignore_merges=True)


def _tokens(data: bytes) -> list[bytes]:
    """The tokens in the order of their ranks, which are their ids: 0 to n - 1, one on each line."""
    tokens: list[bytes] = []
    at = 0
    while at < len(data):
        line = LINE.match(data, at)
        where = f"tokenizer.model: line {len(tokens) + 1}"
        if line is None:
            raise FormatError(f"{where}: expected base64, a space and a rank, found {data[at:at + 40]!r}")
        try:
            token = base64.b64decode(line[1], validate=True)
        except binascii.Error:
            raise FormatError(f"{where}: expected base64, found {line[1][:40]!r}") from None
        if int(line[2]) != len(tokens):
            raise FormatError(f"{where}: expected the rank {len(tokens)}, found {int(line[2])}")
        if len(token) > TOKEN_BYTES_MAX:
            raise UnsupportedError(f"{where}: expected a token of up to {TOKEN_BYTES_MAX} bytes, found {len(token)}")
        tokens.append(token)
        at = line.end()
    known = set(tokens)
    if len(known) != len(tokens):
        raise FormatError("tokenizer.model: expected every token once, found one twice")
    missing = next((byte for byte in range(256) if bytes([byte]) not in known), None)
    if missing is not None:
        raise FormatError(f"tokenizer.model: expected a token for each byte, found none for 0x{missing:02x}")
    return tokens


def _merges(tokens: list[bytes]) -> tuple[tuple[int, int], ...]:
    """The merges behind the ranks, in their order.

    tiktoken merges whichever neighbours make the token of the lowest rank. Inside the bytes of one token that goes the same way
    wherever they stand, as long as nothing reaches across their ends; so just before a token comes about there are always the
    same two parts. That pair is its merge. A token that its own bytes do not lead to has none: it is found only as a whole piece
    (ignore_merges), in tiktoken as here.
    """
    if sum(len(token) ** 2 for token in tokens) > WORK_MAX:
        raise UnsupportedError("tokenizer.model: expected tokens of a few bytes, found so many long ones that finding their merges "
                               "would take minutes")
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = []
    for token in tokens:
        parts = _last_parts(token, ranks)
        if parts is not None:
            pairs.append((ranks[parts[0]], ranks[parts[1]]))
    return tuple(pairs)


def _last_parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that a token's bytes are merged to at last; None where they end as more."""
    parts = [token[at:at + 1] for at in range(len(token))]
    none = len(ranks)
    found = [ranks.get(left + right, none) for left, right in zip(parts, parts[1:], strict=False)]
    while len(parts) > 2:
        best = min(found)
        if best == none:
            return None
        at = found.index(best)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
        del found[at]
        if at:
            found[at - 1] = ranks.get(parts[at - 1] + parts[at], none)
        if at < len(found):
            found[at] = ranks.get(parts[at] + parts[at + 1], none)
    return (parts[0], parts[1]) if len(parts) == 2 else None
