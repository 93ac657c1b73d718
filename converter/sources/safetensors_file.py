"""A .safetensors file: its header, read strictly, and where each tensor's bytes are.

Stricter than the format's own reader only where two readers could disagree (duplicate keys). No model semantics: names, dtypes
and extents, all checked against the file before anything is returned. Called by hf.py and inspect.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import strict_json
from ..errors import FormatError, UnsupportedError, escape
from .input_file import InputFile, looks_like

MAX_HEADER = 100_000_000           # the reference reader's cap
MAX_EXTENT = 1 << 63

# Bits of an element. Only f32, f16 and bf16 are ever read; the rest is here to check extents and to be named.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}


@dataclass(frozen=True)
class SafetensorsEntry:
    """One tensor: `offset` counts from the file's start. `strides` (in elements) are those of a matrix that does not lie row by
    row: torch's files have them, where one row's weights or one column's are neighbours."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = None

    def rows(self, file: InputFile, begin: int, end: int) -> np.ndarray:
        """uint8 (end - begin, row_bytes): rows [begin, end) of a matrix; a vector is one row."""
        item = DTYPE_BITS[self.dtype] // 8
        n_columns = self.shape[-1] if self.shape else 1
        if self.strides is None:
            data = file.read_array(self.offset + begin * n_columns * item, (end - begin) * n_columns * item)
            return data.reshape(end - begin, n_columns * item)
        out = np.empty((end - begin, n_columns, item), dtype=np.uint8)
        across, along = self.strides
        if along == 1:
            for row in range(begin, end):
                out[row - begin] = file.read_array(self.offset + row * across * item, n_columns * item).reshape(n_columns, item)
        else:                          # a transposed matrix: its columns lie together
            for column in range(n_columns):
                at = self.offset + (begin * across + column * along) * item
                out[:, column] = file.read_array(at, (end - begin) * item).reshape(-1, item)
        return out.reshape(end - begin, n_columns * item)


@dataclass(frozen=True)
class SafetensorsHeader:
    """Tensors in the order of their bytes, and the free-form metadata."""

    tensors: Mapping[str, SafetensorsEntry]
    metadata: Mapping[str, str]


def read_header(file: InputFile) -> SafetensorsHeader:
    """The checked header of an open file; FormatError names what is wrong with it."""
    name = file.name
    if file.size < 8:
        raise FormatError(f"{name}: expected a safetensors file, found {_looks(file)}")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER or length > file.size - 8:
        seen = looks_like(file.read(0, min(64, file.size)), file.size)
        found = f"{length}" if seen is None else seen
        raise FormatError(f"{name}: header length at byte 0: expected at most {min(MAX_HEADER, file.size - 8)}, found {found}")
    header = strict_json.load_object(file.read(8, length), name)
    metadata = _metadata(name, header.pop("__metadata__", None))
    data_begin = 8 + length
    entries = {key: _entry(name, key, value, data_begin) for key, value in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    end = data_begin
    for key, entry in ordered.items():
        if entry.offset != end:
            raise FormatError(f"{name}: {escape(key)}: expected its data to begin at byte {end - data_begin}, "
                              f"found {entry.offset - data_begin}")
        end += entry.nbytes
    if end != file.size:
        raise FormatError(f"{name}: expected a file of {end} bytes, as its header says, found {file.size}")
    return SafetensorsHeader(ordered, metadata)


def _looks(file: InputFile) -> str:
    return looks_like(file.read(0, file.size), file.size) or f"a file of {file.size} bytes"


def _metadata(name: str, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError(f"{name}: __metadata__: expected an object of strings, found something else")
    return value


def _entry(name: str, key: str, value: Any, data_begin: int) -> SafetensorsEntry:
    where = f"{name}: {escape(key)}"
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object, found {strict_json.type_name(value)}")
    dtype, shape, extent = (value.get(field) for field in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise FormatError(f"{where}: dtype: expected a name, found {strict_json.type_name(dtype)}")
    if dtype not in DTYPE_BITS:
        raise UnsupportedError(f"{where}: dtype '{escape(dtype)}' is not known; F32, F16 and BF16 are read")
    if not isinstance(shape, list) or not all(_is_size(item) for item in shape):
        raise FormatError(f"{where}: shape: expected an array of sizes, found something else")
    if not isinstance(extent, list) or len(extent) != 2 or not all(_is_size(item) for item in extent) or extent[0] > extent[1]:
        raise FormatError(f"{where}: data_offsets: expected a begin and an end, found something else")
    bits = DTYPE_BITS[dtype]
    for size in shape:
        bits *= size
        if bits >= 8 * MAX_EXTENT:
            raise FormatError(f"{where}: shape: expected a tensor below 2^63 bytes, found more")
    if bits % 8 or bits // 8 != extent[1] - extent[0]:
        raise FormatError(f"{where}: expected {bits / 8:g} bytes for shape {shape_text(tuple(shape))} of {dtype}, "
                          f"found {extent[1] - extent[0]}")
    return SafetensorsEntry(dtype, tuple(shape), data_begin + extent[0], extent[1] - extent[0])


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_EXTENT


def shape_text(shape: tuple[int, ...]) -> str:
    """(4, 3) as 4x3."""
    return "x".join(str(size) for size in shape) if shape else "()"
