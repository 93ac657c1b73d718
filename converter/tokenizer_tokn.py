"""The TOKN section of ak42 files (docs/tokenizer.md), both ways. runtime_c/core/tokenizer_tokn.c is its other reader."""

from __future__ import annotations

import struct

from .errors import FormatError, UnsupportedError
from .tokenizer import ATTRS, EOS_MAX, Vocab
from .tokenizer_steps import OPS, Step

VERSION = 1
KINDS = {"spm": 1, "bpe": 2}
# Flag bits in order.
FLAGS = ("add_bos", "add_eos", "dummy_prefix", "byte_fallback", "ignore_merges", "collapse_spaces", "any_piece", "emit_unk",
         "fuse_unk")

_HEADER = struct.Struct("<3I3i4I")       # version, kind, flags, bos, unk, pad, n_eos, n_tokens, n_merges, n_steps
_TOKEN = struct.Struct("<f2I")           # score, type and attributes, length
_STEP = struct.Struct("<3I")             # op, flags, length


def write_tokn(vocab: Vocab) -> bytes:
    flags = sum(1 << bit for bit, name in enumerate(FLAGS) if getattr(vocab, name))
    parts = [_HEADER.pack(VERSION, KINDS[vocab.kind], flags, vocab.bos_id, vocab.unk_id, vocab.pad_id, len(vocab.eos_ids),
                          len(vocab.tokens), len(vocab.merges), len(vocab.steps)),
             struct.pack(f"<{len(vocab.eos_ids)}i", *vocab.eos_ids)]
    for token, score, kind, attr in zip(vocab.tokens, vocab.scores, vocab.types, vocab.attrs, strict=True):
        parts += (_TOKEN.pack(score, kind | attr, len(token)), token)
    parts.append(struct.pack(f"<{2 * len(vocab.merges)}I", *(token_id for pair in vocab.merges for token_id in pair)))
    for step in vocab.steps:
        parts += (_STEP.pack(step.op, step.flags, len(step.data)), step.data)
    return b"".join(parts)


def read_tokn(data: bytes) -> Vocab:
    if len(data) < _HEADER.size:
        raise FormatError(f"TOKN: expected at least {_HEADER.size} bytes, found {len(data)}")
    version, kind, flags, bos_id, unk_id, pad_id, n_eos, n_tokens, n_merges, n_steps = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UnsupportedError(f"TOKN: expected version {VERSION}, found {version}")
    if kind not in KINDS.values():
        raise UnsupportedError(f"TOKN: expected kind 1 or 2, found {kind}")
    if flags >> len(FLAGS):
        raise UnsupportedError(f"TOKN: unknown flags {flags:#x}")
    if n_eos > EOS_MAX:
        raise UnsupportedError(f"TOKN: expected up to {EOS_MAX} eos ids, found {n_eos}")
    cursor = _Cursor(data, _HEADER.size)
    eos_ids = cursor.unpack(f"<{n_eos}i", 4 * n_eos, "eos ids")
    tokens = cursor.entries(_TOKEN, n_tokens, "token")
    flat = cursor.unpack(f"<{2 * n_merges}I", 8 * n_merges, "merges")
    steps = cursor.entries(_STEP, n_steps, "step")
    if cursor.at != len(data):
        raise FormatError(f"TOKN: expected {cursor.at} bytes, found {len(data)}")
    unknown = next((fields[1] for fields, _ in tokens if fields[1] & ~(ATTRS | 255)), None)
    if unknown is not None:
        raise UnsupportedError(f"TOKN: unknown token attributes {unknown:#x}")
    foreign = next((fields[0] for fields, _ in steps if fields[0] not in OPS), None)
    if foreign is not None:
        raise UnsupportedError(f"TOKN: unknown step {foreign}")
    return Vocab(
        kind=next(name for name, number in KINDS.items() if number == kind),
        tokens=tuple(text for _, text in tokens), scores=tuple(fields[0] for fields, _ in tokens),
        types=tuple(fields[1] & 255 for fields, _ in tokens), attrs=tuple(fields[1] & ATTRS for fields, _ in tokens),
        merges=tuple(zip(flat[::2], flat[1::2], strict=True)),
        steps=tuple(Step(fields[0], fields[1], text) for fields, text in steps),
        bos_id=bos_id, eos_ids=tuple(eos_ids), unk_id=unk_id, pad_id=pad_id,
        **{name: bool(flags >> bit & 1) for bit, name in enumerate(FLAGS)})


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def _need(self, size: int, what: str) -> None:
        if size > len(self.data) - self.at:
            raise FormatError(f"TOKN: {what} at byte {self.at}: expected {size} bytes, found {len(self.data) - self.at}")

    def unpack(self, layout: str, size: int, what: str) -> tuple[int, ...]:
        self._need(size, what)
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values

    def entries(self, head: struct.Struct, count: int, what: str) -> list[tuple[tuple, bytes]]:
        """Entries of a head, whose last field is a length, and so many bytes."""
        self._need(count * head.size, f"{count} {what}s")
        found = []
        for index in range(count):
            self._need(head.size, f"{what} {index}")
            fields = head.unpack_from(self.data, self.at)
            self.at += head.size
            self._need(fields[-1], f"{what} {index}")
            found.append((fields, self.data[self.at:self.at + fields[-1]]))
            self.at += fields[-1]
        return found
