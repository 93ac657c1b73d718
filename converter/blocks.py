"""What the bytes of the block types beyond q8_0, q4_0 and q4_1 mean, in numpy: q5_0, q5_1, the K types, iq4_nl, iq4_xs, mxfp4, nf4.

A block comes apart into small whole codes, scales and mins, weight = scale * code + min, bit for bit as gguf-py decodes it; nf4 is
a lookup times its absmax, as in bitsandbytes. Knows nothing of rows or files. Called by quant.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)         # twice the value
NF4_VALUES = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)
NF4_BLOCK = 64
NF4_NESTED = 256                   # blocks that share a nested absmax
SHORT, LONG = 32, 256              # weights of a block

Parts = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]       # codes (n, length), scales (n, groups), mins (n, groups)


def decode(name: str, blocks: np.ndarray) -> np.ndarray:
    """uint8 (n, block_bytes) -> f32 (n, block_len)."""
    if name == "nf4":
        return _decode_nf4(blocks)
    codes, scales, mins = SPLITS[name](blocks)
    grouped = codes.astype(np.float32).reshape(*scales.shape, -1)
    values = scales[:, :, None] * grouped
    if mins is not None:
        values = values + mins[:, :, None]
    return values.reshape(codes.shape)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The f16 at byte `at` of each block, as f32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, at:at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray, size: int) -> np.ndarray:
    """Low nibbles of `size` bytes, then their high ones, and so on."""
    groups = packed.reshape(len(packed), -1, size)
    return np.stack((groups & 15, groups >> 4), axis=2).reshape(len(packed), -1)


def _fifth_bits(packed: np.ndarray) -> np.ndarray:
    """u32 of 32 bits, the lowest first, as 0 or 16."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little") << 4


def _split_q5_0(blocks: np.ndarray) -> Parts:
    codes = (_nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])).astype(np.int8) - np.int8(16)
    return codes, _half(blocks, 0), None


def _split_q5_1(blocks: np.ndarray) -> Parts:
    return _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8]), _half(blocks, 0), _half(blocks, 2)


def _split_iq4_nl(blocks: np.ndarray) -> Parts:
    return IQ4_VALUES[_nibbles(blocks[:, 2:], 16)], _half(blocks, 0), None


def _split_mxfp4(blocks: np.ndarray) -> Parts:
    return MXFP4_VALUES[_nibbles(blocks[:, 1:], 16)], e8m0_half(blocks[:, :1]), None


def e8m0_half(exponents: np.ndarray) -> np.ndarray:
    """2^(e - 128): the power, and the half that the doubled values want."""
    wide = exponents.astype(np.uint32)
    bits = np.where(wide < 2, np.uint32(0x00200000) << wide, (np.maximum(wide, 1) - 1) << np.uint32(23))
    return bits.astype(np.uint32).view(np.float32)


def _split_iq4_xs(blocks: np.ndarray) -> Parts:
    low = _nibbles(blocks[:, 4:8], 1)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> (2 * np.arange(8, dtype=np.uint16)) & 3
    scales = _half(blocks, 0) * ((low | high.astype(np.uint8) << 4).astype(np.float32) - np.float32(32))
    return IQ4_VALUES[_nibbles(blocks[:, 8:], 16)], scales, None


