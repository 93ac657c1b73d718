"""The weight types in numpy: their geometry, how f32 becomes their bytes, and back.

One row of `TYPES` per type; rows of a matrix are encoded on their own, so that a tensor can be streamed. The bytes of q8_0, q4_0
and q4_1 are those of gguf-py, int8 is ak42 v2's. Knows nothing of files or models. Called by plan.py, the sources and the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import UsageError

BLOCK = 32                  # weights of a q8_0, q4_0 or q4_1 block
INT8_LEVELS = 127           # int8 codes are -127..127
INT8_GROUPS = (64, 32, 16, 8, 4)


@dataclass(frozen=True)
class WeightType:
    """One weight type. `block_len` weights take `block_bytes`; int8 has no fixed block, its group is the tensor's own."""

    name: str
    id: int
    block_len: int
    block_bytes: int
    quantised: bool

    def divides(self, columns: int, group_size: int = 0) -> bool:
        """Whether whole blocks (int8: groups) fill a row of `columns` weights."""
        if self.name == "int8":
            return group_size > 0 and columns % group_size == 0
        return columns % self.block_len == 0

    def row_bytes(self, columns: int, group_size: int = 0) -> int:
        """Bytes of a row: whole blocks; int8: `columns` codes, then columns/group_size f32 scales."""
        if not self.divides(columns, group_size):
            block = group_size if self.name == "int8" else self.block_len
            raise UsageError(f"{self.name}: a row of {columns} weights is not a multiple of its block of {block}")
        if self.name == "int8":
            return columns + columns // group_size * 4
        return columns // self.block_len * self.block_bytes

    def encode(self, values: np.ndarray, group_size: int = 0) -> np.ndarray:
        """f32 (n, columns) -> uint8 (n, row_bytes). The values are finite; what does not fit the type becomes infinite."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        n_rows, columns = values.shape
        size = self.row_bytes(columns, group_size)
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            return np.ascontiguousarray(_CODECS[self.name].encode(values, group_size)).reshape(n_rows, size)

    def decode(self, rows: np.ndarray, columns: int, group_size: int = 0) -> np.ndarray:
        """uint8 (n, row_bytes) -> f32 (n, columns)."""
        size = self.row_bytes(columns, group_size)
        rows = np.ascontiguousarray(rows, dtype=np.uint8).reshape(-1, size)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return _CODECS[self.name].decode(rows, columns, group_size)

    def all_finite(self, rows: np.ndarray, columns: int, group_size: int = 0) -> bool:
        """Whether encoded rows hold finite numbers only; looks at scales, not at weights, where there are scales."""
        rows = np.ascontiguousarray(rows, dtype=np.uint8).reshape(-1, self.row_bytes(columns, group_size))
        return _CODECS[self.name].all_finite(rows, columns)


def group_size_for(row_lengths: tuple[int, ...]) -> int:
    """The group of an int8 model: the largest power of two from 64 down to 4 that divides every row length; 0 where none does."""
    return next((group for group in INT8_GROUPS if all(length % group == 0 for length in row_lengths)), 0)


# -- f32, f16, bf16 ----------------------------------------------------------------------------------------------------------


def _encode_f32(values: np.ndarray, _group: int) -> np.ndarray:
    return values.astype("<f4", copy=False).view(np.uint8)


def _decode_f32(rows: np.ndarray, _columns: int, _group: int) -> np.ndarray:
    return rows.view("<f4").astype(np.float32)


def _encode_f16(values: np.ndarray, _group: int) -> np.ndarray:
    return values.astype("<f2").view(np.uint8)


def _decode_f16(rows: np.ndarray, _columns: int, _group: int) -> np.ndarray:
    return rows.view("<f2").astype(np.float32)


def _encode_bf16(values: np.ndarray, _group: int) -> np.ndarray:
    """The upper half of the f32, rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    upper = bits >> 16
    upper += ((bits & 0xFFFF) + (upper & 1) > 0x8000).astype(np.uint32)
    return upper.astype("<u2").view(np.uint8)


def _decode_bf16(rows: np.ndarray, _columns: int, _group: int) -> np.ndarray:
    return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)


# -- blocks of 32 with f16 scales: d is the step between two codes, m the least weight -----------------------------------------


def _round_half_away(values: np.ndarray) -> np.ndarray:
    magnitude = np.abs(values)
    whole = np.floor(magnitude)
    whole += magnitude - whole >= 0.5
    return np.copysign(whole, values)


def _reciprocal(steps: np.ndarray) -> np.ndarray:
    """1/d in f32; 0 where d is 0, or so small that 1/d is no number (its f16 scale is 0 anyway)."""
    inverse = np.float32(1) / steps
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _blocks(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, BLOCK)


