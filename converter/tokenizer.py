"""The neutral vocabulary: what a tokenizer is, whatever file said it, and the doors from and to every kind of file.

A Vocab is plain data; it encodes nothing (the C runtime does). Every reader checks what it reads and ends in `checked`, so that a
Vocab that exists is consistent. The formats themselves are in the tokenizer_*.py modules. Called by sources/, targets/ and pyllama.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import FormatError, UnsupportedError
from .tokenizer_steps import ADDED, PREPEND, REPLACE, SPACES, SPLIT, STEP_BYTES_MAX, STEPS_MAX, Step

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6          # GGUF's token types
LSTRIP, RSTRIP, SINGLE_WORD, NORMALIZED, ADDED_ONLY, ALSO_BYTE, AS_IS = (1 << bit for bit in range(8, 15))
ATTRS = LSTRIP | RSTRIP | SINGLE_WORD | NORMALIZED | ADDED_ONLY | ALSO_BYTE | AS_IS

TOKENS_MAX = 1 << 24
EOS_MAX = 4
ADDED_BYTES_MAX = 4096


@dataclass(frozen=True)
class Vocab:
    """`kind` "spm": SentencePiece BPE, merges by rank where there are merges, else by score; "bpe": byte-level BPE.

    tokens are bytes (a byte-level vocabulary's are mapped back from GPT-2's alphabet), added tokens are their text. `attrs` are
    the bits above. What the steps and flags mean is in docs/tokenizer.md."""

    kind: str
    tokens: tuple[bytes, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    attrs: tuple[int, ...]
    merges: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]
    bos_id: int = -1
    eos_ids: tuple[int, ...] = ()
    unk_id: int = -1
    pad_id: int = -1
    add_bos: bool = False
    add_eos: bool = False
    dummy_prefix: bool = False             # decoding drops one leading space
    byte_fallback: bool = False
    ignore_merges: bool = False            # a piece that is a token is that token
    collapse_spaces: bool = False          # a summary of the steps, for GGUF
    any_piece: bool = False                # llama2.c: also unknown and byte tokens come about by merging
    emit_unk: bool = False                 # what no token stands for becomes unk_id; else it is dropped
    fuse_unk: bool = False                 # one unk_id for a run of it

    @classmethod
    def from_tokenizer_json(cls, data: Mapping[str, Any], tokenizer_config: Mapping[str, Any] | None = None) -> Vocab:
        from .tokenizer_json import read_tokenizer_json

        return checked(read_tokenizer_json(data, tokenizer_config or {}), "tokenizer.json")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Vocab:
        """From a GGUF file's keys; arrays are any sequences, strings str (surrogateescape for bytes that are no UTF-8) or bytes."""
        from .tokenizer_gguf import read_gguf_keys

        return checked(read_gguf_keys(metadata), "tokenizer.ggml")

    @classmethod
    def from_tokenizer_bin(cls, data: bytes, vocab_size: int) -> Vocab:
        from .tokenizer_sentencepiece import read_tokenizer_bin

        return checked(read_tokenizer_bin(data, vocab_size), "tokenizer.bin")

    @classmethod
    def from_sentencepiece(cls, data: bytes) -> Vocab:
        from .tokenizer_sentencepiece import read_sentencepiece

        return checked(read_sentencepiece(data), "tokenizer.model")

    @classmethod
    def from_tiktoken(cls, data: bytes, later: bool = True) -> Vocab:
        """From Llama 3's own tokenizer.model. `later`: the special tokens have the names of Llama 3.1 and after."""
        from .tokenizer_tiktoken import read_tiktoken

        return checked(read_tiktoken(data, later), "tokenizer.model")

    @classmethod
    def from_tokn(cls, data: bytes) -> Vocab:
        from .tokenizer_tokn import read_tokn

        return checked(read_tokn(data), "TOKN")

    def to_tokn(self) -> bytes:
        from .tokenizer_tokn import write_tokn

        return write_tokn(self)

    def to_gguf(self) -> dict[str, Any]:
        """The tokenizer.ggml.* keys, and `ak42.tokenizer` (a TOKN section as a list of bytes) where those would lose something.

        UnsupportedError where no name of GGUF's stands for the steps."""
        from .tokenizer_gguf import write_gguf_keys

        return write_gguf_keys(self)

    def gguf_notes(self) -> list[str]:
        """What other readers of `to_gguf` will do differently from this vocabulary, one line each."""
        from .tokenizer_gguf import gguf_notes

        return gguf_notes(self)

    def to_tokenizer_json(self) -> dict[str, Any]:
        from .tokenizer_json_writer import write_tokenizer_json

        return write_tokenizer_json(self)

    def to_tokenizer_config(self) -> dict[str, Any]:
        from .tokenizer_json_writer import write_tokenizer_config

        return write_tokenizer_config(self)

    def to_tokenizer_bin(self) -> bytes:
        """llama2.c's sidecar; UnsupportedError where llama2.c would encode differently."""
        from .tokenizer_sentencepiece import write_tokenizer_bin

        return write_tokenizer_bin(self)

    def padded_to(self, vocab_size: int) -> Vocab:
        """With unused tokens at the end, for a model whose embedding has more rows than the tokenizer has tokens."""
        n = len(self.tokens)
        if n > vocab_size:
            raise FormatError(f"tokenizer: expected up to {vocab_size} tokens (the embedding's rows), found {n}")
        if n == vocab_size:
            return self
        extra = range(n, vocab_size)
        return replace(self, tokens=self.tokens + tuple(b"[PAD%d]" % i for i in extra), scores=self.scores + (0.0,) * len(extra),
                       types=self.types + (UNUSED,) * len(extra), attrs=self.attrs + (0,) * len(extra))


