"""crc32c (Castagnoli; crc32c(b"123456789") is 0xE3069283) of bytes and arrays, in numpy at memory-like speed.

The ak42 writer and reader check their sections with it. A caller with a faster one (the C library's) may hand that in instead.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78                          # reflected
# 1 + x^426 + x^1362 + x^5685 is a multiple of the polynomial, and so is its 64th power, whose exponents are 64 times these.
# Hence a 64-bit word may be xored into the words that stand 5685 - 1362, 5685 - 426 and 5685 words later, and dropped.
_FOLD = (5685 - 1362, 5685 - 426, 5685)
_PIECE = 1 << 22                                  # bytes folded at a time: the copy stays in the cache


def crc32c(data, value: int = 0) -> int:
    """The checksum of data (bytes, memoryview or contiguous array); value continues an earlier one."""
    view = memoryview(data)
    if not view.nbytes:
        return value
    view = view.cast("B")
    for begin in range(0, len(view), _PIECE):
        value = _piece(view[begin:begin + _PIECE], value)
    return value


def _piece(view: memoryview, value: int) -> int:
    state = value ^ 0xFFFFFFFF
    if len(view) < 64:
        table = _byte_table()
        for byte in view:
            state = int(table[(state ^ byte) & 255]) ^ state >> 8
        return state ^ 0xFFFFFFFF
    gap = -len(view) % 8                          # zeros in front change nothing
    words = np.zeros((gap + len(view)) // 8, dtype="<u8")
    octets = words.view(np.uint8)
    octets[gap:] = np.frombuffer(view, dtype=np.uint8)
    octets[gap:gap + 4] ^= np.frombuffer(state.to_bytes(4, "little"), dtype=np.uint8)
    rest = _folded(words).view("<u4")
    return int(_advance(_tree(rest), 0)[0]) ^ 0xFFFFFFFF


def _folded(words: np.ndarray) -> np.ndarray:
    """The last words of an array, changed so that they have the whole array's remainder."""
    near, _, far = _FOLD
    begin, end = 0, len(words)
    while end - begin > far:
        n = min(near, end - begin - far)
        head = words[begin:begin + n]
        for distance in _FOLD:
            words[begin + distance:begin + distance + n] ^= head
        begin += n
    return words[begin:]


def _tree(values: np.ndarray) -> np.ndarray:
    """(n,) 32-bit words -> (1,): their remainder; neighbours are joined, level by level."""
    level = 0
    while len(values) > 1:
        if len(values) % 2:
            values = np.concatenate((np.zeros(1, dtype="<u4"), values))
        values = _advance(values[0::2], level) ^ values[1::2]
        level += 1
    return values


def _advance(values: np.ndarray, level: int) -> np.ndarray:
    """Each remainder, moved 32 * 2^level bits on."""
    table = _shift_table(level)
    out = table[0][values & 255]
    for i in (1, 2, 3):
        out ^= table[i][values >> (8 * i) & 255]
    return out


@cache
def _byte_table() -> np.ndarray:
    """(256,): what a byte leaves after 8 bits."""
    table = np.arange(256, dtype="<u4")
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@cache
def _shift_table(level: int) -> np.ndarray:
    """(4, 256): what each byte of a remainder becomes after 32 * 2^level bits."""
    places = np.arange(256, dtype="<u4") << np.arange(0, 32, 8, dtype="<u4")[:, None]
    if level:
        return _advance(_advance(places.reshape(-1), level - 1), level - 1).reshape(4, 256)
    values = places
    for _ in range(4):
        values = _byte_table()[values & 255] ^ values >> 8
    return values