def _pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """(n, 32) codes 0..15 -> (n, 16): the first half of a block in the low nibbles, the second in the high ones."""
    return codes[:, : BLOCK // 2] | codes[:, BLOCK // 2 :] << 4


def _unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _as_scale(steps: np.ndarray) -> np.ndarray:
    return steps.astype("<f2").view(np.uint8)


def _scale(blocks: np.ndarray, offset: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def _encode_q8_0(values: np.ndarray, _group: int) -> np.ndarray:
    blocks = _blocks(values)
    step = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    codes = _round_half_away(blocks * _reciprocal(step)).astype(np.int8)
    return np.concatenate([_as_scale(step), codes.view(np.uint8)], axis=1)


def _decode_q8_0(rows: np.ndarray, columns: int, _group: int) -> np.ndarray:
    blocks = rows.reshape(-1, 34)
    codes = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    return (codes * _scale(blocks, 0)).reshape(-1, columns)


def _encode_q4_0(values: np.ndarray, _group: int) -> np.ndarray:
    """The weight of the largest magnitude becomes code 0 (-8 steps), so its sign decides the step's."""
    blocks = _blocks(values)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    step = extreme / np.float32(-8)
    codes = np.trunc(blocks * _reciprocal(step) + np.float32(8.5))
    return np.concatenate([_as_scale(step), _pack_nibbles(np.minimum(codes, 15).astype(np.uint8))], axis=1)


def _decode_q4_0(rows: np.ndarray, columns: int, _group: int) -> np.ndarray:
    blocks = rows.reshape(-1, 18)
    codes = _unpack_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8)
    return (_scale(blocks, 0) * codes).reshape(-1, columns)


def _encode_q4_1(values: np.ndarray, _group: int) -> np.ndarray:
    blocks = _blocks(values)
    least = blocks.min(axis=1, keepdims=True)
    step = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
    codes = np.trunc((blocks - least) * _reciprocal(step) + np.float32(0.5))
    packed = _pack_nibbles(np.minimum(codes, 15).astype(np.uint8))
    return np.concatenate([_as_scale(step), _as_scale(least), packed], axis=1)


def _decode_q4_1(rows: np.ndarray, columns: int, _group: int) -> np.ndarray:
    blocks = rows.reshape(-1, 20)
    codes = _unpack_nibbles(blocks[:, 4:]).astype(np.float32)
    return (_scale(blocks, 0) * codes + _scale(blocks, 2)).reshape(-1, columns)


# -- int8: groups of a row with f32 scales, codes first ----------------------------------------------------------------------


def _encode_int8(values: np.ndarray, group: int) -> np.ndarray:
    """s = max|w| / 127, q = round-half-to-even(w / s); an all-zero group has s = 0 and q = 0."""
    n_rows, columns = values.shape
    groups = values.reshape(n_rows, columns // group, group)
    scales = np.abs(groups).max(axis=2, keepdims=True) / np.float32(INT8_LEVELS)
    codes = np.rint(groups / np.where(scales > 0, scales, np.float32(1)))
    codes = np.clip(codes, -INT8_LEVELS, INT8_LEVELS).astype(np.int8)       # a denormal scale can round the quotient past 127
    return np.concatenate([codes.reshape(n_rows, columns).view(np.uint8),
                           scales.reshape(n_rows, -1).astype("<f4", copy=False).view(np.uint8)], axis=1)


def _decode_int8(rows: np.ndarray, columns: int, group: int) -> np.ndarray:
    codes = np.ascontiguousarray(rows[:, :columns]).view(np.int8).astype(np.float32)
    scales = np.ascontiguousarray(rows[:, columns:]).view("<f4").astype(np.float32)
    return (codes.reshape(len(rows), -1, group) * scales[:, :, None]).reshape(len(rows), columns)


# -- finiteness: of exponents, never of decoded weights ----------------------------------------------------------------------


def _finite_f32(words: np.ndarray) -> bool:
    return not bool(((words.view("<u4") & 0x7F800000) == 0x7F800000).any())


def _finite_f16(words: np.ndarray) -> bool:
    return not bool(((words.view("<u2") & 0x7C00) == 0x7C00).any())


def _finite_bf16(words: np.ndarray) -> bool:
    return not bool(((words.view("<u2") & 0x7F80) == 0x7F80).any())


def _finite_blocks(block_bytes: int, scale_bytes: int) -> Callable[[np.ndarray, int], bool]:
    return lambda rows, _columns: _finite_f16(np.ascontiguousarray(rows.reshape(-1, block_bytes)[:, :scale_bytes]))


@dataclass(frozen=True)
class _Codec:
    encode: Callable[[np.ndarray, int], np.ndarray]
    decode: Callable[[np.ndarray, int, int], np.ndarray]
    all_finite: Callable[[np.ndarray, int], bool]


_CODECS = {
    "f32": _Codec(_encode_f32, _decode_f32, lambda rows, _columns: _finite_f32(rows)),
    "f16": _Codec(_encode_f16, _decode_f16, lambda rows, _columns: _finite_f16(rows)),
    "bf16": _Codec(_encode_bf16, _decode_bf16, lambda rows, _columns: _finite_bf16(rows)),
    "int8": _Codec(_encode_int8, _decode_int8,
                   lambda rows, columns: _finite_f32(np.ascontiguousarray(rows[:, columns:]))),
    "q8_0": _Codec(_encode_q8_0, _decode_q8_0, _finite_blocks(34, 2)),
    "q4_0": _Codec(_encode_q4_0, _decode_q4_0, _finite_blocks(18, 2)),
    "q4_1": _Codec(_encode_q4_1, _decode_q4_1, _finite_blocks(20, 4)),
}

# Ids are GGUF's; from 0x1000 on they are ak42's own.
TYPES: dict[str, WeightType] = {row.name: row for row in (
    WeightType("f32", 0, 1, 4, False),
    WeightType("f16", 1, 1, 2, False),
    WeightType("bf16", 30, 1, 2, False),
    WeightType("int8", 0x1000, 1, 1, True),
    WeightType("q8_0", 8, 32, 34, True),
    WeightType("q4_0", 2, 32, 18, True),
    WeightType("q4_1", 3, 32, 20, True),
)}
BY_ID: dict[int, WeightType] = {row.id: row for row in TYPES.values()}
