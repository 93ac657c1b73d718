"""Weights that bitsandbytes has quantised, as the values that it would compute with: read in numpy, without it and without a GPU.

A matrix of 4 bits (NF4 or FP4) is codes, two a byte, a scale for each block, and those scales may be 8-bit codes with scales of
their own; LLM.int8 is a byte a weight and a scale a row. What is left after `unpacked` is entries that decode rows when they are
asked for, equal to bitsandbytes' dequantisation bit for bit, and that give NF4's blocks as ak42 files hold them. Called by hf.py
and inspect.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import strict_json
from ..blocks import NF4_NESTED_VALUES, NF4_VALUES
from ..errors import FormatError, UnsupportedError, escape
from ..fields import LARGEST_F32
from ..quant import NF4_BLOCK, NF4_DQ, NF4_NESTED, TYPES, NestedRows
from .input_file import InputFile
from .safetensors_file import SafetensorsEntry, shape_text

METHOD = "bitsandbytes"
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
STATE = ".quant_state.bitsandbytes__"              # + "nf4" or "fp4": a JSON text
MAX_STATE = 4096
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INT8_STEP = np.float32(7.874015718698502e-3)       # 1/127, as bitsandbytes rounds it

# The values of the codes 0 to 15 at scale 1.
FP4 = tuple(value / 12 for value in (0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3))
CODES = {"nf4": NF4_VALUES, "fp4": np.array(FP4, dtype=np.float32)}

_Parts = Mapping[str, tuple[InputFile, SafetensorsEntry]]      # a statistic's name -> where it is


def plain_config(config: dict[str, Any], name: str) -> tuple[dict[str, Any], bool]:
    """config.json as it is of the weights in full, and whether they are in bitsandbytes' form.

    UnsupportedError names any other method: such weights are in a form that nobody here decodes.
    """
    stated = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(stated, dict) or not stated:
        return config, False
    method = stated.get("quant_method")
    if method is None and ("load_in_8bit" in stated or "load_in_4bit" in stated):
        method = METHOD                    # as its first releases wrote it
    if method != METHOD:
        by = escape(method or "an unnamed method")
        raise UnsupportedError(f"{name}: quantization_config: a checkpoint that {by} has quantised is not supported, {METHOD} is; "
                               "convert the checkpoint from before its quantisation")
    return {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}, True


def unpacked(found: Mapping[str, SafetensorsEntry], where: Mapping[str, InputFile]) -> dict[str, Any]:
    """The tensors with bitsandbytes' statistics gone and decoding entries in place of the codes."""
    entries: dict[str, Any] = dict(found)
    for key in found:
        base, mark, kind = key.partition(STATE)
        if mark:
            parts = {part: entries.pop(f"{base}.{part}") for part in PARTS if f"{base}.{part}" in entries}
            entries.pop(key)
            entries[base] = _four_bit(base, found.get(base), where, found[key], kind, {part: (where[f"{base}.{part}"], entry)
                                                                                     for part, entry in parts.items()})
    for key in found:
        if key.endswith(".SCB"):
            base = key.removesuffix("SCB") + "weight"
            entries.pop(key)
            form = entries.pop(key.removesuffix("SCB") + "weight_format", None)
            entries[base] = _eight_bit(base, found.get(base), (where[key], found[key]), form, where)
    return entries


