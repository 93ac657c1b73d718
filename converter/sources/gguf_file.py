"""A GGUF file as a container: version, metadata and tensor extents, every one checked against the file.

No model semantics, and no library: the reference's Python reader hangs on hostile counts. Tensors of types that are not decoded
here are still listed. Called by gguf.py and inspect.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FormatError, UnsupportedError, escape
from .input_file import InputFile, looks_like

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 65536
MAX_TENSORS = 65536
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 64
MAX_DIMS = 4
MAX_SIZE = 1 << 63
MIN_KEY_BYTES = 8 + 1 + 4 + 1      # length, one letter, type, value
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
DEFAULT_ALIGNMENT = 32
HEADER_CHUNK = 1 << 20             # bytes read at first; doubled while the header goes on

STRING, ARRAY, BOOL = 8, 9, 7
# value type id -> numpy type of a number
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"}

# tensor type id -> name, weights of a block, bytes of a block
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor; shape is outermost first, offset counts from the file's start. nbytes is -1 where the type is not known."""

    name: str
    type_id: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type_id][0] if self.type_id in TENSOR_TYPES else f"type {self.type_id}"


@dataclass(frozen=True)
class GgufFile:
    """Metadata values are int, float, bool, str (invalid UTF-8 as surrogate escapes) or lists of one of these."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(file: InputFile, *, unknown_types: bool = False) -> GgufFile:
    """The checked container of an open file. `unknown_types`: list tensors of type ids that nobody defined, not refuse them."""
    cursor = _Cursor(file)
    version = _version(cursor)
    n_tensors = cursor.count("number of tensors", MAX_TENSORS, MIN_TENSOR_BYTES)
    n_keys = cursor.count("number of keys", MAX_KEYS, MIN_KEY_BYTES)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = _key(cursor)
        if key in metadata:
            raise cursor.error(f"the key '{escape(key)}' stands twice")
        metadata[key] = _value(cursor, key, cursor.number("<u4"))
    alignment = _alignment(cursor, metadata)
    tensors = [_tensor(cursor, unknown_types) for _ in range(n_tensors)]
    if len({tensor.name for tensor in tensors}) != n_tensors:
        names = [tensor.name for tensor in tensors]
        raise cursor.error(f"the tensor '{escape(next(name for name in names if names.count(name) > 1))}' stands twice")
    return GgufFile(version, metadata, _placed(cursor, tensors, alignment))


def _version(cursor: _Cursor) -> int:
    name = cursor.file.name
    head = cursor.file.read(0, min(64, cursor.file.size))
    if not head.startswith(MAGIC):
        seen = looks_like(head, cursor.file.size)
        raise FormatError(f"{name}: expected a GGUF file, found {seen or 'other first bytes'}")
    cursor.take(4)
    version = cursor.number("<u4")
    if version in VERSIONS:
        return version
    if version and version & 0xFFFF == 0:
        raise UnsupportedError(f"{name}: a big-endian GGUF file is not supported; convert it on the machine that it is from")
    raise UnsupportedError(f"{name}: GGUF version at byte 4: version {version} is not supported; 2 and 3 are")


def _key(cursor: _Cursor) -> str:
    raw = cursor.string("a key", MAX_KEY_BYTES)
    try:
        key = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise cursor.error(f"a key: expected UTF-8, found '{escape(raw)}'") from None
    if not key or "\0" in key:
        raise cursor.error(f"a key: expected a name, found '{escape(key)}'")
    return key


def _value(cursor: _Cursor, key: str, kind: int) -> Any:
    if kind == STRING:
        return cursor.string(key).decode("utf-8", "surrogateescape")
    if kind in NUMBERS:
        value = cursor.number(NUMBERS[kind])
        return bool(value) if kind == BOOL else value
    if kind != ARRAY:
        raise cursor.error(f"{escape(key)}: expected a value type up to 12, found {kind}")
    element = cursor.number("<u4")
    length = cursor.number("<u8")
    if element == STRING:
        cursor.check(f"{escape(key)}: an array of {length} strings", length, 8)
        return [cursor.string(key).decode("utf-8", "surrogateescape") for _ in range(length)]
    if element not in NUMBERS:
        raise cursor.error(f"{escape(key)}: expected an array of numbers or strings, found element type {element}")
    item = np.dtype(NUMBERS[element])
    cursor.check(f"{escape(key)}: an array of {length}", length, item.itemsize)
    values = np.frombuffer(cursor.take(length * item.itemsize), dtype=item)
    return (values != 0).tolist() if element == BOOL else values.tolist()


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31 or value & (value - 1):
        raise cursor.error(f"general.alignment: expected a power of two, found {escape(value)}")
    return value


def _tensor(cursor: _Cursor, unknown_types: bool) -> GgufTensor:
    raw = cursor.string("a tensor name", MAX_NAME_BYTES)
    name = raw.decode("utf-8", "surrogateescape")
    shown = escape(name)
    n_dims = cursor.number("<u4")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.error(f"{shown}: expected 1 to {MAX_DIMS} dimensions, found {n_dims}")
    shape = tuple(cursor.number("<u8") for _ in range(n_dims))[::-1]
    type_id = cursor.number("<u4")
    offset = cursor.number("<u8")
    numel = 1
    for size in shape:
        numel *= size
        if numel >= MAX_SIZE:
            raise cursor.error(f"{shown}: expected a tensor below 2^63 weights, found more")
    if type_id not in TENSOR_TYPES:
        if not unknown_types:
            raise UnsupportedError(f"{cursor.file.name}: {shown}: tensor type {type_id} is not known")
        return GgufTensor(name, type_id, shape, offset, -1)
    _type, block_len, block_bytes = TENSOR_TYPES[type_id]
    if shape[-1] % block_len:
        raise cursor.error(f"{shown}: expected rows of a multiple of {block_len} weights for {_type}, found {shape[-1]}")
    return GgufTensor(name, type_id, shape, offset, numel // block_len * block_bytes)


def _placed(cursor: _Cursor, tensors: list[GgufTensor], alignment: int) -> tuple[GgufTensor, ...]:
    """The tensors with offsets from the file's start: each begins where the one before ends, padded, and ends inside the file."""
    data_begin = _aligned(cursor.position, alignment)
    expected: int | None = 0
    placed = []
    for tensor in tensors:
        shown = escape(tensor.name)
        if expected is not None and tensor.offset != expected:
            raise cursor.error(f"{shown}: expected its data at offset {expected}, found {tensor.offset}")
        size = max(tensor.nbytes, 0)
        if data_begin + tensor.offset + size > cursor.file.size and (size or tensor.nbytes < 0):
            raise FormatError(f"{cursor.file.name}: {shown}: expected its {size} bytes at {data_begin + tensor.offset} inside the "
                              f"file, found the file's end at {cursor.file.size}; it is cut off: fetch or convert it again")
        # after a tensor of unknown size nothing can be said about where the next one begins
        expected = None if expected is None or tensor.nbytes < 0 else _aligned(tensor.offset + size, alignment)
        placed.append(GgufTensor(tensor.name, tensor.type_id, tensor.shape, data_begin + tensor.offset, tensor.nbytes))
    return tuple(placed)


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


