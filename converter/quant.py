"""The weight types in numpy: their geometry, how f32 becomes their bytes, and back.

One row of `TYPES` per type; rows of a matrix are encoded on their own, so that a tensor can be streamed. The bytes of q8_0, q4_0,
q4_1, q5_0, q5_1 and mxfp4 are those of gguf-py, nf4's those of bitsandbytes, int8 is ak42 v2's; what the longer blocks mean is
blocks.py's affair. Knows nothing of files or models. Called by plan.py, the sources and the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import blocks as block_types
from .errors import UnsupportedError, UsageError

NF4_DQ = "nf4-dq"
NF4_BLOCK, NF4_NESTED = block_types.NF4_BLOCK, block_types.NF4_NESTED
BLOCK = 32                  # weights of a q8_0, q4_0 or q4_1 block
INT8_LEVELS = 127           # int8 codes are -127..127
INT8_GROUPS = (64, 32, 16, 8, 4)


@dataclass(frozen=True)
class WeightType:
    """One weight type. `block_len` weights take `block_bytes`; int8 has no fixed block, its group is the tensor's own.

    A row of nf4-dq carries what it needs of the matrix's tables: behind its blocks the nested absmax of each, then the offset, f32.
    """

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
        if self.name == NF4_DQ:
            return columns // self.block_len * (self.block_bytes + 4) + 4
        return columns // self.block_len * self.block_bytes

    def file_bytes(self, rows: int, columns: int, group_size: int = 0) -> int:
        """Bytes of a whole matrix in an ak42 file, layout 0: its rows; nf4-dq: blocks, then the offset and every nested absmax."""
        if self.name == NF4_DQ:
            n_blocks = rows * (columns // self.block_len)
            return n_blocks * self.block_bytes + 4 + 4 * -(-n_blocks // NF4_NESTED)
        return rows * self.row_bytes(columns, group_size)

    def encode(self, values: np.ndarray, group_size: int = 0) -> np.ndarray:
        """f32 (n, columns) -> uint8 (n, row_bytes). The values are finite; what does not fit the type becomes infinite.

        nf4-dq: these rows are the whole matrix, whose absmax have one mean.
        """
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


# -- types of blocks.py -------------------------------------------------------------------------------------------------------


def _encode_blocks(encode: Callable[[np.ndarray], np.ndarray], length: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda values, _group: encode(values.reshape(-1, length))


def _cannot_encode(name: str) -> Callable[[np.ndarray, int], np.ndarray]:
    def refuse(_values: np.ndarray, _group: int) -> np.ndarray:
        raise UnsupportedError(f"{name}: its encoder is in the C library: expected an encoder, found none; "
                               "use pyllama convert, or hand in pyllama.quantize.encode")
    return refuse


def _decode_blocks(name: str, size: int) -> Callable[[np.ndarray, int, int], np.ndarray]:
    return lambda rows, columns, _group: block_types.decode(name, rows.reshape(-1, size)).reshape(-1, columns)


@dataclass(frozen=True)
class NestedRows:
    """Rows of nf4-dq, taken apart."""

    codes: np.ndarray              # u8 (n, blocks, 32): two weights a byte
    absmax: np.ndarray             # u8 (n, blocks)
    nested: np.ndarray             # f32 (n, blocks): the nested absmax of each block
    offset: np.ndarray             # f32 (n, 1)

    @classmethod
    def of(cls, rows: np.ndarray, columns: int) -> NestedRows:
        n_blocks = columns // NF4_BLOCK
        packed = rows[:, :33 * n_blocks].reshape(len(rows), n_blocks, 33)
        floats = np.ascontiguousarray(rows[:, 33 * n_blocks:]).view("<f4").astype(np.float32)
        return cls(packed[:, :, 1:], packed[:, :, 0], floats[:, :-1], floats[:, -1:])

    def packed(self) -> np.ndarray:
        """The blocks alone, as files have them."""
        return np.concatenate((self.absmax[:, :, None], self.codes), axis=2).reshape(len(self.codes), -1)

    def to_bytes(self) -> np.ndarray:
        floats = np.concatenate((self.nested, self.offset), axis=1).astype("<f4").view(np.uint8)
        return np.concatenate((self.packed(), floats), axis=1)

    def absmax_f32(self) -> np.ndarray:
        return block_types.nested_absmax(self.absmax, self.nested, self.offset)

    def to_nf4(self) -> np.ndarray:
        """The same weights as rows of nf4."""
        absmax = np.ascontiguousarray(self.absmax_f32(), "<f4")[:, :, None].view(np.uint8)
        return np.concatenate((absmax, self.codes), axis=2).reshape(len(self.codes), -1)


def nest_rows(nf4_rows: np.ndarray, codes: np.ndarray, nested: np.ndarray, offset: np.float32,
              first_block: int = 0) -> np.ndarray:
    """Rows of nf4 as rows of nf4-dq, with the absmax codes of their blocks and the matrix's nested absmax; first_block counts the
    matrix's blocks before these rows."""
    n = len(nf4_rows)
    packed = nf4_rows.reshape(n, -1, 36)[:, :, 4:]
    groups = (np.arange(codes.size) + first_block) // NF4_NESTED
    return NestedRows(packed, codes.reshape(n, -1), nested[groups].reshape(n, -1), np.full((n, 1), offset, np.float32)).to_bytes()