# -- 4 bits ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scales:
    """f32 scales of blocks: as they are, or as codes with a scale for each `block` of them, and an offset."""

    file: InputFile
    entry: SafetensorsEntry
    code: np.ndarray | None                        # f32 (256); None: not nested
    absmax: np.ndarray | None                      # f32 of the nested blocks
    block: int
    offset: np.float32

    def read(self, begin: int, end: int) -> np.ndarray:
        raw = self.stored(begin, end)
        if self.code is None or self.absmax is None:
            return raw.view("<f4").astype(np.float32)
        return self.code[raw] * self.nested(begin, end) + self.offset

    def stored(self, begin: int, end: int) -> np.ndarray:
        """Bytes: f32 scales, or the codes of nested ones."""
        item = 4 if self.code is None else 1
        return self.file.read_array(self.entry.offset + begin * item, (end - begin) * item)

    def nested(self, begin: int, end: int) -> np.ndarray:
        """Of each block the scale that its code is of."""
        assert self.absmax is not None
        return self.absmax[np.arange(begin, end) // self.block]


@dataclass(frozen=True)
class FourBitEntry:
    """A matrix of 4-bit codes; stands where a SafetensorsEntry would. Element i is in block i // block, wherever its row ends."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int                                    # in the file
    code: np.ndarray
    block: int
    scales: _Scales

    def rows(self, file: InputFile, begin: int, end: int) -> np.ndarray:
        columns = self.shape[-1]
        first, last = begin * columns, end * columns
        if first == last:
            return np.empty((0, columns * (4 if self.dtype == "F32" else 2)), dtype=np.uint8)
        packed = file.read_array(self.offset + first // 2, (last + 1) // 2 - first // 2)
        codes = np.empty(2 * packed.size, dtype=np.uint8)
        codes[0::2], codes[1::2] = packed >> 4, packed & 15
        codes = codes[first % 2 : first % 2 + last - first]
        scales = self.scales.read(first // self.block, (last - 1) // self.block + 1)
        values = self.code[codes] * scales[np.arange(first, last) // self.block - first // self.block]
        return TYPES[self.dtype.lower()].encode(values.reshape(end - begin, columns))

    def unfit(self) -> str:
        """Why its blocks are none of NF4's as ak42 has them; empty where they are."""
        if self.code is not CODES["nf4"]:
            return "FP4, whose values no type here has"
        if self.block != NF4_BLOCK:
            return f"NF4 in blocks of {self.block}, where {NF4_BLOCK} is kept"
        return f"rows that no block of {NF4_BLOCK} divides" if self.shape[-1] % NF4_BLOCK else ""

    def unfit_nested(self, first_row: int) -> str:
        """Why rows from first_row on cannot keep their nested scales; empty where they can."""
        if self.scales.code is None:
            return "scales that are not nested"
        if self.scales.block != NF4_NESTED or not np.array_equal(self.scales.code, NF4_NESTED_VALUES):
            return "scales nested in another way than bitsandbytes does by itself"
        whole = first_row * self.shape[-1] // NF4_BLOCK % NF4_NESTED == 0
        return "" if whole else "a part of a matrix whose scales are nested together"

    def blocks(self, file: InputFile, kind: str, begin: int, end: int) -> np.ndarray:
        """Rows of nf4 or nf4-dq, where they fit: the same codes and scales."""
        per_row = self.shape[-1] // NF4_BLOCK
        first, last = begin * per_row, end * per_row
        codes = file.read_array(self.offset + first * NF4_BLOCK // 2, (last - first) * NF4_BLOCK // 2)
        codes = codes.reshape(end - begin, per_row, NF4_BLOCK // 2)
        if kind == NF4_DQ:
            offset = np.full((end - begin, 1), self.scales.offset, np.float32)
            stored, nested = (part(first, last).reshape(end - begin, per_row) for part in (self.scales.stored, self.scales.nested))
            return NestedRows(codes, stored, nested, offset).to_bytes()
        absmax = np.ascontiguousarray(self.scales.read(first, last), "<f4").view(np.uint8).reshape(end - begin, per_row, 4)
        return np.concatenate((absmax, codes), axis=2).reshape(end - begin, -1)


def _four_bit(key: str, weight: SafetensorsEntry | None, where: Mapping[str, InputFile], state: SafetensorsEntry, kind: str,
              parts: _Parts) -> FourBitEntry:
    shown = escape(key)
    if weight is None:
        raise FormatError(f"{shown}: expected the codes that its quantisation state is of, found none")
    file = where[f"{key}{STATE}{kind}"]
    shown = f"{file.name}: {shown}"
    if kind not in CODES:
        raise UnsupportedError(f"{shown}: quant_type {escape(kind)} is not supported, nf4 and fp4 are")
    if state.dtype != "U8" or state.nbytes > MAX_STATE:
        raise FormatError(f"{shown}: quantisation state: expected a short text, found {state.nbytes} bytes of {state.dtype}")
    values = strict_json.load_object(file.read(state.offset, state.nbytes), f"{shown}: quantisation state")
    shape, block, dtype = values.get("shape"), values.get("blocksize"), values.get("dtype")
    if values.get("quant_type") != kind or not _is_dtype(dtype) or not _is_block(block) or not _is_shape(shape):
        raise FormatError(f"{shown}: quantisation state: expected quant_type {kind}, a shape, a blocksize from {BLOCK_SIZES[0]} to "
                          f"{BLOCK_SIZES[-1]} and a dtype of {', '.join(DTYPES)}, found something else")
    numel = math.prod(shape)
    n_bytes = (numel + 1) // 2
    if weight.nbytes != n_bytes or weight.strides is not None:
        raise FormatError(f"{shown}: expected {n_bytes} bytes of codes for {shape_text(tuple(shape))}, found {weight.nbytes}")
    _check_map(shown, "quant_map", _part(shown, parts, "quant_map", "F32", 16), CODES[kind])
    n_blocks = -(-numel // block)
    scales = _nested(shown, parts, values, n_blocks) if "nested_absmax" in parts else \
        _Scales(*_extent(shown, parts, "absmax", "F32", n_blocks), None, None, 1, np.float32(0))
    return FourBitEntry(DTYPES[dtype], tuple(shape), weight.offset, weight.nbytes, CODES[kind], block, scales)


def _nested(shown: str, parts: _Parts, values: Mapping[str, Any], n_blocks: int) -> _Scales:
    block, offset = values.get("nested_blocksize"), values.get("nested_offset")
    if not _is_block(block) or values.get("nested_dtype") != "float32" or isinstance(offset, bool) or \
            not isinstance(offset, (int, float)) or not -LARGEST_F32 <= offset <= LARGEST_F32:
        raise FormatError(f"{shown}: quantisation state: expected nested_blocksize, nested_dtype float32 and nested_offset, found "
                          "something else")
    absmax = _part(shown, parts, "nested_absmax", "F32", -(-n_blocks // block))
    return _Scales(*_extent(shown, parts, "absmax", "U8", n_blocks), _part(shown, parts, "nested_quant_map", "F32", 256), absmax,
                   block, np.float32(offset))


def _extent(shown: str, parts: _Parts, name: str, dtype: str,
            numel: int) -> tuple[InputFile, SafetensorsEntry]:
    """A statistic's place, checked to hold so many elements."""
    if name not in parts:
        raise FormatError(f"{shown}.{name}: expected {numel} elements of {dtype}, found none")
    file, entry = parts[name]
    if entry.dtype != dtype or math.prod(entry.shape) != numel or entry.strides is not None:
        raise FormatError(f"{shown}.{name}: expected {numel} elements of {dtype}, found {shape_text(entry.shape)} of {entry.dtype}")
    return file, entry


def _part(shown: str, parts: _Parts, name: str, dtype: str, numel: int) -> np.ndarray:
    file, entry = _extent(shown, parts, name, dtype, numel)
    return file.read_array(entry.offset, entry.nbytes).view("<f4").astype(np.float32)


def _check_map(shown: str, name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """bitsandbytes computes with the values that it knows, whatever the file says: the two have to agree."""
    if not np.allclose(found, expected, rtol=0, atol=1e-6):
        raise UnsupportedError(f"{shown}.{name}: a table of other values than bitsandbytes' own is not supported")


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and value in DTYPES


def _is_block(value: Any) -> bool:
    return isinstance(value, int) and value in BLOCK_SIZES


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(size, int) and not isinstance(size, bool) and
                                                               0 < size < 1 << 31 for size in value)


# -- 8 bits ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EightBitEntry:
    """LLM.int8: a byte a weight, a scale a row. The values are f32, as bitsandbytes gives them."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int                                    # in the file
    scales: np.ndarray                             # f32, one a row

    def rows(self, file: InputFile, begin: int, end: int) -> np.ndarray:
        columns = self.shape[1]
        codes = file.read_array(self.offset + begin * columns, (end - begin) * columns).view(np.int8).reshape(-1, columns)
        return TYPES["f32"].encode(codes.astype(np.float32) * self.scales[begin:end, None] * INT8_STEP)


def _eight_bit(key: str, weight: SafetensorsEntry | None, scales: tuple[InputFile, SafetensorsEntry],
               form: SafetensorsEntry | None, where: Mapping[str, InputFile]) -> EightBitEntry:
    file, entry = scales
    shown = f"{file.name}: {escape(key)}"
    if weight is None or weight.dtype != "I8" or len(weight.shape) != 2 or weight.strides is not None:
        found = "none" if weight is None else f"{shape_text(weight.shape)} of {weight.dtype}"
        raise FormatError(f"{shown}: expected a matrix of I8 beside its SCB, found {found}")
    if entry.dtype != "F32" or math.prod(entry.shape) != weight.shape[0]:
        raise FormatError(f"{file.name}: {escape(key.removesuffix('weight'))}SCB: expected {weight.shape[0]} scales of F32, found "
                          f"{shape_text(entry.shape)} of {entry.dtype}")
    if form is not None and (form.nbytes != 1 or where[key.removesuffix("weight") + "weight_format"].read(form.offset, 1) != b"\0"):
        raise UnsupportedError(f"{shown}: a weight_format other than row by row is not supported")
    values = file.read_array(entry.offset, entry.nbytes).view("<f4").astype(np.float32)
    return EightBitEntry("F32", weight.shape, weight.offset, weight.nbytes, values)