def byte_value(token: bytes) -> int | None:
    """b"<0x0A>" -> 10; None for anything else."""
    digits = token[3:5]
    if len(token) != 6 or token[:3] != b"<0x" or token[5:] != b">" or not all(c in b"0123456789abcdefABCDEF" for c in digits):
        return None
    return int(digits, 16)


def is_added(token_type: int) -> bool:
    """Whether tokens of a type are looked for in the text before anything else."""
    return token_type in (UNKNOWN, CONTROL, USER)


def checked(vocab: Vocab, where: str) -> Vocab:
    """The rules that the C reader has, so that what is refused is refused at conversion."""
    n = len(vocab.tokens)
    if not 1 <= n <= TOKENS_MAX:
        raise FormatError(f"{where}: expected 1 to {TOKENS_MAX} tokens, found {n}")
    for what, found in (("scores", vocab.scores), ("types", vocab.types), ("attributes", vocab.attrs)):
        if len(found) != n:
            raise FormatError(f"{where}: expected {n} {what}, one for each token, found {len(found)}")
    named = [("bos", vocab.bos_id), ("unk", vocab.unk_id), ("pad", vocab.pad_id), *(("eos", i) for i in vocab.eos_ids)]
    for what, token_id in named:
        if not (0 if what == "eos" else -1) <= token_id < n:
            raise FormatError(f"{where}: {what} id: expected 0 to {n - 1}, found {token_id}")
    if len(vocab.eos_ids) > EOS_MAX:
        raise UnsupportedError(f"{where}: expected up to {EOS_MAX} eos ids, found {len(vocab.eos_ids)}")
    if vocab.add_bos and vocab.bos_id < 0 or vocab.add_eos and not vocab.eos_ids:
        raise FormatError(f"{where}: a BOS or EOS is added, but there is none")
    if vocab.emit_unk and vocab.unk_id < 0:
        raise FormatError(f"{where}: an unknown token is emitted, but there is none")
    for token_id, (token, kind, attr) in enumerate(zip(vocab.tokens, vocab.types, vocab.attrs, strict=True)):
        if not NORMAL <= kind <= BYTE:
            raise FormatError(f"{where}: token {token_id}: expected a type of 1 to 6, found {kind}")
        if (kind == BYTE or attr & ALSO_BYTE) and byte_value(token) is None:
            raise FormatError(f"{where}: token {token_id}: expected a byte as <0x..>, found other text")
        if is_added(kind) and len(token) > ADDED_BYTES_MAX:
            raise UnsupportedError(f"{where}: token {token_id}: expected an added token of up to {ADDED_BYTES_MAX} bytes, "
                                   f"found {len(token)}")
    _check_merges(vocab, where)
    if len(vocab.steps) > STEPS_MAX or sum(step.op == ADDED for step in vocab.steps) != 1:
        raise UnsupportedError(f"{where}: expected up to {STEPS_MAX} steps, found {len(vocab.steps)}")
    for number, step in enumerate(vocab.steps):
        size = len(step.data)
        if step.op == REPLACE:                 # a length, and the pattern of which it is
            size = int.from_bytes(step.data[:4], "little")
            size = size if 4 + size <= len(step.data) else 0
        if len(step.data) > STEP_BYTES_MAX or step.op in (PREPEND, REPLACE, SPLIT, SPACES) and not size:
            raise UnsupportedError(f"{where}: step {number} (op {step.op}): expected a text of 1 to {STEP_BYTES_MAX} bytes, found "
                                   f"{max(size, len(step.data)) if size else 0}")
    return vocab


def _check_merges(vocab: Vocab, where: str) -> None:
    n, tokens = len(vocab.tokens), vocab.tokens
    columns = zip(tokens, vocab.types, vocab.attrs, strict=True)
    pieces = {token for token, kind, attr in columns if kind != UNUSED and not attr & ADDED_ONLY}
    for rank, (left, right) in enumerate(vocab.merges):
        if not (0 <= left < n and 0 <= right < n):
            raise FormatError(f"{where}: merge {rank}: expected ids below {n}, found {left} and {right}")
        if tokens[left] + tokens[right] not in pieces:
            raise FormatError(f"{where}: merge {rank}: tokens {left} and {right} together are no token")