class _Cursor:
    """Reads forward through a file's head, never past its end, and never believes a count that cannot be true."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.position = 0
        self._data = b""

    def error(self, text: str) -> FormatError:
        return FormatError(f"{self.file.name}: {text} (before byte {self.position})")

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            self._grow(end, size)
        data = self._data[self.position : end]
        self.position = end
        return data

    def _grow(self, end: int, size: int) -> None:
        if end > self.file.size:
            raise FormatError(f"{self.file.name}: expected {size} bytes at {self.position}, "
                              f"found the end of the file at {self.file.size}")
        have = len(self._data)
        wanted = min(self.file.size, max(end, 2 * have, HEADER_CHUNK))
        self._data += self.file.read(have, wanted - have)

    def number(self, kind: str) -> Any:
        return np.frombuffer(self.take(np.dtype(kind).itemsize), dtype=kind)[0].item()

    def count(self, what: str, high: int, min_bytes: int) -> int:
        value = self.number("<u8")
        if value > high:
            raise self.error(f"{what}: expected at most {high}, found {value}")
        self.check(what, value, min_bytes)
        return value

    def check(self, what: str, count: int, min_bytes: int) -> None:
        """Whether `count` items of at least `min_bytes` can still be in the file."""
        if count * min_bytes > self.file.size - self.position:
            raise self.error(f"{what}: expected no more than the {self.file.size - self.position} bytes left hold, found {count}")

    def string(self, what: str, high: int = MAX_SIZE) -> bytes:
        # int.from_bytes: a vocabulary has hundreds of thousands of strings
        size = int.from_bytes(self.take(8), "little")
        if size > high or size > self.file.size - self.position:
            limit = min(high, self.file.size - self.position)
            raise self.error(f"{escape(what)}: expected a string of at most {limit} bytes, found {size}")
        return self.take(size)