def _quarters(packed: np.ndarray, half_bytes: int) -> np.ndarray:
    """Bits 0-1 of `half_bytes` bytes, then their bits 2-3, 4-5, 6-7, and so on."""
    halves = packed.reshape(len(packed), -1, 1, half_bytes)
    return (halves >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(len(packed), -1)


def _high_bits(packed: np.ndarray) -> np.ndarray:
    """Bit 0 of 32 bytes, then bit 1, ..: (n, 256) of 0 or 1."""
    return (packed[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(len(packed), LONG)


def _split_q2_k(blocks: np.ndarray) -> Parts:
    scales = _half(blocks, 80) * (blocks[:, :16] & 15).astype(np.float32)
    mins = _half(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    return _quarters(blocks[:, 16:80], 32), scales, -mins


def _split_q3_k(blocks: np.ndarray) -> Parts:
    packed = blocks[:, 96:108]
    low = np.concatenate((packed[:, :8] & 15, packed[:, :8] >> 4), axis=1)
    high = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(len(blocks), 16)
    scales = _half(blocks, 108) * ((low | high << 4).astype(np.float32) - np.float32(32))
    codes = (_quarters(blocks[:, 32:96], 32) | _high_bits(blocks[:, :32]) << 2).astype(np.int8) - np.int8(4)
    return codes, scales, None


def _split_q4_k(blocks: np.ndarray) -> Parts:
    return _nibbles(blocks[:, 16:], 32), *_scales_and_mins(blocks)


def _split_q5_k(blocks: np.ndarray) -> Parts:
    return _nibbles(blocks[:, 48:], 32) | _high_bits(blocks[:, 16:48]) << 4, *_scales_and_mins(blocks)


def _scales_and_mins(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """12 bytes behind d and dmin: 6 bits for each of 8 scales and 8 mins."""
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate((a & 63, c & 15 | a >> 2 & 0x30), axis=1)
    mins = np.concatenate((b & 63, c >> 4 | b >> 2 & 0x30), axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), -(_half(blocks, 2) * mins.astype(np.float32))


def _split_q6_k(blocks: np.ndarray) -> Parts:
    scales = _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    codes = (_nibbles(blocks[:, :128], 64) | _quarters(blocks[:, 128:192], 32) << 4).astype(np.int8) - np.int8(32)
    return codes, scales, None


SPLITS: dict[str, Callable[[np.ndarray], Parts]] = {
    "q5_0": _split_q5_0, "q5_1": _split_q5_1, "q2_k": _split_q2_k, "q3_k": _split_q3_k, "q4_k": _split_q4_k, "q5_k": _split_q5_k,
    "q6_k": _split_q6_k, "iq4_nl": _split_iq4_nl, "iq4_xs": _split_iq4_xs, "mxfp4": _split_mxfp4,
}


# -- nf4 ---------------------------------------------------------------------------------------------------------------------


def nf4_codes(packed: np.ndarray) -> np.ndarray:
    """(n, 32) bytes -> (n, 64) codes: the first of two weights is the high nibble."""
    return np.stack((packed >> 4, packed & 15), axis=-1).reshape(*packed.shape[:-1], -1)


def _decode_nf4(blocks: np.ndarray) -> np.ndarray:
    absmax = np.ascontiguousarray(blocks[:, :4]).view("<f4").astype(np.float32)
    return NF4_VALUES[nf4_codes(blocks[:, 4:])] * absmax


def _nested_values() -> np.ndarray:
    """bitsandbytes' signed dynamic map of 8 bits: in each decade from 1e-6 to 1 the middles of 1, 2, 4 .. 64 equal steps, both
    signs; and 0 and 1. The ends of steps are counted from the nearer end and rounded once, as torch.linspace does."""
    values = [0.0, 1.0]
    for i in range(7):
        n = 2 ** i
        step = float((np.float32(1) - np.float32(0.1)) / np.float32(n))
        at = np.arange(n + 1)
        ends = np.where(at < (n + 1) // 2, float(np.float32(0.1)) + step * at, 1 - step * (n - at)).astype(np.float32)
        middles = (ends[:-1] + ends[1:]) / np.float32(2)
        scaled = (np.float32(10.0 ** (i - 6)) * middles).astype(np.float32)
        values += [*scaled.tolist(), *(-scaled).tolist()]
    return np.sort(np.array(values, np.float32))


NF4_NESTED_VALUES = _nested_values()


# -- encoding ----------------------------------------------------------------------------------------------------------------


def _reciprocal(steps: np.ndarray) -> np.ndarray:
    inverse = np.float32(1) / steps
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _codes_5(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32) codes 0..31 -> the 4 bytes of their fifth bits, the 16 of their nibbles."""
    return np.packbits(codes >> 4, axis=1, bitorder="little"), codes[:, :16] & 15 | codes[:, 16:] << 4


def encode_q5_0(blocks: np.ndarray) -> np.ndarray:
    """As q4_0: the weight of the largest magnitude becomes code 0, -16 steps."""
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    step = extreme / np.float32(-16)
    codes = np.trunc(blocks * _reciprocal(step) + np.float32(16.5))
    return np.concatenate([step.astype("<f2").view(np.uint8), *_codes_5(np.minimum(codes, 31).astype(np.uint8))], axis=1)


def encode_q5_1(blocks: np.ndarray) -> np.ndarray:
    least = blocks.min(axis=1, keepdims=True)
    step = (blocks.max(axis=1, keepdims=True) - least) / np.float32(31)
    codes = np.trunc((blocks - least) * _reciprocal(step) + np.float32(0.5))
    halves = [step.astype("<f2").view(np.uint8), least.astype("<f2").view(np.uint8)]
    return np.concatenate([*halves, *_codes_5(np.minimum(codes, 31).astype(np.uint8))], axis=1)


def encode_mxfp4(blocks: np.ndarray) -> np.ndarray:
    """The exponent of the largest magnitude less 2; of equally near values the first."""
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        exponent = np.where(largest > 0, np.floor(np.log2(largest)) - 2 + 127, 0).clip(0, 254).astype(np.uint8)
    errors = np.abs(e8m0_half(exponent)[:, :, None] * MXFP4_VALUES.astype(np.float32) - blocks[:, :, None])
    codes = errors.argmin(axis=2).astype(np.uint8)
    return np.concatenate([exponent, codes[:, :16] | codes[:, 16:] << 4], axis=1)


_NF4_BOUNDS = (NF4_VALUES[:-1] + NF4_VALUES[1:]) / np.float32(2)

# bitsandbytes' 8-bit codes on a CPU: of 65536 equal steps from -1 to 1 each has its nearest value, and a number takes its step's.
_NESTED_STEPS = np.searchsorted((NF4_NESTED_VALUES[:-1] + NF4_NESTED_VALUES[1:]) / np.float32(2),
                                (np.arange(65536) * (2 / 65535) - 1).astype(np.float32)).astype(np.uint8)


def _scaled(values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """values / largest, as bitsandbytes rounds it."""
    return np.clip(values * (np.float32(1) / np.maximum(largest, np.float32(1e-38))), np.float32(-1), np.float32(1))


def encode_nf4(blocks: np.ndarray) -> np.ndarray:
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    codes = np.searchsorted(_NF4_BOUNDS, _scaled(blocks, largest), side="left").astype(np.uint8)       # on a bound the lower
    return np.concatenate([largest.astype("<f4").view(np.uint8), codes[:, ::2] << 4 | codes[:, 1::2]], axis=1)


def nest_absmax(absmax: np.ndarray, offset: np.float32 | None = None) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """The absmax of a whole matrix, f32, 1-D -> u8 codes, the nested absmax of every 256, the offset (their mean unless given)."""
    if offset is None:
        offset = np.float32(absmax.mean(dtype=np.float64))
    centred = absmax - offset
    nested = np.array([np.abs(centred[at:at + NF4_NESTED]).max() for at in range(0, len(centred), NF4_NESTED)], np.float32)
    scaled = _scaled(centred, np.repeat(nested, NF4_NESTED)[:len(centred)])
    steps = (scaled + np.float32(1)) * np.float32(32767.5) + np.float32(0.5)
    return _NESTED_STEPS[np.minimum(steps.astype(np.int64), 65535)], nested, offset


def nested_absmax(codes: np.ndarray, nested: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """u8 codes and the nested absmax of each -> the blocks' absmax."""
    return NF4_NESTED_VALUES[codes] * nested + offset
