"""Tokenizer: text to token ids and back, alone or as part of a Model. The work is done in C; this file chooses flags, sizes
buffers and reads the kinds of vocabulary that C does not (tokenizer.json, tokenizer.model and folders, through the converter)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ._native import check, error_text, ffi, lib, new_error, path_bytes, raise_status, token_ids
from .errors import RANGE, ArgumentError, ClosedError, FormatError, ModelIOError, ModelNotFoundError, UnsupportedError

_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


class Tokenizer:
    """A vocabulary with its rules. Immutable, and free to be used by many threads at once.

    Tokenizer(path) reads it from a model file (ak42 or GGUF, a vocabulary-only one or a part of a split one too), a llama2.c
    tokenizer.bin, a tokenizer.json, a tokenizer.model (SentencePiece's or Llama 3's) or a folder with one of them; what a file
    holds decides, not its name. A model's own is `model.tokenizer`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        raw = path_bytes(path)
        if _is_converters(path):
            self._handle = _open_tokn(_converted_tokn(path))
            return
        out = ffi.new("ak42_tokenizer **")
        error = new_error()
        check(lib.ak42_tokenizer_open(out, raw, ffi.NULL, 0, error), error, path)
        self._handle = ffi.gc(out[0], lib.ak42_tokenizer_close)

    @classmethod
    def _of_model(cls, model_handle: Any, path: str) -> Tokenizer | None:
        """The tokenizer inside an open model, which it keeps open; None where there is none."""
        borrowed = lib.ak42_model_tokenizer(model_handle)
        if borrowed == ffi.NULL:
            return None
        self = cls.__new__(cls)
        self.path = path
        # The retained model frees the tokenizer; the cast only spells the type that C's functions take.
        owner = ffi.gc(lib.ak42_model_retain(model_handle), lib.ak42_model_close)
        self._handle = ffi.gc(borrowed, lambda _, owner=owner: None)
        return self

    @property
    def vocab_size(self) -> int:
        """The number of tokens: ids are below it."""
        return self._info().vocab_size

    @property
    def bos_id(self) -> int:
        """-1: none."""
        return self._info().bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text; the first is the tokenizer's own."""
        info = self._info()
        return tuple(info.eos_ids[0 : info.n_eos])

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts BOS first by itself."""
        return bool(self._info().add_bos)

    def encode(self, text: str, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Ids of a text. add_bos None: as the tokenizer does by itself; a text that begins with BOS gets no second. parse_special:
        special tokens that are spelled out in the text become their ids; otherwise they are text like any other."""
        flags = lib.AK42_ENCODE_SPECIAL if parse_special else 0
        if add_bos is not None:
            flags |= lib.AK42_ENCODE_BOS if add_bos else lib.AK42_ENCODE_NO_BOS
        return self.encode_bytes(text_bytes(text), flags)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. skip_special: control tokens give no text."""
        return self.decode_bytes(ids, lib.AK42_DECODE_SKIP_SPECIAL if skip_special else 0).decode("utf-8", "replace")

    def encode_bytes(self, data: bytes, flags: int = 0) -> list[int]:
        """Ids of bytes, which need not be UTF-8, with AK42_ENCODE_ flags of ak42.h."""
        handle = self._open()
        needed, error = ffi.new("size_t *"), new_error()
        room = len(data) + 8
        while True:
            ids = ffi.new("int32_t[]", room)
            status = lib.ak42_encode(handle, data, len(data), flags, ids, room, needed, error)
            if status == RANGE and needed[0] > room:
                room = needed[0]
                continue
            check(status, error)
            return ffi.unpack(ids, needed[0])

    def decode_bytes(self, ids: Sequence[int], flags: int = 0) -> bytes:
        """The bytes of ids, with AK42_DECODE_ flags of ak42.h. They may end inside a character."""
        handle = self._open()
        array, count = token_ids(ids)
        size, error = ffi.new("size_t *"), new_error()
        room = 16 * count + 64
        while True:
            text = ffi.new("char[]", room)
            status = lib.ak42_decode(handle, array, count, flags, text, room, size, error)
            if status == RANGE and size[0] > room:
                room = size[0]
                continue
            if status == RANGE:
                raise ArgumentError(error_text(error))
            check(status, error)
            return ffi.unpack(text, size[0])

    def close(self) -> None:
        """Frees it once calls that are under way have returned. Closing twice is fine."""
        self._handle = None

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pyllama.Tokenizer {self.path!r}{'' if self._handle else ', closed'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Tokenizer cannot be pickled; pickle its path")

    def _info(self) -> Any:
        info, error = ffi.new("ak42_tokenizer_info *"), new_error()
        info.struct_size = ffi.sizeof("ak42_tokenizer_info")
        check(lib.ak42_tokenizer_get_info(self._open(), info, error), error)
        return info

    def _open(self) -> Any:
        handle = self._handle
        if handle is None:
            raise ClosedError(f"{self.path}: the tokenizer was closed")
        return handle


def text_bytes(text: str) -> bytes:
    """UTF-8 of a text. Bytes that Python smuggled in from a command line or a file name (surrogateescape) come back as they
    were; any other half of a surrogate pair is refused."""
    if not isinstance(text, str):
        raise ArgumentError(f"text: expected a str, found {type(text).__name__}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ArgumentError(f"text: expected Unicode text, found half a surrogate pair at character {error.start}") from None


def _is_converters(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a vocabulary that the converter reads: a folder, JSON, or a SentencePiece model, which begins with its
    first piece (field 1 and a length; a tokenizer.bin may begin with the same byte, and zeros behind it), or a tiktoken vocabulary,
    lines of base64 and a rank."""
    if os.path.isdir(path):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return False               # C says what is wrong
    if head.lstrip()[:1] == b"{" or (head[:1] == b"\n" and head[1:2] != b"\0") or _TIKTOKEN.match(head):
        return True
    return os.fsdecode(path).endswith(".model")


def _open_tokn(tokn: bytes) -> Any:
    out = ffi.new("ak42_tokenizer **")
    error = new_error()
    status = lib.ak42_tokenizer_open(out, ffi.NULL, tokn, len(tokn), error)
    if status:
        raise_status(status, error_text(error))
    return ffi.gc(out[0], lib.ak42_tokenizer_close)


def _converted_tokn(path: str | os.PathLike[str]) -> bytes:
    """The vocabulary of a tokenizer.json, a tokenizer.model or a Hugging Face folder as a TOKN section."""
    if not os.path.exists(path):
        raise ModelNotFoundError(f"{os.fspath(path)}: no such file")
    from converter.errors import ConvertError
    from converter.errors import UnsupportedError as Unsupported
    from converter.sources.vocabulary import from_file

    try:
        return from_file(Path(path), 0).to_tokn()
    except ConvertError as error:
        kind = ModelIOError if isinstance(error, OSError) else UnsupportedError if isinstance(error, Unsupported) else FormatError
        raise kind(str(error)) from None