def nf4_absmax(nf4_rows: np.ndarray) -> np.ndarray:
    """The absmax of all blocks of rows of nf4, 1-D."""
    return np.ascontiguousarray(nf4_rows.reshape(-1, 36)[:, :4]).view("<f4")[:, 0].astype(np.float32)


def _encode_nf4_dq(values: np.ndarray, _group: int) -> np.ndarray:
    rows = block_types.encode_nf4(values.reshape(-1, NF4_BLOCK)).reshape(len(values), -1)
    return nest_rows(rows, *block_types.nest_absmax(nf4_absmax(rows)))


def _decode_nf4_dq(rows: np.ndarray, columns: int, _group: int) -> np.ndarray:
    nested = NestedRows.of(rows, columns)
    values = block_types.NF4_VALUES[block_types.nf4_codes(nested.codes)]
    return (values * nested.absmax_f32()[:, :, None]).reshape(len(rows), columns)


# -- finiteness: of exponents, never of decoded weights ----------------------------------------------------------------------


def _finite_f32(words: np.ndarray) -> bool:
    return not bool(((words.view("<u4") & 0x7F800000) == 0x7F800000).any())


def _finite_f16(words: np.ndarray) -> bool:
    return not bool(((words.view("<u2") & 0x7C00) == 0x7C00).any())


def _finite_bf16(words: np.ndarray) -> bool:
    return not bool(((words.view("<u2") & 0x7F80) == 0x7F80).any())


def _finite_blocks(block_bytes: int, scale_bytes: int, at: int = 0) -> Callable[[np.ndarray, int], bool]:
    return lambda rows, _columns: _finite_f16(np.ascontiguousarray(rows.reshape(-1, block_bytes)[:, at:at + scale_bytes]))


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
    "q5_0": _Codec(_encode_blocks(block_types.encode_q5_0, 32), _decode_blocks("q5_0", 22), _finite_blocks(22, 2)),
    "q5_1": _Codec(_encode_blocks(block_types.encode_q5_1, 32), _decode_blocks("q5_1", 24), _finite_blocks(24, 4)),
    "q2_k": _Codec(_cannot_encode("q2_k"), _decode_blocks("q2_k", 84), _finite_blocks(84, 4, 80)),
    "q3_k": _Codec(_cannot_encode("q3_k"), _decode_blocks("q3_k", 110), _finite_blocks(110, 2, 108)),
    "q4_k": _Codec(_cannot_encode("q4_k"), _decode_blocks("q4_k", 144), _finite_blocks(144, 4)),
    "q5_k": _Codec(_cannot_encode("q5_k"), _decode_blocks("q5_k", 176), _finite_blocks(176, 4)),
    "q6_k": _Codec(_cannot_encode("q6_k"), _decode_blocks("q6_k", 210), _finite_blocks(210, 2, 208)),
    "iq4_nl": _Codec(_cannot_encode("iq4_nl"), _decode_blocks("iq4_nl", 18), _finite_blocks(18, 2)),
    "iq4_xs": _Codec(_cannot_encode("iq4_xs"), _decode_blocks("iq4_xs", 136), _finite_blocks(136, 2)),
    "mxfp4": _Codec(_encode_blocks(block_types.encode_mxfp4, 32), _decode_blocks("mxfp4", 17), lambda _rows, _columns: True),
    "nf4": _Codec(_encode_blocks(block_types.encode_nf4, 64), _decode_blocks("nf4", 36),
                  lambda rows, _columns: _finite_f32(np.ascontiguousarray(rows.reshape(-1, 36)[:, :4]))),
    NF4_DQ: _Codec(_encode_nf4_dq, _decode_nf4_dq,
                   lambda rows, columns: _finite_f32(np.ascontiguousarray(rows[:, columns // 64 * 33:]))),
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
    WeightType("q5_0", 6, 32, 22, True),
    WeightType("q5_1", 7, 32, 24, True),
    WeightType("q2_k", 10, 256, 84, True),
    WeightType("q3_k", 11, 256, 110, True),
    WeightType("q4_k", 12, 256, 144, True),
    WeightType("q5_k", 13, 256, 176, True),
    WeightType("q6_k", 14, 256, 210, True),
    WeightType("iq4_nl", 20, 32, 18, True),
    WeightType("iq4_xs", 23, 256, 136, True),
    WeightType("mxfp4", 39, 32, 17, True),
    WeightType("nf4", 0x1001, 64, 36, True),
    WeightType(NF4_DQ, 0x1002, 64, 33, True),
)}
BY_ID: dict[int, WeightType] = {row.id: row for row in TYPES.values()}
